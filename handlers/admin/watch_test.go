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
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
	"example.com/baton/upgrade"
)

// service is one whose status a test changes.
type service struct {
	mu     sync.Mutex
	status upgrade.Status
	reads  int
}

func (s *service) change(f func(*upgrade.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Generations, s.status.Upgrades = slices.Clone(s.status.Generations), slices.Clone(s.status.Upgrades)
	f(&s.status)
}

func (s *service) Status() upgrade.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	return s.status
}

func newService() *service {
	return &service{status: upgrade.Status{Generation: 3, PID: 4242, State: "serving",
		Generations: []upgrade.Member{{Generation: 3, PID: 4242, State: "serving", Age: 1}}}}
}

// noMetrics are those of a service that has done nothing.
func noMetrics() *metrics.Metrics {
	return metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{} }})
}

// event is one event.
type event struct {
	Time      float64
	Status    struct{ State string }
	Requests  map[string]float64
	Bounds    []float64
	Durations []uint64
	Count     uint64
}

// count has m count requests of 2 ms each.
func count(t *testing.T, m *metrics.Metrics, code, n int) {
	synctest.Test(t, func(t *testing.T) {
		h := m.Count(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(2 * time.Millisecond) // of the bubble's clock
			w.WriteHeader(code)
		}))
		for range n {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}
	})
}

func parseEvent(t *testing.T, text string) (e event) {
	t.Helper()
	_, data, found := strings.Cut(text, "event: now\ndata: ")
	if !found {
		t.Fatalf("event: got %q", text)
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		t.Fatalf("event %q: %v", data, err)
	}
	return e
}

func TestWatchEvent(t *testing.T) {
	m := metrics.New(metrics.Options{
		Source: func() metrics.Snapshot { return metrics.Snapshot{} },
		Others: func(context.Context) map[string]float64 {
			return map[string]float64{`baton_http_requests_total{code="200",method="GET"}`: 10, `baton_http_requests_total{code="503",method="GET"}`: 2,
				`baton_http_request_duration_seconds_count`: 12, `baton_http_request_duration_seconds_bucket{le="0.01"}`: 11}
		},
	})
	for code, n := range map[int]int{200: 3, 204: 4, 404: 1, 777: 1} {
		count(t, m, code, n)
	}
	server := testserver.Serve(t, Handler(Options{Metrics: m, Status: newService().Status}))
	response, _, fields := testserver.Events(t, server, t.Context())
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Server": "baton"} {
		testserver.Equal(t, name, response.Header.Get(name), want)
	}
	testserver.Equal(t, "connection closes after it", response.Close, false)
	testserver.Equal(t, "retry", fields[0], "retry: 200")
	got := parseEvent(t, strings.Join(fields, "\n"))
	testserver.Equal(t, "state", got.Status.State, "serving")
	testserver.Equal(t, "requests", fmt.Sprint(got.Requests), "map[2xx:17 4xx:1 5xx:2 other:1]")
	testserver.Equal(t, "count", got.Count, 21)
	testserver.Equal(t, "bounds", fmt.Sprint(got.Bounds[:5]), "[0.0005 0.001 0.0025 0.005 0.01]")
	testserver.Equal(t, "durations", fmt.Sprint(got.Durations[:5]), "[0 0 9 9 20]")
	if since := float64(time.Now().UnixMilli())/1000 - got.Time; since < -1 || since > 60 {
		t.Errorf("time: %v s ago, want now", since)
	}
}

func TestWatchSendsEachSecondAndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		admin := Handler(Options{Metrics: noMetrics(), Status: s.Status})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		responses := make([]*testserver.Written, maxWatchers)
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
					t.Fatalf("%s: watcher %d got %d events, want %d", what, i, got, want)
				}
			}
		}
		check("at first", time.Millisecond, 1)
		check("within the first second", 990*time.Millisecond, 1)
		check("after it", 20*time.Millisecond, 2)
		check("after five more", 5*time.Second, 7)
		s.change(func(status *upgrade.Status) { status.Generations[0].State = "upgrading" })
		check("at a change of state", checkInterval+time.Millisecond, 8)
		s.change(func(status *upgrade.Status) {
			status.Upgrades = append(status.Upgrades, upgrade.Upgrade{Time: time.Now(), Result: upgrade.Failed})
		})
		check("at an upgrade", checkInterval+time.Millisecond, 9)
		s.change(func(status *upgrade.Status) { status.Generations[0].Age, status.Generations[0].Requests = 7, 9 })
		s.change(func(status *upgrade.Status) { status.Trial = &upgrade.TrialStatus{Stage: upgrade.StageTrial} })
		check("at a trial", checkInterval+time.Millisecond, 10)
		s.change(func(status *upgrade.Status) {
			status.Trial = &upgrade.TrialStatus{Stage: upgrade.StageTrial, Successor: upgrade.Outcomes{Ended: 1}}
		})
		check("when only figures change", 5*checkInterval, 10)
		check("a second after the last change", 6*checkInterval, 11)

		recorder := httptest.NewRecorder()
		admin.ServeHTTP(recorder, httptest.NewRequestWithContext(ctx, "GET", "/events", nil))
		testserver.Equal(t, "one watcher more", recorder.Code, http.StatusServiceUnavailable)
		testserver.Equal(t, "Retry-After", recorder.Header().Get("Retry-After"), "5")

		s.mu.Lock()
		reads, seconds := s.reads, 7.5
		s.mu.Unlock()
		if most := int(seconds/checkInterval.Seconds()) + 5; reads > most {
			t.Errorf("status was read %d times in %v s, want %d at most for all watchers together", reads, seconds, most)
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
	server := testserver.Serve(t, Handler(Options{Metrics: noMetrics(), Status: newService().Status,
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
	tier.Slow(t, "waits for events")
	s := newService()
	s.status.Version = strings.Repeat("x", 200<<10) // more than the sockets buffer, soon
	server := testserver.Serve(t, Handler(Options{Metrics: noMetrics(), Status: s.Status}))
	for range maxWatchers / 2 {
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
	for n := 0; n < 2; {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "event: now\n" {
			n++
		}
	}
	response, _ := testserver.Do(t, server, "GET", "/metrics")
	testserver.Equal(t, "scrape", response.StatusCode, 200)
}
