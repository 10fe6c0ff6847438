package server_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

// endWith lets a server drain when the test ends.
func endWith(t *testing.T, s *served) *served {
	t.Cleanup(func() { <-s.drain(patience, none) })
	return s
}

const stalledBody = 32 << 20 // more than any buffer takes

// stalling answers with a body that no client reads.
func stalling(t *testing.T) (handler http.Handler, ended chan struct{}) {
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, stalledBody); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{}, 100)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		switch r.URL.Path {
		case "/file":
			http.ServeFile(w, r, file)
		case "/chunks":
			for range stalledBody / 32768 {
				if _, err := w.Write(make([]byte, 32768)); err != nil {
					return
				}
			}
		case "/copy":
			io.Copy(w, io.LimitReader(struct{ io.Reader }{zeros{}}, stalledBody))
		case "/hijacked":
			nc, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				io.Copy(nc, io.LimitReader(zeros{}, stalledBody))
				nc.Close()
			}
		default:
			io.WriteString(w, "hello")
		}
	}), ended
}

func initialWindow(size uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: size}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestClientsThatNeverReadAreClosed(t *testing.T) {
	for _, path := range []string{"/file", "/chunks", "/copy", "/hijacked"} {
		for _, kind := range []string{"plain", "TLS"} {
			t.Run(kind+path, func(t *testing.T) {
				t.Parallel()
				handler, ended := stalling(t)
				opts := server.Options{Handler: handler, WriteTimeout: 300 * time.Millisecond}
				var s *served
				var c *client
				if kind == "TLS" {
					secure := serveTLS(t, opts)
					endWith(t, secure.served)
					s, c = secure.served, secure.dialTLS("http/1.1")
				} else {
					s = endWith(t, serve(t, opts))
					c = s.dial()
				}
				c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
				<-ended
				await(t, "the end of the connection", func() bool { return s.Load().Connections == (upgrade.Connections{}) })
				if closed := s.Closed(); closed[server.TimedOut] != 1 {
					t.Errorf("got %v, want one that timed out", closed)
				}
			})
		}
	}
}

// One that reads slowly is never closed, whatever it takes in all.
func TestSlowReadersAreServed(t *testing.T) {
	for _, path := range []string{"/file", "/chunks"} {
		for _, kind := range []string{"plain", "TLS"} {
			t.Run(kind+path, func(t *testing.T) {
				t.Parallel()
				handler, _ := stalling(t)
				opts := server.Options{Handler: handler, WriteTimeout: time.Second}
				var c *client
				if kind == "TLS" {
					secure := serveTLS(t, opts)
					endWith(t, secure.served)
					c = secure.dialTLS("http/1.1")
				} else {
					c = endWith(t, serve(t, opts)).dial()
				}
				c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Fatal(err)
				}
				begin, got := time.Now(), int64(0)
				for time.Since(begin) < 3*time.Second { // some 4 MB
					n, err := io.CopyN(io.Discard, resp.Body, 64<<10)
					if got += n; err != nil {
						t.Fatalf("after %d bytes: %v", got, err)
					}
					time.Sleep(50 * time.Millisecond)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				if got += n; err != nil || got != stalledBody {
					t.Errorf("got %d bytes, %v; want %d", got, err, stalledBody)
				}
			})
		}
	}
}

// A deadline of the handler's own holds as well, and no longer than it says.
func TestHandlersWriteDeadline(t *testing.T) {
	ended := make(chan error, 1)
	s := endWith(t, serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := io.Copy(w, bytes.NewReader(make([]byte, stalledBody)))
		ended <- err
	})}))
	s.dial().send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	var timeout net.Error
	if err := <-ended; err == nil || !isTimeout(err, &timeout) {
		t.Errorf("got %v, want a timeout", err)
	}
}

func isTimeout(err error, as *net.Error) bool {
	ne, ok := err.(net.Error)
	*as = ne
	return ok && ne.Timeout()
}

// A stream without a window is reset; its connection serves others.
func TestStreamsWithoutWindow(t *testing.T) {
	handler, ended := stalling(t)
	both(t, server.Options{Handler: handler, WriteTimeout: 300 * time.Millisecond}, func(t *testing.T, s *served, dial func() *http2Client) {
		endWith(t, s)
		c := dial()
		c.windows = false
		c.mu.Lock()
		c.WriteSettings(initialWindow(0))
		c.mu.Unlock()
		for i, path := range []string{"/chunks", "/copy", "/file", "/small"} {
			c.request(uint32(2*i+1), path)
		}
		for range 4 {
			<-ended
		}
		c.await("the end of all streams", func() bool { return len(c.ended) == 4 })
		for stream, err := range c.ended {
			if err == nil {
				t.Errorf("stream %d has ended in full", stream)
			}
		}
		c.mu.Lock()
		c.WriteSettings(initialWindow(65535))
		c.mu.Unlock()
		c.request(9, "/small")
		c.gets(9, "hello")
	})
}

// A client that reads nothing of its HTTP/2 connection loses that, at once or, if the
// reset of its stream still fits into the buffers, as an idle one.
func TestHTTP2ClientThatNeverReads(t *testing.T) {
	handler, ended := stalling(t)
	both(t, server.Options{Handler: handler, WriteTimeout: 300 * time.Millisecond,
		IdleTimeout: 500 * time.Millisecond}, func(t *testing.T, s *served, dial func() *http2Client) {
		endWith(t, s)
		c := dial()
		c.mu.Lock()
		c.WriteSettings(initialWindow(1<<31 - 1))
		c.WriteWindowUpdate(0, 1<<30)
		c.mu.Unlock()
		c.request(1, "/chunks")
		<-ended
		await(t, "the end of the connection", func() bool { return s.Load().Connections == (upgrade.Connections{}) })
		if closed := s.Closed(); closed[server.TimedOut] != 1 {
			t.Errorf("got %v, want one that timed out", closed)
		}
	})
}

// They do not hold a drain until its deadline.
func TestDrainOfClientsThatNeverRead(t *testing.T) {
	handler, _ := stalling(t)
	both(t, server.Options{Handler: handler}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.mu.Lock()
		c.WriteSettings(initialWindow(0))
		c.mu.Unlock()
		c.request(1, "/chunks")
		if t.Name() == "TestDrainOfClientsThatNeverRead/prior_knowledge" {
			s.dial().send("GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		await(t, "requests", func() bool { return s.Load().Requests > 0 })
		go io.Copy(io.Discard, c.Conn)
		const deadline = 30 * time.Second
		d := <-s.drain(deadline, none)
		if d.Seconds >= deadline.Seconds() || d.Connections.Cut > 0 {
			t.Errorf("got %+v, want nothing closed at the deadline", d)
		}
	})
}
