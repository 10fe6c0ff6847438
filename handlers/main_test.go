// What the tests share: servers, requests and captured log lines.

package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server for h. It and the connections of its client end with the test.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	server.Client().Transport.(*http.Transport).DisableCompression = true
	return server
}

// do sends a request with header fields given as name, value, ... and returns
// the response and its whole body.
func do(t *testing.T, server *httptest.Server, method, path string, fields ...string) (*http.Response, string) {
	t.Helper()
	response, body, err := try(t, server, method, path, fields...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return response, body
}

func try(t *testing.T, server *httptest.Server, method, path string, fields ...string) (*http.Response, string, error) {
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

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// lines is a logger's output, one object a line.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func capture() (*lines, *slog.Logger) {
	l := &lines{}
	return l, slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// with returns the lines with that message.
func (l *lines) with(message string) (found []map[string]any) {
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

// await returns the first line with that message. The access log, for one, is
// written after the client has its answer.
func (l *lines) await(t *testing.T, message string) map[string]any {
	t.Helper()
	return l.awaitAll(t, message, 1)[0]
}

// awaitAll returns the lines with that message as soon as there are n.
func (l *lines) awaitAll(t *testing.T, message string, n int) []map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if found := l.with(message); len(found) >= n {
			return found
		}
		select {
		case <-ctx.Done():
			t.Fatalf("log lines %q: got %d, want %d", message, len(l.with(message)), n)
		case <-time.After(time.Millisecond):
		}
	}
}

// says is a backend that answers each request with these bytes and closes.
func says(raw string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, _ := w.(http.Hijacker).Hijack()
		_, _ = io.WriteString(conn, raw)
		conn.Close()
	}
}

// exchange sends bytes to the server at address, and returns all that come until it
// closes the connection.
func exchange(t *testing.T, address, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(conn, raw)
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	return string(got)
}
