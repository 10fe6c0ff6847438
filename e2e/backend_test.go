// What stands behind the service: a backend that says what it was told, and a folder of known files.
package e2e

import (
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
)

// serve serves until the test ends.
func serve(t testing.TB, ln net.Listener, h http.Handler) {
	t.Helper()
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	t.Cleanup(func() { srv.Close(); <-done })
}

// backend serves h on a port of its own, and returns its URL.
func backend(t testing.TB, h http.Handler) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, h)
	return "http://" + ln.Addr().String()
}

// folder makes a folder of files whose content is known: N.bin holds pattern(N). It has an index, so
// that "/" is answered 200.
func folder(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, n := range fileSizes {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.bin", n)), pattern(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("index\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

var fileSizes = []int{100, 4_000, 20_000, 200_000}

// fileExchanges alternates GET of the smaller files and POST, which a file server does not allow.
func fileExchanges() []exchange {
	var all []exchange
	for _, n := range fileSizes[:3] {
		path := fmt.Sprintf("/%d.bin", n)
		all = append(all,
			newExchange("GET", path, nil, 200, pattern(n)),
			newExchange("POST", path, pattern(500), 405, nil))
	}
	return all
}

// echo is a backend that says what it was told. GET /fixed/N answers N bytes; with "chunked" in the
// query the length is not told beforehand, and a trailer follows.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, size, ok := strings.Cut(r.URL.Path, "/fixed/"); ok {
		if n, err := strconv.Atoi(size); err == nil {
			body = pattern(n)
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

// echoExchanges alternates GET and POST of several sizes, made to an echo backend below a prefix.
func echoExchanges(prefix string) []exchange {
	var all []exchange
	for _, n := range []int{100, 700, 16_256} {
		for _, query := range []string{"", "?chunked"} {
			all = append(all,
				newExchange("GET", fmt.Sprintf("%s/fixed/%d%s", prefix, n, query), nil, 200, pattern(n)),
				newExchange("POST", prefix+"/echo"+query, pattern(n), 200, pattern(n)))
		}
	}
	return all
}

// pattern is n bytes in which a shift or a repetition shows.
func pattern(n int) []byte {
	b := make([]byte, 0, n+16)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%d,", i)
	}
	return b[:n]
}

// gate is a backend that holds its answers back. An answer has begun when its header is out.
type gate struct {
	entered chan struct{} // one for each request that has come in
	opened  chan struct{}
	once    sync.Once
}

// newGate makes a gate that is opened at the end of the test, if not before.
func newGate(t testing.TB) *gate {
	g := &gate{entered: make(chan struct{}, 1000), opened: make(chan struct{})}
	t.Cleanup(g.open)
	return g
}

// open lets all answers go on.
func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// await waits until n requests are in the backend.
func (g *gate) await(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
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
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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

// sink is a backend that reads whatever it is sent, and says ok.
func sink(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, "ok")
}
