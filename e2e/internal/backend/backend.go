// Package backend serves what stands behind a Baton: backends whose answers are known, and a directory of known files.
package backend

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
)

// Serve serves until the test ends.
func Serve(t testing.TB, ln net.Listener, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	t.Cleanup(func() { srv.Close(); <-done })
}

// Start serves h on a port of its own, and returns its URL.
func Start(t testing.TB, h http.Handler) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	Serve(t, ln, h)
	return "http://" + ln.Addr().String()
}

// Directory makes a directory of files whose content is known: N.bin holds pattern(N). It has an index, so
// that "/" is answered 200.
func Directory(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, n := range exchange.FileSizes {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.bin", n)), exchange.Pattern(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("index\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bodies is memory for what Echo is sent: it costs much, with the race detector, to take new memory each time.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Echo is a backend that returns what it was sent. GET /fixed/N answers N bytes; with "chunked" in the
// query the length is not announced, and a trailer follows.
func Echo(w http.ResponseWriter, r *http.Request) {
	memory := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(memory)
	memory.Reset()
	if _, err := memory.ReadFrom(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body := memory.Bytes()
	if _, size, ok := strings.Cut(r.URL.Path, "/fixed/"); ok {
		if n, err := strconv.Atoi(size); err == nil {
			body = exchange.Pattern(n)
		}
	}
	if r.URL.Query().Has("chunked") {
		w.Header().Set("Trailer", "X-Length")
		w.(http.Flusher).Flush()
		w.Write(body)
		w.Header().Set("X-Length", strconv.Itoa(len(body)))
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

// Gate is a backend that holds its answers back. An answer has begun when its header is out.
type Gate struct {
	entered chan struct{} // one for each request that has come in
	opened  chan struct{}
	once    sync.Once
}

// NewGate makes a gate that is opened at the end of the test, if not before.
func NewGate(t testing.TB) *Gate {
	g := &Gate{entered: make(chan struct{}, 1000), opened: make(chan struct{})}
	t.Cleanup(g.Open)
	return g
}

// Open lets all answers go on.
func (g *Gate) Open() { g.once.Do(func() { close(g.opened) }) }

// Await waits until n requests are in the backend.
func (g *Gate) Await(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(await.Hang)
	for i := range n {
		select {
		case <-g.entered:
		case <-deadline:
			t.Fatalf("requests in the backend: got %d, want %d", i, n)
		}
	}
}

// ServeHTTP answers /begun with a header and half the body before the gate, all below /hold behind
// it, and everything else at once.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/begun"):
		fmt.Fprint(w, "hello, ")
		w.(http.Flusher).Flush()
	case strings.HasPrefix(r.URL.Path, "/hold"):
	default:
		fmt.Fprint(w, "open")
		return
	}
	g.entered <- struct{}{}
	select {
	case <-g.opened:
		fmt.Fprint(w, "world")
	case <-r.Context().Done():
	}
}

// Sink is a backend that reads whatever it is sent, and says ok.
func Sink(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, "ok")
}

// EveryKind is a backend for clients of every kind: WebSockets at /ws get back what they say, GET /drip/N answers N
// bytes in pieces, for some 200 ms, and all else goes to Echo.
func EveryKind(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ws" {
		webSocket(w, r)
		return
	}
	size, ok := strings.CutPrefix(r.URL.Path, "/drip/")
	n, err := strconv.Atoi(size)
	if !ok || err != nil {
		Echo(w, r)
		return
	}
	const pieces = 20
	w.Header().Set("Content-Length", size)
	for rest := exchange.Pattern(n); len(rest) > 0; rest = rest[min(len(rest), 1+n/pieces):] {
		w.Write(rest[:min(len(rest), 1+n/pieces)])
		w.(http.Flusher).Flush()
		select {
		case <-time.After(10 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
}

// webSocket says what it hears, message by message.
func webSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(2 << 20)
	var message bytes.Buffer
	for {
		kind, in, err := c.Reader(r.Context())
		if err == nil {
			message.Reset()
			_, err = message.ReadFrom(in)
		}
		if err == nil {
			err = c.Write(r.Context(), kind, message.Bytes())
		}
		if err != nil {
			return
		}
	}
}
