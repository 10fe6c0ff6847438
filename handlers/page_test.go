package handlers

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var identity = Identity{Generation: 3, PID: 4242, Version: "1.4.0"}

// events opens the stream and returns it after the field lines of its first event.
func events(t *testing.T, server *httptest.Server, ctx context.Context) (*http.Response, *bufio.Reader, []string) {
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

func TestPageShowsTheGenerationWithoutScripts(t *testing.T) {
	_, page := do(t, serve(t, Page(Identity{Generation: 3, PID: 4242, Version: "<1.4.0>"}, nil)), "GET", "/")
	for _, want := range []string{`<p id="generation">3</p>`, `<dd id="version">&lt;1.4.0&gt;</dd>`, `<dd id="pid">4242</dd>`} {
		if !strings.Contains(page, want) {
			t.Errorf("page: lacks %s", want)
		}
	}
}

func TestPage(t *testing.T) {
	server := serve(t, Page(identity, nil))
	for _, test := range []struct {
		name, method, path string
		status             int
	}{
		{"page", "GET", "/", 200},
		{"page, HEAD", "HEAD", "/", 200},
		{"events, HEAD", "HEAD", "/events", 200},
		{"post", "POST", "/", 405},
		{"post to events", "POST", "/events", 405},
		{"other", "GET", "/favicon.ico", 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, _ := do(t, server, test.method, test.path)
			equal(t, "status", response.StatusCode, test.status)
			if test.status == 200 {
				equal(t, "Cache-Control", response.Header.Get("Cache-Control"), "no-store")
			}
		})
	}
	response, body := do(t, server, "GET", "/")
	equal(t, "Content-Type", response.Header.Get("Content-Type"), "text/html; charset=utf-8")
	checkPolicy(t, response, body)
}

func TestPageEvents(t *testing.T) {
	logged, logger := capture()
	handler := Log(newMetrics().Count(Page(identity, nil)), logger)
	ctx, cancel := context.WithCancel(t.Context())
	response, _, fields := events(t, serve(t, handler), ctx)
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		equal(t, name, response.Header.Get(name), want)
	}
	equal(t, "connection closes after it", response.Close, true)
	equal(t, "fields", len(fields), 4)
	equal(t, "retry", fields[0], "retry: 200")
	equal(t, "id", fields[1], "id: 3-4242")
	equal(t, "event", fields[2], "event: identity")
	var got Identity
	if err := json.Unmarshal([]byte(strings.TrimPrefix(fields[3], "data: ")), &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "identity", got, identity)

	cancel() // the client goes
	equal(t, "status logged at its end", logged.await(t, "request")["status"], any(200.0))
}

// A browser whose stream broke off is not told once more what it knows.
func TestPageEventsAgain(t *testing.T) {
	for id, want := range map[string]string{"3-4242": "event: ping", "2-4141": "event: identity", "3-1": "event: identity"} {
		ctx, cancel := context.WithCancel(t.Context())
		recorder := &written{ResponseRecorder: httptest.NewRecorder()}
		request := httptest.NewRequestWithContext(ctx, "GET", "/events", nil)
		request.Header.Set("Last-Event-ID", id)
		cancel() // after the first event
		Page(identity, nil).ServeHTTP(recorder, request)
		if got := recorder.Body.String(); strings.Count(got, "event: ") != 1 || !strings.Contains(got, want) {
			t.Errorf("after %s: got %q, want one %s", id, got, want)
		}
	}
}

func TestPageEventsEndWithTheDrain(t *testing.T) {
	drain := make(chan struct{})
	server := serve(t, Page(identity, func(context.Context) <-chan struct{} { return drain }))
	_, reader, _ := events(t, server, t.Context())
	begin := time.Now()
	close(drain)
	rest, err := io.ReadAll(reader)
	equal(t, "ends cleanly", err, nil)
	equal(t, "rest", string(rest), "")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %v, want milliseconds", took)
	}

	// Who asks a draining generation is sent on and told nothing that is about to change.
	_, body := do(t, server, "GET", "/events")
	equal(t, "stream of a draining generation", body, "retry: 200\n\n")
}

// Whoever opens more streams than there are places takes nothing but those.
func TestPageEventsAreForSoMany(t *testing.T) {
	server := serve(t, Page(identity, nil))
	var leave []context.CancelFunc
	for range pageClients {
		ctx, cancel := context.WithCancel(t.Context())
		leave = append(leave, cancel)
		events(t, server, ctx)
	}
	for _, method := range []string{"GET", "HEAD"} {
		response, body := do(t, server, method, "/events")
		equal(t, method+" of one more", response.StatusCode, http.StatusServiceUnavailable)
		equal(t, "Retry-After", response.Header.Get("Retry-After"), "5")
		equal(t, "says why", method == "HEAD" || strings.Contains(body, "too many clients"), true)
	}
	response, _ := do(t, server, "GET", "/")
	equal(t, "the page", response.StatusCode, http.StatusOK)
	leave[0]()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		response, _ = do(t, server, "HEAD", "/events")
		if response.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the place of one who left stays taken")
		}
	}
}

func TestPageEventsPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		recorder := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			Page(identity, nil).ServeHTTP(recorder, httptest.NewRequestWithContext(ctx, "GET", "/events", nil))
		}()
		time.Sleep(2*pingEvery + time.Second) // of the bubble's clock
		cancel()
		<-done
		equal(t, "pings", strings.Count(recorder.Body.String(), "event: ping\ndata:\n\n"), 2)
	})
}
