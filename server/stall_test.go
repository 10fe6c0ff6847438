package server_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
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
type stalling struct {
	file  string
	ended chan struct{} // gets a value for each request that has ended
}

func newStalling(t *testing.T) *stalling {
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, stalledBody); err != nil {
		t.Fatal(err)
	}
	return &stalling{file: file}
}

// watch lets the requests to come report their end. The channel belongs to the bubble
// of the caller.
func (h *stalling) watch() <-chan struct{} {
	h.ended = make(chan struct{}, 100)
	return h.ended
}

func (h *stalling) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if h.ended != nil {
			h.ended <- struct{}{}
		}
	}()
	switch r.URL.Path {
	case "/file":
		http.ServeFile(w, r, h.file)
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
}

func initialWindow(size uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: size}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// eachHTTP1 runs a test with a connection that speaks HTTP/1.1, in memory: over TLS and not.
func eachHTTP1(t *testing.T, opts server.Options, test func(t *testing.T, s *served, c *client)) {
	t.Run("plain", func(t *testing.T) {
		inMemory(t, opts, func(t *testing.T, s *served) { test(t, s, s.dial()) })
	})
	t.Run("TLS", func(t *testing.T) {
		inMemoryTLS(t, opts, func(t *testing.T, s *servedTLS) { test(t, s.served, s.dialTLS("http/1.1")) })
	})
}

func TestClientsThatNeverReadAreClosed(t *testing.T) {
	const timeout = time.Minute
	for _, path := range []string{"/file", "/chunks", "/copy", "/hijacked"} {
		t.Run(path[1:], func(t *testing.T) {
			handler := newStalling(t)
			eachHTTP1(t, server.Options{Handler: handler, WriteTimeout: timeout}, func(t *testing.T, s *served, c *client) {
				endWith(t, s)
				ended, begin := handler.watch(), time.Now()
				c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
				<-ended
				if took := time.Since(begin); took < timeout || took > timeout+2*time.Second {
					t.Errorf("the handler has ended after %v, want %v", took, timeout)
				}
				await(t, "the end of the connection", func() bool { return s.Load().Connections == (upgrade.Connections{}) })
				if closed := s.Closed(); closed[server.TimedOut] != 1 {
					t.Errorf("got %v, want one that timed out", closed)
				}
			})
		})
	}
}

// One that reads slowly is never closed, however long that takes in all.
func TestSlowReadersAreServed(t *testing.T) {
	tier.Slow(t, "reads slowly")
	t.Parallel()
	const timeout = time.Second
	for _, path := range []string{"/file", "/chunks"} {
		t.Run(path[1:], func(t *testing.T) {
			handler := newStalling(t)
			eachHTTP1(t, server.Options{Handler: handler, WriteTimeout: timeout}, func(t *testing.T, s *served, c *client) {
				endWith(t, s)
				c.SetDeadline(time.Time{})
				c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Fatal(err)
				}
				for got := int64(0); got < stalledBody; {
					n, err := io.CopyN(io.Discard, resp.Body, 128<<10)
					if got += n; err != nil {
						t.Fatalf("after %d bytes: %v", got, err)
					}
					time.Sleep(timeout * 9 / 10)
				}
			})
		})
	}
}

// A file goes on where the look at a write has interrupted sendfile.
func TestSendfileGoesOn(t *testing.T) {
	tier.Slow(t, "sends large files")
	t.Parallel()
	content := make([]byte, stalledBody)
	rand.NewChaCha8([32]byte{}).Read(content)
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	const timeout = 10 * time.Minute // is looked at every two seconds
	s := endWith(t, serve(t, server.Options{WriteTimeout: timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, file)
	})}))
	c := s.dial()
	c.SetDeadline(time.Now().Add(timeout))
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	time.Sleep(2500 * time.Millisecond) // for at least one look
	if _, body := c.answer(); body != string(content) {
		t.Errorf("got %d bytes, which are not the file's", len(body))
	}
}

// A deadline of the handler's own holds as well, and no longer than it says.
func TestHandlersWriteDeadline(t *testing.T) {
	const own = 100 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		s := endWith(t, serveOn(t, memory(), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(own))
			_, err := io.Copy(w, bytes.NewReader(make([]byte, stalledBody)))
			ended <- err
		})}))
		begin := time.Now()
		s.dial().send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != own {
			t.Errorf("got %v after %v, want a timeout after %v", err, time.Since(begin), own)
		}
	})
}

// A stream without a window is reset; its connection serves others.
func TestStreamsWithoutWindow(t *testing.T) {
	handler := newStalling(t)
	both(t, server.Options{Handler: handler, WriteTimeout: 300 * time.Millisecond}, func(t *testing.T, s *served, dial func() *http2Client) {
		endWith(t, s)
		ended := handler.watch()
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
	handler := newStalling(t)
	both(t, server.Options{Handler: handler, WriteTimeout: 300 * time.Millisecond,
		IdleTimeout: 500 * time.Millisecond}, func(t *testing.T, s *served, dial func() *http2Client) {
		endWith(t, s)
		ended := handler.watch()
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
	handler := newStalling(t)
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
		if d.Seconds >= deadline.Seconds() || d.Connections.DrainTimeout > 0 {
			t.Errorf("got %+v, want nothing closed at the deadline", d)
		}
	})
}

// Who has taken a connection over, and writes to its descriptor, has no deadline left of the response before.
func TestHijackedHasNoWriteDeadline(t *testing.T) {
	t.Parallel()
	const limit = 40 * time.Millisecond
	s := endWith(t, serve(t, server.Options{WriteTimeout: limit, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hijack" {
			return
		}
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		time.Sleep(limit)
		raw, err := nc.(syscall.Conn).SyscallConn()
		if err == nil {
			err = raw.Write(func(fd uintptr) bool { syscall.Write(int(fd), []byte("mine\n")); return true })
		}
		if err != nil {
			t.Errorf("write: %v", err)
		}
	})}))
	c := s.dial()
	c.get("/")
	c.send("GET /hijack HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := c.in.ReadString('\n'); line != "mine\n" {
		t.Errorf("got %q, %v, want mine", line, err)
	}
}
