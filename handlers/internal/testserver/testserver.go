package testserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/document"
	"go.uber.org/goleak"
)

// Plain is a ResponseWriter that can do nothing else.
type Plain struct {
	strings.Builder
	status int
}

func (p *Plain) Header() http.Header { return http.Header{} }

func (p *Plain) WriteHeader(status int) { p.status = status }

// Main is TestMain of each package of handlers: no goroutine outlives the tests.
func Main(m *testing.M) {
	flag.Set("test.parallel", "12") // those that are wait most of the time
	goleak.VerifyTestMain(m)
}

// Serve starts a server for h. It and the connections of its client end with the test.
func Serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	server.Client().Transport.(*http.Transport).DisableCompression = true
	return server
}

// Do sends a request with header fields given as name, value, ... and returns
// the response and its whole body.
func Do(t *testing.T, server *httptest.Server, method, path string, fields ...string) (*http.Response, string) {
	t.Helper()
	response, body, err := Try(t, server, method, path, fields...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return response, body
}

func Try(t *testing.T, server *httptest.Server, method, path string, fields ...string) (*http.Response, string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(fields, 2) {
		if pair[0] == "Host" {
			request.Host = pair[1]
		}
		request.Header.Add(pair[0], pair[1])
	}
	response, err := server.Client().Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err
}

func Equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// Log is a logger's output, one object a line.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func Capture() (*Log, *slog.Logger) {
	l := &Log{}
	return l, slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// With returns the lines with that message.
func (l *Log) With(message string) (found []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.buf.Bytes()) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil && fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

// Await returns the first line with that message. The access log, for one, is
// written after the client has its answer.
func (l *Log) Await(t *testing.T, message string) map[string]any {
	t.Helper()
	return l.AwaitAll(t, message, 1)[0]
}

// AwaitAll returns the lines with that message as soon as there are n.
func (l *Log) AwaitAll(t *testing.T, message string, n int) []map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if found := l.With(message); len(found) >= n {
			return found
		}
		select {
		case <-ctx.Done():
			t.Fatalf("log lines %q: got %d, want %d", message, len(l.With(message)), n)
		case <-time.After(time.Millisecond):
		}
	}
}

// Says is a backend that answers each request with these bytes and closes.
func Says(raw string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, _ := w.(http.Hijacker).Hijack()
		_, _ = io.WriteString(conn, raw)
		conn.Close()
	}
}

// Exchange sends bytes to the server at address, and returns all that come until it
// closes the connection.
func Exchange(t *testing.T, address, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, raw)
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	return string(got)
}

func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Events opens the stream and returns it after the field lines of its first event.
func Events(t *testing.T, server *httptest.Server, ctx context.Context) (*http.Response, *bufio.Reader, []string) {
	t.Helper()
	request, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/events", nil)
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	reader := bufio.NewReader(response.Body)
	var fields []string
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\n" {
			return response, reader, fields
		}
		fields = append(fields, strings.TrimSpace(line))
	}
}

// Written is a response that is read while it is written.
type Written struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (w *Written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ResponseRecorder.Write(p)
}

func (w *Written) Events() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.Body.String(), "event: now\n")
}

// CheckPolicy computes what a browser would, from the page as it was sent.
func CheckPolicy(t *testing.T, response *http.Response, body string) {
	t.Helper()
	got := response.Header.Get("Content-Security-Policy")
	Equal(t, "Content-Security-Policy", got, document.Policy(body))
	Equal(t, "policy forbids the rest", strings.HasPrefix(got, "default-src 'none'"), true)
	Equal(t, "policy is unsafe", strings.Contains(got, "unsafe"), false)
	for _, element := range []string{"script", "style"} {
		if n := strings.Count(body, "<"+element); n > 1 {
			t.Errorf("%d <%s> elements, of which the policy allows one", n, element)
		}
	}
	for _, outside := range []string{"https://", "//cdn", " style=", " onclick=", "innerHTML"} {
		Equal(t, "page has "+outside, strings.Contains(body, outside), false)
	}
}
