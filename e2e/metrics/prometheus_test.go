package metrics

import (
	"fmt"
	"net/http"
	"regexp"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

func TestPrometheus(t *testing.T) {
	tier.Slow(t, "runs Prometheus")
	t.Parallel()
	tier.Tool(t, "prometheus")
	build.Version(t, "v2")
	var failing atomic.Int64
	fails := backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failing.Add(1)
		http.Error(w, "on purpose", http.StatusBadGateway)
	}))
	cert, key := certificate.Certificate(t)
	b := service.Start(t, service.Listen("HOST:PORT", "tls:HOST:PORT"), service.Proxied(t), service.Args("-proxy", "/fails/="+fails, "-tls-cert", cert, "-tls-key", key))
	p := startPrometheus(t, b)
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Echo("")}
	const clients, pause = 16, 20 * time.Millisecond
	l.Pause = pause
	l.Clients = [load.Habits]int{load.Pausing: clients}
	counts, stop := load.Start(t, l)
	// A rate needs a beginning.
	await.Until(t, "rate", func() bool { return p.number("sum(rate(baton_http_requests_total[5s]))") > 0 })
	began := time.Now()

	upgrades := tier.Times(t, "upgrades", 0, 6, 15)
	for i := range upgrades {
		tick := time.After(1100 * time.Millisecond) // so that each generation is scraped
		b.Deploy([]string{"v2", "v1"}[i%2])
		b.Upgrade()
		if i%4 == 0 {
			b.Get("/fails/")
		}
		<-tick
	}
	ended := time.Now()
	stop()
	if n := counts.Failures(); n != 0 {
		t.Errorf("%d requests lost:\n%v", n, counts)
	}
	load.CheckKept(t, counts, l.Clients)
	want := float64(counts.Requests() + failing.Load())
	const sum = "sum(baton_http_requests_total)"
	if !await.Holds(await.Hang, func() bool { return p.number(sum) == want }) {
		t.Errorf("%s: got %v, want the %v requests that were answered", sum, p.number(sum), want)
	}
	if got := p.number("baton_generation"); got != float64(upgrades+1) {
		t.Errorf("generation: got %v, want %d", got, upgrades+1)
	}
	if got := p.number(`baton_upgrades_total{result="succeeded"}`); got != float64(upgrades) {
		t.Errorf("upgrades: got %v, want %d", got, upgrades)
	}

	// Every scrape has succeeded, but for those that took the whole second that Prometheus grants them, as they may on a
	// busy machine. How many there are is up to Prometheus.
	all := fmt.Sprintf("[10m] @ %d", time.Now().Unix())
	up, took := p.query("up"+all), p.query("scrape_duration_seconds"+all)
	if len(up) != 1 || len(took) != 1 || len(up[0].Values) != len(took[0].Values) {
		t.Fatalf("up: got %d series, want one instance", len(up))
	}
	scrapes, late := up[0].Values, 0
	for i, s := range scrapes {
		if seconds := took[0].Values[i].value; s.value != 1 && seconds >= 1 {
			late++
		} else if s.value != 1 {
			t.Errorf("scrape %d failed within %v s", i, seconds)
		}
	}
	if late > len(scrapes)/2 {
		t.Errorf("%d of %d scrapes took more than a second", late, len(scrapes))
	}
	t.Logf("%d scrapes, %d of them late, the longest took %.3f s; %v", len(scrapes), late, p.number("max_over_time(scrape_duration_seconds[10m])"), counts)

	// No counter was ever reset: ours, and those of Go and of the process.
	var names []string
	p.ask("label/__name__/values", &names)
	counters, of := regexp.MustCompile(`^(baton|go|process)_.*(_total|_count|_sum|_bucket)$`), 0
	for _, name := range names {
		if !counters.MatchString(name) {
			continue
		}
		for _, s := range p.query("resets(" + name + "[10m])") {
			of++
			if s.Value.value != 0 {
				t.Errorf("%s%v: %v resets, want none", name, s.Metric, s.Value.value)
			}
		}
	}
	if of < 60 {
		t.Errorf("counters: got %d series, want more than 60", of)
	}

	// No rate has a gap, or counts anything twice.
	window := fmt.Sprintf("[%ds:1s] @ %d", int(ended.Sub(began).Seconds()), ended.Unix())
	const rate = "sum(rate(baton_http_requests_total[5s]))"
	least, most := p.number("min_over_time("+rate+window+")"), p.number("max_over_time("+rate+window+")")
	if top := 1.5 * clients / pause.Seconds(); !(least > 0) || !(most < top) {
		t.Errorf("rate: got %v to %v a second, want more than 0 and less than %v", least, most, top)
	}
	for _, s := range p.query("max_over_time(rate(process_cpu_seconds_total[5s])" + window + ")") {
		if s.Value.value > float64(runtime.NumCPU())*1.5 {
			t.Errorf("CPU: got %v in use, want no more than there are", s.Value.value)
		}
	}
	checkDashboard(t, p)
}

// Parts of a valid expression that hold no metric, and what may be left of it: a metric with its matchers, or a word
// of the language.
var (
	notMetrics = regexp.MustCompile(`\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\b(?:and|or|unless|bool|offset|inf|nan)\b`)
	metric     = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^}]*\})?(\s*\()?|\{[^}]*\}|\b[0-9][0-9a-zA-Z.]*`)
)
