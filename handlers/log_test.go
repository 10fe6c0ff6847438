package handlers

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestLogRequestID(t *testing.T) {
	var seen string
	server := serve(t, Log(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get("X-Request-Id")
	}), discard()))
	for _, test := range []struct {
		name, id string
		kept     bool
	}{
		{"none", "", false},
		{"usual", "4f.A_9-z", true},
		{"longest", strings.Repeat("x", 64), true},
		{"too long", strings.Repeat("x", 65), false},
		{"other characters", "a b", false},
		{"quote", `a"b`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, _ := do(t, server, "GET", "/", "X-Request-Id", test.id)
			got := response.Header.Get("X-Request-Id")
			equal(t, "kept", got == test.id, test.kept)
			equal(t, "valid", validRequestID(got), true)
			equal(t, "seen by the handler", seen, got)
			equal(t, "Server", response.Header.Get("Server"), "baton")
		})
	}
	first, _ := do(t, server, "GET", "/")
	second, _ := do(t, server, "GET", "/")
	if first.Header.Get("X-Request-Id") == second.Header.Get("X-Request-Id") {
		t.Error("two requests have the same id")
	}
}

func TestLogAccess(t *testing.T) {
	for _, test := range []struct {
		name   string
		handle http.HandlerFunc
		status float64
		bytes  float64
	}{
		{"nothing written", func(http.ResponseWriter, *http.Request) {}, 200, 0},
		{"body", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, 200, 5},
		{"copied body", func(w http.ResponseWriter, _ *http.Request) {
			io.Copy(w, struct{ io.Reader }{strings.NewReader("hello")})
		}, 200, 5},
		{"status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, 0},
		{"informational first", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(404) }, 404, 0},
		{"flush first", func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); io.WriteString(w, "x") }, 200, 1},
		{"hijacked", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			conn.Close()
		}, 101, 0},
		{"aborted at once", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 499, 0},
		{"aborted later", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "xy"); panic(http.ErrAbortHandler) }, 200, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			logged, logger := capture()
			server := serve(t, Log(test.handle, logger))
			_, _, _ = try(t, server, "GET", "/a/b?token=secret", "User-Agent", strings.Repeat("u", 1000), "X-Request-Id", "id-1")
			got := logged.await(t, "request")
			equal(t, "lines", len(logged.with("request")), 1)
			equal(t, "status", got["status"], any(test.status))
			equal(t, "bytes", got["bytes"], any(test.bytes))
			equal(t, "level", got["level"], any("INFO"))
			equal(t, "method", got["method"], any("GET"))
			equal(t, "path", got["path"], any("/a/b"))
			equal(t, "request_id", got["request_id"], any("id-1"))
			equal(t, "has a duration", got["seconds"].(float64) > 0, true)
			equal(t, "protocol", got["protocol"].(string), "HTTP/1.1")
			equal(t, "remote", strings.HasPrefix(got["remote"].(string), "127.0.0.1:"), true)
			equal(t, "user agent is short", len(got["user_agent"].(string)) < 300, true)
			equal(t, "panics logged", len(logged.with("handler panicked")), 0)
		})
	}
}

func TestLogPanic(t *testing.T) {
	for _, test := range []struct {
		name    string
		handle  http.HandlerFunc
		status  float64 // in the log
		answers bool
	}{
		{"before the header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			panic("secret cause")
		}, 500, true},
		{"after an informational response", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); panic("secret cause") }, 500, true},
		{"after the header", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic("secret cause") }, 200, false},
		{"after a flush", func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); panic("secret cause") }, 200, false},
		{"in the body", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half"); panic("secret cause") }, 200, false},
	} {
		for order, wrap := range map[string]func(http.Handler) http.Handler{
			"metrics inside":  newMetrics().Count,
			"metrics outside": nil,
		} {
			t.Run(test.name+", "+order, func(t *testing.T) {
				logged, logger := capture()
				var handler http.Handler
				if wrap != nil {
					handler = Log(wrap(test.handle), logger)
				} else {
					handler = newMetrics().Count(Log(test.handle, logger))
				}
				response, body, err := try(t, serve(t, handler), "GET", "/")
				equal(t, "got a whole answer", err == nil, test.answers)
				if test.answers {
					equal(t, "status", response.StatusCode, 500)
					equal(t, "tells", strings.Contains(body, "secret"), false)
					equal(t, "Server", response.Header.Get("Server"), "baton")
				}
				equal(t, "status logged", logged.await(t, "request")["status"], any(test.status))
				panics := logged.with("handler panicked")
				if len(panics) != 1 {
					t.Fatalf("panic lines: got %d, want 1", len(panics))
				}
				equal(t, "level", panics[0]["level"], any("ERROR"))
				equal(t, "panic", panics[0]["panic"], any("secret cause"))
				equal(t, "stack names the handler", strings.Contains(panics[0]["stack"].(string), "log_test.go"), true)
			})
		}
	}
}

// plain is a ResponseWriter that can do nothing else.
type plain struct {
	strings.Builder
	status int
}

func (p *plain) Header() http.Header    { return http.Header{} }
func (p *plain) WriteHeader(status int) { p.status = status }

func TestRecorderOverPlainWriter(t *testing.T) {
	inner := &plain{}
	rec := record(inner)
	n, err := rec.ReadFrom(strings.NewReader("hello"))
	if n != 5 || err != nil || inner.String() != "hello" || rec.bytes != 5 {
		t.Errorf("ReadFrom: got %d, %v, %q, %d bytes recorded", n, err, inner.String(), rec.bytes)
	}
	equal(t, "flush is not supported", errors.Is(rec.FlushError(), http.ErrNotSupported), true)
	_, _, err = rec.Hijack()
	equal(t, "hijack is not supported", errors.Is(err, http.ErrNotSupported), true)
	equal(t, "hijacked", rec.hijacked, false)
	equal(t, "unwrapped", rec.Unwrap(), http.ResponseWriter(inner))
	equal(t, "recorded twice", record(rec), rec)
}
