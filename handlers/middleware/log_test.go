package middleware

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/recorder"
	"example.com/baton/handlers/internal/request"
	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
)

func TestLogRequestID(t *testing.T) {
	var seen string
	server := testserver.Serve(t, Log(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get("X-Request-Id")
	}), testserver.Discard()))
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
			response, _ := testserver.Do(t, server, "GET", "/", "X-Request-Id", test.id)
			got := response.Header.Get("X-Request-Id")
			testserver.Equal(t, "kept", got == test.id, test.kept)
			testserver.Equal(t, "valid", request.ValidID(got), true)
			testserver.Equal(t, "seen by the handler", seen, got)
			testserver.Equal(t, "Server", response.Header.Get("Server"), "baton")
		})
	}
	first, _ := testserver.Do(t, server, "GET", "/")
	second, _ := testserver.Do(t, server, "GET", "/")
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
			logged, logger := testserver.Capture()
			server := testserver.Serve(t, Log(test.handle, logger))
			_, _, _ = testserver.Try(t, server, "GET", "/a/b?token=secret", "User-Agent", strings.Repeat("u", 1000), "X-Request-Id", "id-1")
			got := logged.Await(t, "request")
			testserver.Equal(t, "lines", len(logged.With("request")), 1)
			testserver.Equal(t, "status", got["status"], any(test.status))
			testserver.Equal(t, "bytes", got["bytes"], any(test.bytes))
			testserver.Equal(t, "level", got["level"], any("INFO"))
			testserver.Equal(t, "method", got["method"], any("GET"))
			testserver.Equal(t, "path", got["path"], any("/a/b"))
			testserver.Equal(t, "request_id", got["request_id"], any("id-1"))
			testserver.Equal(t, "has a duration", got["seconds"].(float64) > 0, true)
			testserver.Equal(t, "protocol", got["protocol"].(string), "HTTP/1.1")
			testserver.Equal(t, "remote", strings.HasPrefix(got["remote"].(string), "127.0.0.1:"), true)
			testserver.Equal(t, "user agent is short", len(got["user_agent"].(string)) < 300, true)
			testserver.Equal(t, "panics logged", len(logged.With("handler panicked")), 0)
		})
	}
}

func TestLogOfALongRequest(t *testing.T) {
	logged, logger := testserver.Capture()
	long := strings.Repeat("M", 60_000)
	testserver.Try(t, testserver.Serve(t, Log(http.NotFoundHandler(), logger)), long, "/"+long, "User-Agent", long, "X-Request-Id", long)
	for key, value := range logged.Await(t, "request") {
		if text, isText := value.(string); isText && len(text) > 300 {
			t.Errorf("%s has %d bytes", key, len(text))
		}
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
			"metrics inside":  metrics.New(metrics.Options{}).Count,
			"metrics outside": nil,
		} {
			t.Run(test.name+", "+order, func(t *testing.T) {
				logged, logger := testserver.Capture()
				var handler http.Handler
				if wrap != nil {
					handler = Log(wrap(test.handle), logger)
				} else {
					handler = metrics.New(metrics.Options{}).Count(Log(test.handle, logger))
				}
				response, body, err := testserver.Try(t, testserver.Serve(t, handler), "GET", "/")
				testserver.Equal(t, "got a whole answer", err == nil, test.answers)
				if test.answers {
					testserver.Equal(t, "status", response.StatusCode, 500)
					testserver.Equal(t, "tells", strings.Contains(body, "secret"), false)
					testserver.Equal(t, "Server", response.Header.Get("Server"), "baton")
				}
				testserver.Equal(t, "status logged", logged.Await(t, "request")["status"], any(test.status))
				panics := logged.With("handler panicked")
				if len(panics) != 1 {
					t.Fatalf("panic lines: got %d, want 1", len(panics))
				}
				testserver.Equal(t, "level", panics[0]["level"], any("ERROR"))
				testserver.Equal(t, "panic", panics[0]["panic"], any("secret cause"))
				testserver.Equal(t, "stack names the handler", strings.Contains(panics[0]["stack"].(string), "log_test.go"), true)
			})
		}
	}
}

func TestRecorderOverPlainWriter(t *testing.T) {
	inner := &testserver.Plain{}
	rec := recorder.New(inner)
	n, err := rec.ReadFrom(strings.NewReader("hello"))
	if n != 5 || err != nil || inner.String() != "hello" || rec.Bytes != 5 {
		t.Errorf("ReadFrom: got %d, %v, %q, %d bytes recorded", n, err, inner.String(), rec.Bytes)
	}
	testserver.Equal(t, "flush is not supported", errors.Is(rec.FlushError(), http.ErrNotSupported), true)
	_, _, err = rec.Hijack()
	testserver.Equal(t, "hijack is not supported", errors.Is(err, http.ErrNotSupported), true)
	testserver.Equal(t, "hijacked", rec.Hijacked, false)
	testserver.Equal(t, "unwrapped", rec.Unwrap(), http.ResponseWriter(inner))
	testserver.Equal(t, "recorded twice", recorder.New(rec), rec)
}
