// Services for TLS and their visitors: a client that connects, makes its handshake, asks once, and tells what it was given.
package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// overTLS has a plaintext listener, and one for TLS with a certificate that is made for it.
func overTLS(certFile, keyFile string) option {
	return func(s *setup) {
		s.listen = []string{"HOST:PORT", "tls:HOST:PORT"}
		s.args = append(s.args, "-tls-cert", certFile, "-tls-key", keyFile)
	}
}

// secure returns the address of the first listener for TLS.
func (b *Baton) secure() string {
	b.t.Helper()
	for _, listen := range b.setup.listen {
		if address, ok := strings.CutPrefix(listen, "tls:"); ok {
			return address
		}
	}
	b.t.Fatal("no listener for TLS")
	return ""
}

// trustingHTTP1 is what a client needs that trusts these certificates and speaks HTTP/1.1.
func trustingHTTP1(t testing.TB, certFiles ...string) *tls.Config {
	t.Helper()
	return trusting(t, certFiles, "http/1.1")
}

// overSocket makes the handshake on a connection, which it closes if that fails.
func overSocket(nc net.Conn, config *tls.Config) (*conn, *tls.Conn, error) {
	nc.SetDeadline(time.Now().Add(time.Minute))
	secure := tls.Client(nc, config)
	if err := secure.Handshake(); err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("handshake: %w", err)
	}
	return newConn(secure), secure, nil
}

// mustConnect is a connection over TLS on which one request was answered, and that is kept.
func mustConnect(t testing.TB, address string, config *tls.Config) *conn {
	t.Helper()
	c := mustHandshake(t, address, config)
	if err := ask(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func mustHandshake(t testing.TB, address string, config *tls.Config) *conn {
	t.Helper()
	c, _, err := overSocket(mustDial(t, "tcp", address).Conn, config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leave makes the last request of a connection.
func (c *conn) leave() error {
	if _, err := c.Write(request("GET", "/100.bin", nil, "Connection: close")); err != nil {
		return err
	}
	var resp response
	if err := c.receive("GET", &resp); err != nil {
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
	return secure.ConnectionState(), c.leave()
}

// handshakes counts what comes of the visits of some clients that come again and again, each time as strangers.
type handshakes struct {
	done, failed atomic.Int64
	first        atomic.Pointer[error] // the first failure

	stop chan struct{}
	wg   sync.WaitGroup
}

// keepVisiting has a client visit for each configuration. seen, which may be nil, is told of each handshake.
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
				time.Sleep(5 * time.Millisecond) // or the load takes all of the machine
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
