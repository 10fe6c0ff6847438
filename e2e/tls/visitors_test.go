package tls

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/http1"
)

// Services for TLS and their visitors: a client that connects, makes its handshake, asks once, and tells what it was given.

// trustingHTTP1 is what a client needs that trusts these certificates and speaks HTTP/1.1.
func trustingHTTP1(t testing.TB, certFiles ...string) *tls.Config {
	t.Helper()
	return certificate.Trusting(t, certFiles, "http/1.1")
}

// overSocket makes the handshake on a connection, which it closes if that fails.
func overSocket(nc net.Conn, config *tls.Config) (*http1.Conn, *tls.Conn, error) {
	nc.SetDeadline(time.Now().Add(time.Minute))
	secure := tls.Client(nc, config)
	if err := secure.Handshake(); err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("handshake: %w", err)
	}
	return http1.NewConn(secure), secure, nil
}

// mustConnect is a connection over TLS on which one request was answered, and that is kept.
func mustConnect(t testing.TB, address string, config *tls.Config) *http1.Conn {
	t.Helper()
	c := mustHandshake(t, address, config)
	if err := http1.Ask(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func mustHandshake(t testing.TB, address string, config *tls.Config) *http1.Conn {
	t.Helper()
	c, _, err := overSocket(http1.MustDial(t, "tcp", address).Conn, config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leave makes the last request of a connection.
func leave(c *http1.Conn) error {
	if _, err := c.Write(http1.Request("GET", "/100.bin", nil, "Connection: close")); err != nil {
		return err
	}
	var resp http1.Response
	if err := c.Receive("GET", &resp); err != nil {
		return err
	}
	if resp.Status != 200 || len(resp.Body) != 100 {
		return fmt.Errorf("got status %d, %d bytes, want 200, 100", resp.Status, len(resp.Body))
	}
	return nil
}

// visit connects, asks once, and tells what the handshake came to.
func visit(address string, config *tls.Config) (state tls.ConnectionState, err error) {
	nc, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return state, err
	}
	c, secure, err := overSocket(nc, config)
	if err != nil {
		return state, err
	}
	defer c.Close()
	return secure.ConnectionState(), leave(c)
}

// handshakes counts what comes of the visits of some clients that come again and again, each time as strangers.
type handshakes struct {
	done, failed atomic.Int64
	first        atomic.Pointer[error] // the first failure

	stop chan struct{}
	wg   sync.WaitGroup
}

// keepVisiting has a client visit for each configuration. seen, which may be nil, is called for each handshake.
func keepVisiting(address string, configs []*tls.Config, seen func(client int, state tls.ConnectionState) error) *handshakes {
	h := &handshakes{stop: make(chan struct{})}
	for i, config := range configs {
		h.wg.Go(func() {
			for {
				select {
				case <-h.stop:
					return
				default:
				}
				state, err := visit(address, config)
				if err == nil && seen != nil {
					err = seen(i, state)
				}
				if err != nil {
					err = fmt.Errorf("client %d: %w", i, err)
					h.failed.Add(1)
					h.first.CompareAndSwap(nil, &err)
				}
				h.done.Add(1)
				time.Sleep(50 * time.Millisecond) // or the load takes all of the machine
			}
		})
	}
	return h
}

// end fails the test if a handshake has failed.
func (h *handshakes) end(t *testing.T) {
	t.Helper()
	close(h.stop)
	h.wg.Wait()
	t.Logf("%d visits over TLS, %d failed", h.done.Load(), h.failed.Load())
	if err := h.first.Load(); err != nil {
		t.Errorf("%d of %d visits over TLS failed, want none; the first: %v", h.failed.Load(), h.done.Load(), *err)
	}
	if h.done.Load() == 0 {
		t.Error("no visits")
	}
}
