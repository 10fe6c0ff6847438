package metrics

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/backends"
	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/middleware"
	"example.com/baton/server"
	"example.com/baton/server/tlskeys"
	"example.com/baton/upgrade"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func newMetrics() *Metrics {
	s := server.New(server.Options{})
	closed := s.Closed() // has every reason
	in, out := s.MigratedBy()
	in[server.HTTP1], in[server.HTTP2], out[server.HTTP1], out[server.TunnelOverTLS] = 12, 3, 11, 2
	closed[server.ConnectionClose], closed[server.DrainTimeout] = 60, 1
	return New(Options{Version: "1.4.0", Revision: "abc", Source: func() Snapshot {
		return Snapshot{
			Generation: 3, State: upgrade.Upgrading, Predecessors: 1, Accepted: 70, AcceptErrors: 4, RequestsInFlight: 4, LogDropped: 7,
			Upgrades: map[upgrade.Result]uint64{upgrade.Succeeded: 2},
			Trials: upgrade.TrialCounts{Successor: map[string]uint64{"succeeded": 5, "failed": 2}, Serving: map[string]uint64{"succeeded": 70, "denied": 1},
				Takebacks: map[upgrade.Takeback]uint64{upgrade.TakebackDied: 1}},
			CrashRollback: time.Unix(1700000001, 0),
			Backends: backends.Report{Waiting: 9, Backends: []backends.Backend{
				{Name: "http://127.0.0.1:3001", State: "up", InProgress: 4, Requests: map[int]uint64{200: 7, 204: 1, 503: 1}, Errors: 2},
				{Name: "unix:/run/a", State: "down"},
			}},
			Connections: upgrade.Connections{Idle: 5, Hijacked: 2},
			Closed:      closed,
			MigratedIn:  in, MigratedOut: out,
			LastUpgrade:  map[upgrade.Result]time.Time{upgrade.Failed: time.Unix(1700000000, 250e6)},
			Certificates: map[string]tlskeys.Validity{"example.com": {NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(1800000000, 0)}},
		}
	}})
}

// scrape returns the samples of baton's own metrics, without histograms' buckets.
func scrape(t *testing.T, m *Metrics) (whole string, samples []string) {
	t.Helper()
	_, whole = testserver.Do(t, testserver.Serve(t, m.Handler()), "GET", "/metrics")
	for line := range strings.Lines(whole) {
		if strings.HasPrefix(line, "baton_") && !strings.Contains(line, "_bucket{") && !strings.Contains(line, "_sum ") {
			samples = append(samples, strings.TrimSpace(line))
		}
	}
	return whole, samples
}

func TestMetrics(t *testing.T) {
	m := newMetrics()
	m.Ready(41 * time.Millisecond)
	m.PredecessorDrained(upgrade.Drained{Seconds: 1})
	whole, samples := scrape(t, m)
	want := []string{
		`baton_accept_errors_total 4`,
		`baton_backend_errors_total{backend="http://127.0.0.1:3001"} 2`,
		`baton_backend_errors_total{backend="unix:/run/a"} 0`,
		`baton_backend_requests_in_progress{backend="http://127.0.0.1:3001"} 4`,
		`baton_backend_requests_in_progress{backend="unix:/run/a"} 0`,
		`baton_backend_requests_total{backend="http://127.0.0.1:3001",code="1xx"} 0`,
		`baton_backend_requests_total{backend="http://127.0.0.1:3001",code="2xx"} 8`,
		`baton_backend_requests_total{backend="http://127.0.0.1:3001",code="3xx"} 0`,
		`baton_backend_requests_total{backend="http://127.0.0.1:3001",code="4xx"} 0`,
		`baton_backend_requests_total{backend="http://127.0.0.1:3001",code="5xx"} 1`,
		`baton_backend_requests_total{backend="http://127.0.0.1:3001",code="other"} 0`,
		`baton_backend_requests_total{backend="unix:/run/a",code="1xx"} 0`,
		`baton_backend_requests_total{backend="unix:/run/a",code="2xx"} 0`,
		`baton_backend_requests_total{backend="unix:/run/a",code="3xx"} 0`,
		`baton_backend_requests_total{backend="unix:/run/a",code="4xx"} 0`,
		`baton_backend_requests_total{backend="unix:/run/a",code="5xx"} 0`,
		`baton_backend_requests_total{backend="unix:/run/a",code="other"} 0`,
		`baton_backend_up{backend="http://127.0.0.1:3001"} 1`,
		`baton_backend_up{backend="unix:/run/a"} 0`,
		`baton_backend_waiting_requests 9`,
		`baton_build_info{goversion="` + runtime.Version() + `",revision="abc",version="1.4.0"} 1`,
		`baton_connections{state="active"} 0`,
		`baton_connections{state="hijacked"} 2`,
		`baton_connections{state="idle"} 5`,
		`baton_connections{state="new"} 0`,
		`baton_connections_accepted_total 70`,
		`baton_connections_closed_total{reason="client"} 0`,
		`baton_connections_closed_total{reason="connection_close"} 60`,
		`baton_connections_closed_total{reason="drain_timeout"} 1`,
		`baton_connections_closed_total{reason="error"} 0`,
		`baton_connections_closed_total{reason="hijacked"} 0`,
		`baton_connections_closed_total{reason="idle_grace"} 0`,
		`baton_connections_closed_total{reason="timeout"} 0`,
		`baton_connections_migrated_total{direction="in",protocol="http/1.1"} 12`,
		`baton_connections_migrated_total{direction="in",protocol="http/1.1+tls"} 0`,
		`baton_connections_migrated_total{direction="in",protocol="http/2"} 3`,
		`baton_connections_migrated_total{direction="in",protocol="http/2+tls"} 0`,
		`baton_connections_migrated_total{direction="in",protocol="tunnel"} 0`,
		`baton_connections_migrated_total{direction="in",protocol="tunnel+tls"} 0`,
		`baton_connections_migrated_total{direction="out",protocol="http/1.1"} 11`,
		`baton_connections_migrated_total{direction="out",protocol="http/1.1+tls"} 0`,
		`baton_connections_migrated_total{direction="out",protocol="http/2"} 0`,
		`baton_connections_migrated_total{direction="out",protocol="http/2+tls"} 0`,
		`baton_connections_migrated_total{direction="out",protocol="tunnel"} 0`,
		`baton_connections_migrated_total{direction="out",protocol="tunnel+tls"} 2`,
		`baton_crash_rollback_timestamp_seconds 1.700000001e+09`,
		`baton_drain_duration_seconds_count 1`,
		`baton_generation 3`,
		`baton_http_request_duration_seconds_count 0`,
		`baton_http_requests_in_flight 4`,
		`baton_http_requests_total{code="200",method="GET"} 0`,
		`baton_last_upgrade_timestamp_seconds{result="failed"} 1.70000000025e+09`,
		`baton_last_upgrade_timestamp_seconds{result="refused"} 0`,
		`baton_last_upgrade_timestamp_seconds{result="succeeded"} 0`,
		`baton_log_dropped_total 7`,
		`baton_predecessors 1`,
		`baton_state{state="draining"} 0`,
		`baton_state{state="exited"} 0`,
		`baton_state{state="probation"} 0`,
		`baton_state{state="serving"} 0`,
		`baton_state{state="starting"} 0`,
		`baton_state{state="upgrading"} 1`,
		`baton_takebacks_total{reason="aborted"} 0`,
		`baton_takebacks_total{reason="died"} 1`,
		`baton_takebacks_total{reason="failed"} 0`,
		`baton_takebacks_total{reason="slow"} 0`,
		`baton_takebacks_total{reason="undecided"} 0`,
		`baton_tls_certificate_not_after_timestamp_seconds{name="example.com"} 1.8e+09`,
		`baton_tls_certificate_not_before_timestamp_seconds{name="example.com"} 1.7e+09`,
		`baton_trial_requests_total{generation="serving",result="denied"} 1`,
		`baton_trial_requests_total{generation="serving",result="empty"} 0`,
		`baton_trial_requests_total{generation="serving",result="failed"} 0`,
		`baton_trial_requests_total{generation="serving",result="redirected"} 0`,
		`baton_trial_requests_total{generation="serving",result="succeeded"} 70`,
		`baton_trial_requests_total{generation="trial",result="denied"} 0`,
		`baton_trial_requests_total{generation="trial",result="empty"} 0`,
		`baton_trial_requests_total{generation="trial",result="failed"} 2`,
		`baton_trial_requests_total{generation="trial",result="redirected"} 0`,
		`baton_trial_requests_total{generation="trial",result="succeeded"} 5`,
		`baton_upgrade_duration_seconds_count 1`,
		`baton_upgrades_total{result="failed"} 0`,
		`baton_upgrades_total{result="refused"} 0`,
		`baton_upgrades_total{result="succeeded"} 2`,
	}
	if diff := cmp.Diff(want, samples); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		testserver.Equal(t, "has "+name, strings.Contains(whole, "\n"+name+" "), true)
	}
	problems, err := promlint.New(strings.NewReader(whole)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: got %v, %v, want none", problems, err)
	}
	for _, help := range regexp.MustCompile(`(?m)^# HELP baton_.*$`).FindAllString(whole, -1) {
		testserver.Equal(t, help+" is a sentence", strings.HasSuffix(help, "."), true)
	}
}

func TestMetricsNegotiateOpenMetrics(t *testing.T) {
	response, body := testserver.Do(t, testserver.Serve(t, newMetrics().Handler()), "GET", "/metrics", "Accept", "application/openmetrics-text; version=1.0.0")
	testserver.Equal(t, "Content-Type", strings.HasPrefix(response.Header.Get("Content-Type"), "application/openmetrics-text"), true)
	testserver.Equal(t, "ends as OpenMetrics", strings.HasSuffix(body, "# EOF\n"), true)
}

func TestMetricsCount(t *testing.T) {
	m := newMetrics()
	logged, logger := testserver.Capture()
	server := testserver.Serve(t, middleware.Log(m.Count(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/404":
			reply.Error(w, r, 404, "not found")
		case "/hints":
			w.WriteHeader(103)
			io.WriteString(w, "x")
		case "/panic":
			panic("cause")
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/half":
			w.WriteHeader(206)
			panic(http.ErrAbortHandler)
		case "/hijack":
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}
	})), logger))
	requests := []string{"GET /", "POST /", "GET /404", "GET /404", "PURGE /", "get /", "GET /hints", "GET /panic",
		"POST /abort", "GET /half", "PATCH /hijack"}
	for _, request := range requests {
		method, path, _ := strings.Cut(request, " ")
		_, _, _ = testserver.Try(t, server, method, path)
	}
	logged.AwaitAll(t, "request", len(requests))

	_, samples := scrape(t, m)
	var got []string
	for _, sample := range samples {
		if strings.HasPrefix(sample, "baton_http_request") && !strings.Contains(sample, "flight") {
			got = append(got, strings.TrimPrefix(sample, "baton_http_"))
		}
	}
	want := []string{
		`request_duration_seconds_count 9`, // without the hijacked and the aborted one
		`requests_total{code="101",method="PATCH"} 1`,
		`requests_total{code="200",method="GET"} 2`,
		`requests_total{code="200",method="POST"} 1`,
		`requests_total{code="200",method="other"} 2`,
		`requests_total{code="206",method="GET"} 1`,
		`requests_total{code="404",method="GET"} 2`,
		`requests_total{code="500",method="GET"} 1`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestMetricsCountAllocatesOnlyTheRecorder(t *testing.T) {
	handler := newMetrics().Count(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }))
	request := httptest.NewRequest("GET", "/", nil)
	inner := &testserver.Plain{}
	got := testing.AllocsPerRun(1000, func() { handler.ServeHTTP(inner, request) })
	testserver.Equal(t, "allocations", got, 1)
}
