package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
)

// service is one whose status a test changes.
type service struct {
	mu     sync.Mutex
	status map[string]any
	asked  int
}

func (s *service) set(key string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status[key] = value
}

func (s *service) Status() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	status, _ := json.Marshal(s.status)
	return json.RawMessage(status)
}

func newService() *service {
	return &service{status: map[string]any{"generation": 3, "pid": 4242, "state": "serving", "upgrades": []any{},
		"generations": []any{map[string]any{"generation": 3, "pid": 4242, "state": "serving", "age_seconds": 1}}}}
}

// told is one event.
type told struct {
	Time      float64
	Status    struct{ State string }
	Requests  map[string]float64
	Bounds    []float64
	Durations []uint64
	Count     uint64
}

func parseEvent(t *testing.T, text string) (event told) {
	t.Helper()
	_, data, found := strings.Cut(text, "event: now\ndata: ")
	if !found {
		t.Fatalf("event: got %q", text)
	}
	if err := json.Unmarshal([]byte(data), &event); err != nil {
		t.Fatalf("event %q: %v", data, err)
	}
	return event
}

func TestWatchEvent(t *testing.T) {
	m := metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{} }})
	m.Others = func(context.Context) map[string]float64 {
		return map[string]float64{`baton_http_requests_total{code="200",method="GET"}`: 10, `baton_http_requests_total{code="503",method="GET"}`: 2,
			`baton_http_request_duration_seconds_count`: 12, `baton_http_request_duration_seconds_bucket{le="0.01"}`: 11}
	}
	for code, n := range map[int]int{200: 3, 204: 4, 404: 1, 777: 1} {
		for range n {
			m.Requests.Add(code, 0)
		}
	}
	m.Durations.Observe(.002)
	server := testserver.Serve(t, Handler(Options{Metrics: m, Status: newService().Status}))
	response, _, fields := testserver.Events(t, server, t.Context())
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Server": "baton"} {
		testserver.Equal(t, name, response.Header.Get(name), want)
	}
	testserver.Equal(t, "connection closes after it", response.Close, true)
	testserver.Equal(t, "retry", fields[0], "retry: 200")
	got := parseEvent(t, strings.Join(fields, "\n"))
	testserver.Equal(t, "state", got.Status.State, "serving")
	testserver.Equal(t, "requests", fmt.Sprint(got.Requests), "map[2xx:17 4xx:1 5xx:2 other:1]")
	testserver.Equal(t, "count", got.Count, 13)
	testserver.Equal(t, "bounds", fmt.Sprint(got.Bounds[:5]), "[0.0005 0.001 0.0025 0.005 0.01]")
	testserver.Equal(t, "durations", fmt.Sprint(got.Durations[:5]), "[0 0 1 1 12]")
	if since := float64(time.Now().UnixMilli())/1000 - got.Time; since < -1 || since > 10 {
		t.Errorf("time: %v s ago, want now", since)
	}
}

func TestWatchTellsEachSecondAndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		admin := Handler(Options{Metrics: metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{} }}), Status: s.Status})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		responses := make([]*testserver.Written, watchers)
		for i := range responses {
			responses[i] = &testserver.Written{ResponseRecorder: httptest.NewRecorder()}
			all.Go(func() { admin.ServeHTTP(responses[i], httptest.NewRequestWithContext(ctx, "GET", "/events", nil)) })
		}
		check := func(what string, after time.Duration, want int) { // by the clock of the bubble
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			for i, w := range responses {
				if got := w.Events(); got != want {
					t.Fatalf("%s: watcher %d was told %d times, want %d", what, i, got, want)
				}
			}
		}
		check("at first", time.Millisecond, 1)
		check("within the first second", 990*time.Millisecond, 1)
		check("after it", 20*time.Millisecond, 2)
		check("after five more", 5*time.Second, 7)
		s.set("generations", []any{map[string]any{"pid": 4242, "state": "upgrading"}})
		check("at a change of state", lookEvery+time.Millisecond, 8)
		s.set("upgrades", []any{map[string]any{"time": "2026-11-21T23:00:00Z", "result": "failed"}})
		check("at an upgrade", lookEvery+time.Millisecond, 9)
		s.set("generations", []any{map[string]any{"pid": 4242, "state": "upgrading", "age_seconds": 7, "requests_in_flight": 9}})
		check("when only figures change", 5*lookEvery, 9)
		check("a second after the last change", 6*lookEvery, 10)

		recorder := httptest.NewRecorder()
		admin.ServeHTTP(recorder, httptest.NewRequestWithContext(ctx, "GET", "/events", nil))
		testserver.Equal(t, "one watcher more", recorder.Code, http.StatusServiceUnavailable)
		testserver.Equal(t, "Retry-After", recorder.Header().Get("Retry-After"), "5")

		s.mu.Lock()
		asked, seconds := s.asked, 7.4
		s.mu.Unlock()
		if most := int(seconds/lookEvery.Seconds()) + 5; asked > most {
			t.Errorf("status was asked for %d times in %v s, want %d at most for all watchers together", asked, seconds, most)
		}
		cancel()
		all.Wait()
		recorder = httptest.NewRecorder()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		admin.ServeHTTP(recorder, httptest.NewRequestWithContext(gone, "GET", "/events", nil))
		testserver.Equal(t, "when the others are gone", recorder.Code, http.StatusOK)
	})
}

func TestWatchEndsWithTheDrain(t *testing.T) {
	drain := make(chan struct{})
	server := testserver.Serve(t, Handler(Options{Metrics: metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{} }}), Status: newService().Status,
		Draining: func(context.Context) <-chan struct{} { return drain }}))
	_, reader, _ := testserver.Events(t, server, t.Context())
	close(drain)
	rest, err := io.ReadAll(reader)
	testserver.Equal(t, "ends cleanly", err, nil)
	if strings.Count(string(rest), "\n") != strings.Count(string(rest), "event: now\n")*3 {
		t.Errorf("rest: got %q, want whole events", rest)
	}
	_, body := testserver.Do(t, server, "GET", "/events")
	testserver.Equal(t, "stream of a draining generation", body, "retry: 200\n\n")
}

// Whoever does not read keeps neither another watcher nor a scrape waiting.
func TestWatchSlowReaders(t *testing.T) {
	if testing.Short() {
		t.Skip("slow: waits for readers that are slow; go test without -short includes it")
	}
	s := newService()
	s.set("filler", strings.Repeat("x", 200<<10)) // more than the sockets buffer, soon
	server := testserver.Serve(t, Handler(Options{Metrics: metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{} }}), Status: s.Status}))
	for range watchers / 2 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: baton\r\n\r\n")
		if _, err := bufio.NewReaderSize(conn, 16).ReadByte(); err != nil { // it streams
			t.Fatal(err)
		}
	}
	_, reader, _ := testserver.Events(t, server, t.Context())
	last := time.Now()
	for n := 0; n < 2; {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "event: now\n" {
			if gap := time.Since(last); gap > time.Minute { // far more than a busy machine takes
				t.Errorf("event after %v, want one a second", gap)
			}
			last = time.Now()
			n++
		}
	}
	response, _ := testserver.Do(t, server, "GET", "/metrics")
	testserver.Equal(t, "scrape", response.StatusCode, 200)
}
