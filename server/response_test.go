package server_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/server"
)

// What net/http's own ResponseWriter can do must not be lost behind ours.
func TestResponseKeepsOptionalInterfaces(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := w.(http.Flusher); !ok {
			t.Error("no http.Flusher")
		}
		if _, ok := w.(http.Hijacker); !ok {
			t.Error("no http.Hijacker")
		}
		if _, ok := w.(io.ReaderFrom); !ok {
			t.Error("no io.ReaderFrom")
		}
		if _, ok := w.(io.StringWriter); !ok {
			t.Error("no io.StringWriter")
		}
		control := http.NewResponseController(w)
		for name, err := range map[string]error{
			"Flush":            control.Flush(),
			"SetReadDeadline":  control.SetReadDeadline(time.Now().Add(patience)),
			"SetWriteDeadline": control.SetWriteDeadline(time.Now().Add(patience)),
			"EnableFullDuplex": control.EnableFullDuplex(),
		} {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})})
	s.dial().get("/")
	<-s.drain(patience, none)
}

// A 1xx response is not the final one, and must not be distinguished from it by
// where the announcement stands.
func TestAnnouncementIsNotInInformationalResponse(t *testing.T) {
	g := newGate()
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.ServeHTTP(w, r)
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusNoContent)
	})})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-g.entered
	drained := s.drain(patience, all)
	s.awaitDraining()
	close(g.open)
	if resp, _ := c.answer(); resp.StatusCode != http.StatusEarlyHints || resp.Close {
		t.Errorf("got %d, close %v, want 103 without announcement", resp.StatusCode, resp.Close)
	}
	if resp, _ := c.answer(); resp.StatusCode != http.StatusNoContent || !resp.Close {
		t.Errorf("got %d, close %v, want 204 with announcement", resp.StatusCode, resp.Close)
	}
	<-drained
}

// Files go from the page cache to the socket: each layer passes the file on.
func TestSendfileIsKept(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	watch := &watchListener{Listener: ln}
	s := serveOn(t, watch, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Length", "1048576")
		io.CopyN(w, f, 1<<20)
	})})
	if _, body := s.dial().get("/"); body != string(content) {
		t.Error("the body is not the file")
	}
	if !watch.gotFile.Load() {
		t.Error("the socket's ReadFrom was not given the file")
	}
	<-s.drain(patience, none)
}

// watchListener notes whether a connection was given a file to send.
type watchListener struct {
	net.Listener
	gotFile atomic.Bool
}

func (l *watchListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watchConn{nc.(*net.TCPConn), l}, nil
}

type watchConn struct {
	*net.TCPConn
	listener *watchListener
}

func (c *watchConn) ReadFrom(r io.Reader) (int64, error) {
	src := r
	if limited, ok := r.(*io.LimitedReader); ok {
		src = limited.R
	}
	if _, ok := src.(syscall.Conn); ok {
		c.listener.gotFile.Store(true)
	}
	return c.TCPConn.ReadFrom(r)
}
