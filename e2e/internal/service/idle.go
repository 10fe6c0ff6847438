package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/http2"
)

// Kinds are the kinds of connections.
var Kinds = []string{"HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2", "HTTP/2 over TLS", "WebSocket", "WebSocket over TLS"}

// idle is a connection on which nothing happens unless it is asked.
type idle struct {
	ask   func() error
	close func()
}

// Idle are connections that were used. The service has to have the file 100.bin, and to echo at /ws.
type Idle struct {
	mu  sync.Mutex
	all []idle
}

// Grow opens n connections of a kind, and uses each twice: the second request of HTTP/2 shows that the client obeys the
// settings, which the first may precede.
func (h *Idle) Grow(t *testing.T, b *Baton, over Over, kind string, n int) {
	t.Helper()
	t.Cleanup(h.Close)
	protocol, secure := strings.CutSuffix(kind, " over TLS")
	address, config := b.Address, (*tls.Config)(nil)
	if secure {
		address, config = b.Secure(), over.Config
	}
	await.InParallel(t, n, func(int) error {
		c, err := dialIdle(protocol, address, config)
		if err != nil {
			return err
		}
		h.mu.Lock()
		h.all = append(h.all, c)
		h.mu.Unlock()
		return errors.Join(c.ask(), c.ask())
	})
}

// Len is how many there are.
func (h *Idle) Len() int { return len(h.all) }

// Ask uses each connection once more.
func (h *Idle) Ask(t *testing.T) {
	t.Helper()
	await.InParallel(t, len(h.all), func(i int) error { return h.all[i].ask() })
}

// Close closes all of them.
func (h *Idle) Close() {
	for _, c := range h.all {
		c.close()
	}
	h.all = nil
}

func dialIdle(protocol, address string, config *tls.Config) (idle, error) {
	switch protocol {
	case "HTTP/1.1":
		return idleHTTP1(address, config)
	case "HTTP/2":
		c, err := http2.Dial("tcp", address, await.Hang, config)
		if err != nil {
			return idle{}, err
		}
		x := exchange.New("GET", "/100.bin", nil, 200, nil)
		return idle{func() error {
			s, err := c.Ask(&x, await.Hang)
			if err == nil && (s.Lost != nil || s.Status != 200) {
				err = fmt.Errorf("got %d, %+v", s.Status, s.Lost)
			}
			return err
		}, c.Leave}, nil
	default:
		return idleSocket(address, config)
	}
}

func idleHTTP1(address string, config *tls.Config) (idle, error) {
	var c *http1.Conn
	var err error
	if config == nil {
		c, err = http1.Dial("tcp", address, await.Hang)
	} else {
		c, err = http1.DialTLS("tcp", address, await.Hang, config)
	}
	if err != nil {
		return idle{}, err
	}
	return idle{func() error { return http1.Ask(c) }, func() { c.Close() }}, nil
}

func idleSocket(address string, config *tls.Config) (idle, error) {
	scheme := "ws"
	if config != nil {
		scheme = "wss"
	}
	ctx, cancel := context.WithTimeout(context.Background(), await.Hang)
	defer cancel()
	c, _, err := websocket.Dial(ctx, scheme+"://"+address+"/ws", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: config}}})
	if err != nil {
		return idle{}, err
	}
	return idle{func() error {
		ctx, cancel := context.WithTimeout(context.Background(), await.Hang)
		defer cancel()
		if err := c.Write(ctx, websocket.MessageText, []byte("message")); err != nil {
			return err
		}
		_, heard, err := c.Read(ctx)
		if err == nil && string(heard) != "message" {
			err = fmt.Errorf("got %q back", heard)
		}
		return err
	}, func() { c.CloseNow() }}, nil
}
