package middleware

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// serveRaw serves h as Baton does, and returns a connection to it.
func serveRaw(t *testing.T, h http.Handler) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Options{Handler: h})
	s.Add(ln)
	s.Serve()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return false }})
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestRequestsForNoResource(t *testing.T) {
	log, logger := testserver.Capture()
	metrics := metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{} }})
	h := RedirectHTTPS(443, http.NotFoundHandler())
	conn := serveRaw(t, Log(metrics.Count(Resources(h)), logger))
	in := bufio.NewReader(conn)
	requests := []struct {
		line, allow string
		status      int
	}{
		{"OPTIONS * HTTP/1.1", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", http.StatusNoContent},
		{"OPTIONS / HTTP/1.1", "", http.StatusPermanentRedirect},
		{"GET * HTTP/1.1", "", http.StatusBadRequest},
		{"GET x:y HTTP/1.1", "", http.StatusBadRequest},
		{"GET http://example.com HTTP/1.1", "", http.StatusPermanentRedirect},
		{"OPTIONS http://example.com HTTP/1.1", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", http.StatusNoContent},
		{"OPTIONS http://example.com/ HTTP/1.1", "", http.StatusPermanentRedirect},
		{"CONNECT example.com:443 HTTP/1.1", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", http.StatusMethodNotAllowed},
		{"CONNECT /path HTTP/1.1", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", http.StatusMethodNotAllowed},
	}
	for _, request := range requests {
		io.WriteString(conn, request.line+"\r\nHost: example.com\r\n\r\n")
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%s: %v", request.line, err)
		}
		io.Copy(io.Discard, response.Body)
		testserver.Equal(t, request.line+": status", response.StatusCode, request.status)
		testserver.Equal(t, request.line+": Allow", response.Header.Get("Allow"), request.allow)
	}
	log.AwaitAll(t, "request", len(requests))
}

func TestTargetWithoutAPath(t *testing.T) {
	for target, want := range map[string]string{"http://example.com": "/", "http://example.com?x=1": "/", "http://example.com/": "/", "http://example.com/a": "/a"} {
		conn := serveRaw(t, Resources(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })))
		io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: example.com\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		path, _ := io.ReadAll(response.Body)
		testserver.Equal(t, target, string(path), want)
	}
}
