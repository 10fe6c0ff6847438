package metrics

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// What a scraper sees of a service that is upgraded all the time: one service, whose counters go on.

// scrape is what one answer of /metrics has, by series.
type scrape map[string]float64

// cumulative are the samples of one answer that must never decrease: those of counters and histograms, and sums and counts.
func cumulative(text string) (scrape, error) {
	found := make(scrape)
	kind := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if declared, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, kind, _ = strings.Cut(declared, " ")
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		if at < 0 {
			return nil, fmt.Errorf("malformed line %q", line)
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("malformed line %q", line)
		}
		series := line[:at]
		name, _, _ := strings.Cut(series, "{")
		if kind == "counter" || kind == "histogram" || kind == "summary" && (strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count")) {
			found[series] = value
		}
	}
	return found, nil
}

// requests is the sum of baton_http_requests_total.
func (s scrape) requests() (sum float64) {
	for series, value := range s {
		if strings.HasPrefix(series, "baton_http_requests_total{") {
			sum += value
		}
	}
	return sum
}

// scrapeOf asks for the metrics, on a connection of its own.
func scrapeOf(b *service.Baton) scrape {
	b.T.Helper()
	resp, err := http1.Fetch("tcp", b.Admin, "GET", "/metrics")
	if err != nil {
		b.T.Fatal(err)
	}
	s, err := cumulative(string(resp.Body))
	if err != nil || resp.Status != 200 {
		b.T.Fatalf("scrape: got status %d, %v", resp.Status, err)
	}
	return s
}

// scraper scrapes as fast as it can, in turn on a fresh connection and on one that it keeps as long as the
// server does, and compares each answer with the one before.
type scraper struct {
	b        *service.Baton
	kept     *http1.Conn
	dials    int       // of kept
	answered time.Time // when the last answer on kept was there
	last     scrape
	answers  atomic.Int64
	problems []string
}

func (s *scraper) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		resp, err := http1.Fetch("tcp", s.b.Admin, "GET", "/metrics")
		if err != nil {
			s.problem("fresh connection: %v", err)
			continue
		}
		s.take(resp, "fresh connection")
		if s.kept == nil {
			if s.kept, err = http1.Dial("tcp", s.b.Admin, await.Hang); err != nil {
				s.problem("dial: %v", err)
				continue
			}
			s.dials++
			s.answered = time.Now()
		}
		s.kept.SetDeadline(time.Now().Add(await.Hang))
		silent := time.Since(s.answered)
		if _, err = s.kept.Write(http1.Request("GET", "/metrics", nil)); err == nil {
			resp = new(http1.Response)
			err = s.kept.Receive("GET", resp)
		}
		s.answered = time.Now()
		if err == nil {
			s.take(resp, "kept connection")
		} else if s.kept.Served == 0 || silent < s.b.Grace() { // after that, a request may cross the end of the connection
			s.problem("kept connection, request %d: %v", s.kept.Served+1, err)
		}
		if err != nil || resp.Close {
			s.kept.Close()
			s.kept = nil
		}
	}
}

func (s *scraper) problem(format string, args ...any) {
	if len(s.problems) < 20 {
		s.problems = append(s.problems, fmt.Sprintf(format, args...))
	}
}

func (s *scraper) take(resp *http1.Response, how string) {
	now, err := cumulative(string(resp.Body))
	if resp.Status != 200 || err != nil {
		s.problem("%s: status %d, %v", how, resp.Status, err)
		return
	}
	s.answers.Add(1)
	for series, was := range s.last {
		is, there := now[series]
		if is < was || math.IsNaN(is) {
			s.problem("answer %d, %s: %s was %v and is %v (there: %v)", s.answers.Load(), how, series, was, is, there)
		}
	}
	s.last = now
}

// startScraper runs a scraper until stop is called or the test ends; stop reports what was wrong.
func startScraper(t testing.TB, b *service.Baton) (s *scraper, stop func()) {
	s = &scraper{b: b}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		s.run(quit)
		if s.kept != nil {
			s.kept.Close()
		}
	}()
	end := sync.OnceFunc(func() {
		close(quit)
		<-done
	})
	t.Cleanup(end)
	return s, func() {
		t.Helper()
		end()
		for _, problem := range s.problems {
			t.Error(problem)
		}
	}
}

// awaitRequests waits until the service has counted as many requests as were answered: each is counted when its
// handler returns, which is after the client has the answer.
func awaitRequests(t testing.TB, b *service.Baton, want int64) {
	t.Helper()
	var got float64
	if !await.Holds(await.Hang, func() bool { got = scrapeOf(b).requests(); return got >= float64(want) }) || got != float64(want) {
		t.Errorf("sum of baton_http_requests_total: got %v, want the %d requests that were answered", got, want)
	}
}

func TestCountersGoOn(t *testing.T) {
	tier.Slow(t, "scrapes through upgrades under load")
	t.Parallel()
	build.Version(t, "v2")
	b := service.Start(t, service.Files(t))
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files()}
	l.Clients = [load.Habits]int{load.BackToBack: 1, load.Pausing: 16, load.PerRequest: 1, load.PerRequestEnd: 1}
	counts, stop := load.Start(t, l)
	scraper, stopScraper := startScraper(t, b)
	await.Until(t, "load", func() bool { return counts.Requests() > 100 && scraper.answers.Load() > 10 })
	for i := range 20 {
		b.Deploy([]string{"v2", "v1"}[i%2])
		if i%5 == 4 { // one that fails must not count anything twice either
			b.DeployBytes(files.Script("exit 1"), 0o755)
			if u := b.TryUpgrade(); u.Result != "failed" {
				t.Fatalf("upgrade: got %s, want failed", u.Result)
			}
			b.Deploy("v1")
		}
		before := scraper.answers.Load()
		b.Upgrade()
		await.Until(t, "scrapes after an upgrade", func() bool { return scraper.answers.Load() > before+4 })
	}
	stop()
	stopScraper()
	t.Logf("%d scrapes, %v", scraper.answers.Load(), counts)
	if n := counts.Failures(); n != 0 {
		t.Errorf("%d requests lost", n)
	}
	if scraper.dials != 1 {
		t.Errorf("connections that the scraper wanted to keep: got %d, want 1 through all generations", scraper.dials)
	}
	awaitRequests(t, b, counts.Requests())
	now := scrapeOf(b)
	for series, want := range map[string]float64{
		`baton_upgrades_total{result="succeeded"}`:               20,
		`baton_upgrades_total{result="failed"}`:                  4,
		"baton_upgrade_duration_seconds_count":                   20,
		"baton_drain_duration_seconds_count":                     20,
		"baton_http_request_duration_seconds_count":              float64(counts.Requests()),
		`baton_connections_closed_total{reason="drain_timeout"}`: 0,
	} {
		if got, there := now[series]; got != want || !there {
			t.Errorf("%s: got %v (there: %v), want %v", series, got, there, want)
		}
	}
}

// A predecessor that is killed in its drain loses what it counted in its last second, and nothing else.
func TestCountersOfKilledPredecessor(t *testing.T) {
	t.Parallel()
	held := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, held), "-idle-grace", "20s", "-drain-timeout", "25s", "-migrate=false"))
	const early, late = 40, 40
	conns := make([]*http1.Conn, early+late)
	for i := range conns {
		conns[i] = b.Dial()
		conns[i].Send(t, string(http1.Request("GET", "/first", nil)))
		conns[i].Expect(t, "GET", 200)
	}
	waiting := b.Dial()
	waiting.Send(t, string(http1.Request("GET", "/hold/it", nil)))
	held.Await(t, 1)
	predecessor := b.PID()
	upgraded := b.UpgradeMeanwhile()
	await.Until(t, "handoff", func() bool { return b.ReadPID() != predecessor })

	// The predecessor still answers on the connections that it has.
	for _, c := range conns[:early] {
		c.Send(t, string(http1.Request("GET", "/second", nil)))
		c.Expect(t, "GET", 200)
	}
	settled := time.After(time.Second)
	_, stopScraper := startScraper(t, b)
	<-settled // the second belongs to the promise
	for _, c := range conns[early:] {
		c.Send(t, string(http1.Request("GET", "/second", nil)))
		c.Expect(t, "GET", 200)
	}
	b.Kill(predecessor, syscall.SIGKILL)
	b.AwaitExit(predecessor)
	upgraded()
	const sure, most = early + late + early, early + late + early + late
	got := scrapeOf(b).requests()
	if got < sure || got > most {
		t.Errorf("requests after the kill: got %v, want %d to %d", got, sure, most)
	}
	t.Logf("of %d requests in the last moment, %v are counted", late, got-sure)

	// What is known now stays known.
	b.Upgrade()
	for range 10 {
		if status := b.Get("/third").Status; status != 200 {
			t.Fatalf("got status %d, want 200", status)
		}
	}
	awaitRequests(t, b, int64(got)+10)
	stopScraper()
}
