package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
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
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/internal/tier"
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
			if s.kept, err = http1.Dial("tcp", s.b.Admin, 10*time.Second); err != nil {
				s.problem("dial: %v", err)
				continue
			}
			s.dials++
			s.answered = time.Now()
		}
		s.kept.SetDeadline(time.Now().Add(15 * time.Second))
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
	if !await.Holds(10*time.Second, func() bool { got = scrapeOf(b).requests(); return got >= float64(want) }) || got != float64(want) {
		t.Errorf("sum of baton_http_requests_total: got %v, want the %d requests that were answered", got, want)
	}
}

func TestCountersGoOn(t *testing.T) {
	t.Parallel()
	build.Version(t, "v2")
	b := service.Start(t, service.Files(t))
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files()}
	l.Clients = [load.Habits]int{load.BackToBack: 1, load.Pausing: 16, load.PerRequest: 1, load.PerRequestEnd: 1}
	counts, stop := load.Start(t, l)
	scraper, stopScraper := startScraper(t, b)
	await.Until(t, 20*time.Second, "load", func() bool { return counts.Requests() > 100 && scraper.answers.Load() > 10 })
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
		await.Until(t, 10*time.Second, "scrapes after an upgrade", func() bool { return scraper.answers.Load() > before+4 })
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
		`baton_upgrades_total{result="succeeded"}`:     20,
		`baton_upgrades_total{result="failed"}`:        4,
		"baton_upgrade_duration_seconds_count":         20,
		"baton_drain_duration_seconds_count":           20,
		"baton_http_request_duration_seconds_count":    float64(counts.Requests()),
		`baton_connections_closed_total{reason="cut"}`: 0,
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
	await.Until(t, 20*time.Second, "handoff", func() bool { return b.ReadPID() != predecessor })

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
	b.AwaitExit(predecessor, 10*time.Second)
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

// prometheus is a running Prometheus that scrapes a service every second and knows our rules.
type prometheus struct {
	t       testing.TB
	address string
}

func startPrometheus(t testing.TB, b *service.Baton) *prometheus {
	t.Helper()
	path := tier.Need(t, "prometheus")
	rules, err := filepath.Abs("../../handlers/dashboard/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	err = os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
scrape_configs: [{job_name: baton, static_configs: [{targets: [%q]}]}]
rule_files: [%q]
`, b.Admin, rules), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t: t, address: net.JoinHostPort(b.Host, service.FreePort(t, b.Host))}
	cmd := exec.Command(path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.address, "--log.level=warn")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stderr, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err != nil || t.Failed() {
			t.Logf("prometheus: %v\n%s", err, service.Tail(stderr.String(), 20))
		}
	})
	await.Until(t, 30*time.Second, "Prometheus that is ready", func() bool {
		resp, err := http1.Fetch("tcp", p.address, "GET", "/-/ready")
		return err == nil && resp.Status == 200
	})
	return p
}

// sample is one value at one time, in seconds since 1970.
type sample struct{ at, value float64 }

func (s *sample) UnmarshalJSON(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &[]any{&s.at, &value}); err != nil {
		return err
	}
	var err error
	s.value, err = strconv.ParseFloat(value, 64)
	return err
}

// series is one series of the answer to a query.
type series struct {
	Metric map[string]string
	Value  sample
	Values []sample
}

// ask makes a request of the API, and stores the data of the answer.
func (p *prometheus) ask(path string, data any, values ...string) {
	p.t.Helper()
	query := make(url.Values)
	for pair := range slices.Chunk(values, 2) {
		query.Add(pair[0], pair[1])
	}
	resp, err := http1.Fetch("tcp", p.address, "GET", "/api/v1/"+path+"?"+query.Encode())
	if err != nil {
		p.t.Fatalf("%s %q: %v", path, values, err)
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(resp.Body, &answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s %q: %v, %s %s", path, values, err, answer.Status, answer.Error)
	}
}

// query returns the result of an expression now.
func (p *prometheus) query(expression string) []series {
	p.t.Helper()
	var data struct{ Result []series }
	p.ask("query", &data, "query", expression)
	return data.Result
}

// number returns the only value of an expression, and NaN if there is none.
func (p *prometheus) number(expression string) float64 {
	p.t.Helper()
	result := p.query(expression)
	if len(result) > 1 {
		p.t.Fatalf("%s: got %d series, want 1", expression, len(result))
	}
	if len(result) == 0 {
		return math.NaN()
	}
	return result[0].Value.value
}

func TestPrometheus(t *testing.T) {
	t.Parallel()
	tier.Need(t, "prometheus")
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
	await.Until(t, 20*time.Second, "rate", func() bool { return p.number("sum(rate(baton_http_requests_total[5s]))") > 0 })
	began := time.Now()

	const upgrades = 20
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
	if !await.Holds(20*time.Second, func() bool { return p.number(sum) == want }) {
		t.Errorf("%s: got %v, want the %v requests that were answered", sum, p.number(sum), want)
	}
	if got := p.number("baton_generation"); got != upgrades+1 {
		t.Errorf("generation: got %v, want %d", got, upgrades+1)
	}
	if got := p.number(`baton_upgrades_total{result="succeeded"}`); got != upgrades {
		t.Errorf("upgrades: got %v, want %d", got, upgrades)
	}

	// Every scrape has succeeded, and none is missing.
	up := p.query(`up[10m]`)
	if len(up) != 1 {
		t.Fatalf("up: got %d series, want one instance", len(up))
	}
	scrapes := up[0].Values
	for i, s := range scrapes {
		if s.value != 1 {
			t.Errorf("scrape %d failed", i)
		}
		// The ticker of a Prometheus that has to wait for a processor may be late.
		if i > 0 && s.at-scrapes[i-1].at > 3 {
			t.Errorf("scrape %d came %v s after the one before, want 1", i, s.at-scrapes[i-1].at)
		}
	}
	if seconds := scrapes[len(scrapes)-1].at - scrapes[0].at; float64(len(scrapes)) < .9*seconds {
		t.Errorf("scrapes: got %d in %v s, want one a second", len(scrapes), seconds)
	}
	t.Logf("%d scrapes, the longest took %.3f s; %v", len(scrapes), p.number("max_over_time(scrape_duration_seconds[10m])"), counts)

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

// checkDashboard checks that every series that the dashboard and the rules name is there, and that each panel shows something.
func checkDashboard(t *testing.T, p *prometheus) {
	expressions := make(map[string]string)
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Query, Health, LastError string }
		}
	}
	p.ask("rules", &rules)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			expressions["rule "+rule.Name] = rule.Query
			if rule.Health != "ok" {
				t.Errorf("rule %s: got health %s %s, want ok", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if len(expressions) < 10 {
		t.Fatalf("rules: got %d, want more than 10", len(expressions))
	}
	panels := dashboard(t)
	maps.Copy(expressions, panels)

	found := make(map[string]bool)
	for where, expression := range expressions {
		var canonical string // in which words stand where they have to
		p.ask("format_query", &canonical, "query", expression)
		for _, selector := range selectors(canonical) {
			var data []map[string]string
			p.ask("series", &data, "match[]", selector)
			if found[selector] = true; len(data) == 0 {
				t.Errorf("%s: there is no series %s", where, selector)
			}
		}
	}
	for where, expression := range panels {
		if len(p.query(expression)) == 0 && !strings.HasPrefix(where, "annotation") {
			t.Errorf("%s: shows nothing for %s", where, expression)
		}
	}
	t.Logf("%d expressions with %d selectors", len(expressions), len(found))
}

// Each panel says in which unit its values are, and shows them without the recording rules too. What has none is a number
// or a word that is no quantity.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../handlers/dashboard/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title, Type string
			FieldConfig struct{ Defaults struct{ Unit string } }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	without := []string{"Generation", "Version", "State"}
	for _, panel := range board.Panels {
		unit := panel.FieldConfig.Defaults.Unit
		if panel.Type != "row" && (unit == "" || unit == "none") && !slices.Contains(without, panel.Title) {
			t.Errorf("panel %s: got unit %q, want one", panel.Title, unit)
		}
	}
	for where, expression := range dashboard(t) {
		if strings.Contains(expression, "instance:") {
			t.Errorf("%s: %s takes the recording rules", where, expression)
		}
	}
}

// dashboard returns the expressions of the dashboard, with its variables replaced.
func dashboard(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../handlers/dashboard/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	type target struct{ Expr string }
	var board struct {
		Panels []struct {
			Title   string
			Targets []target
		}
		Annotations struct {
			List []struct{ Name, Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "10s")
	expressions := make(map[string]string)
	for _, panel := range board.Panels {
		for i, target := range panel.Targets {
			expressions[fmt.Sprintf("panel %s, %d", panel.Title, i)] = variables.Replace(target.Expr)
		}
	}
	if len(expressions) < 20 {
		t.Fatalf("dashboard: got %d expressions, want more than 20", len(expressions))
	}
	for _, annotation := range board.Annotations.List {
		expressions["annotation "+annotation.Name] = variables.Replace(annotation.Expr)
	}
	for _, variable := range board.Templating.List {
		if inner, ok := strings.CutPrefix(variable.Definition, "label_values("); ok {
			selector, label, _ := strings.Cut(strings.TrimSuffix(inner, ")"), ", ")
			expressions["variable "+variable.Name] = fmt.Sprintf("count by (%s) (%s)", label, variables.Replace(selector))
		}
	}
	for where, expression := range expressions {
		if strings.Contains(expression, "$") {
			t.Errorf("%s: unknown variable in %s", where, expression)
		}
	}
	return expressions
}

// Parts of a valid expression that hold no metric, and what may be left of it: a metric with its matchers, or a word
// of the language.
var (
	notMetrics = regexp.MustCompile(`\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\b(?:and|or|unless|bool|offset|inf|nan)\b`)
	metric     = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^}]*\})?(\s*\()?|\{[^}]*\}|\b[0-9][0-9a-zA-Z.]*`)
)

// selectors returns the selectors of a valid expression. It must have no } or ] in a string.
func selectors(expression string) (found []string) {
	for _, m := range metric.FindAllStringSubmatch(notMetrics.ReplaceAllString(expression, " "), -1) {
		if m[1] == "" && (m[0][0] < '0' || m[0][0] > '9') { // no function and no number
			found = append(found, m[0])
		}
	}
	return found
}

func TestSelectors(t *testing.T) {
	for expression, want := range map[string]string{
		`up == 0`: `up`,
		`sum by (job, instance) (rate(a_total{code=~"5.."}[5m])) / on (job) group_left (x) b:c > 0.5e3`: `a_total{code=~"5.."} b:c`,
		`histogram_quantile(0.99, sum by (le) (increase(d_bucket[1h:1m] offset 5m))) or 0 * e`:          `d_bucket e`,
		`{__name__="f"} and on () last_over_time(g[1h])`:                                                `{__name__="f"} g`,
	} {
		if got := strings.Join(selectors(expression), " "); got != want {
			t.Errorf("%s: got %s, want %s", expression, got, want)
		}
	}
}

func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool := tier.Need(t, "promtool")
	check := func(stdin []byte, args ...string) {
		t.Helper()
		cmd := exec.Command(promtool, args...)
		cmd.Dir, cmd.Stdin = "../../handlers/dashboard", bytes.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil || stdin != nil && len(out) > 0 {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	check(nil, "check", "rules", "rules.yml")
	check(nil, "test", "rules", "rules_test.yml")
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	b.Get("/")
	b.Upgrade() // so that there are others
	b.AwaitGeneration(2, 10*time.Second)
	resp, err := http1.Fetch("tcp", b.Admin, "GET", "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	check(resp.Body, "check", "metrics")
}
