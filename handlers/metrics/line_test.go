package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/server"
	"example.com/baton/upgrade"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// samples returns what a scraper reads of the families, by series; buckets are cumulative.
func samples(families []*dto.MetricFamily) map[string]float64 {
	found := make(map[string]float64)
	for _, f := range families {
		name := f.GetName()
		for _, m := range f.Metric {
			switch {
			case m.Counter != nil:
				found[key(name, m.Label)] = m.Counter.GetValue()
			case m.Gauge != nil:
				found[key(name, m.Label)] = m.Gauge.GetValue()
			case m.Summary != nil:
				found[key(name+"_sum", m.Label)] = m.Summary.GetSampleSum()
				found[key(name+"_count", m.Label)] = float64(m.Summary.GetSampleCount())
				for _, q := range m.Summary.Quantile {
					found[fmt.Sprintf("%s quantile %v", key(name, m.Label), q.GetQuantile())] = q.GetValue()
				}
			case m.Histogram != nil:
				found[key(name+"_sum", m.Label)] = m.Histogram.GetSampleSum()
				found[key(name+"_count", m.Label)] = float64(m.Histogram.GetSampleCount())
				for _, b := range m.Histogram.Bucket {
					found[fmt.Sprintf("%s up to %v", key(name, m.Label), b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	return found
}

func TestLineAdds(t *testing.T) {
	registry := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total"}, []string{"code", "method"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "seconds", Buckets: []float64{.1, 1, 10}})
	pauses := prometheus.NewSummary(prometheus.SummaryOpts{Name: "pauses", Objectives: map[float64]float64{.5: 0}})
	open := prometheus.NewGauge(prometheus.GaugeOpts{Name: "open"})
	network := prometheus.NewCounter(prometheus.CounterOpts{Name: "process_network_receive_bytes_total"})
	registry.MustRegister(requests, seconds, pauses, open, network)
	requests.WithLabelValues("200", "GET").Add(5)
	for _, v := range []float64{.0625, .5, .5, 100} {
		seconds.Observe(v)
	}
	pauses.Observe(.25)
	open.Set(7)
	network.Add(1000)
	own := map[string]float64{
		`requests_total{code="200",method="GET"}`: 5,
		`seconds_sum`: 101.0625, `seconds_count`: 4, `seconds up to 0.1`: 1, `seconds up to 1`: 3, `seconds up to 10`: 3,
		`pauses_sum`: .25, `pauses_count`: 1, `pauses quantile 0.5`: .25,
		`open`: 7, `process_network_receive_bytes_total`: 1000,
	}

	for _, test := range []struct {
		name   string
		others map[string]float64
		want   map[string]float64 // where it differs from own
	}{
		{"nothing", nil, nil},
		{"the same series", map[string]float64{`requests_total{code="200",method="GET"}`: 3},
			map[string]float64{`requests_total{code="200",method="GET"}`: 8}},
		{"labels in another order", map[string]float64{`requests_total{method="GET",code="200"}`: 3, `requests_total{code="200",method="GET"}`: 1},
			map[string]float64{`requests_total{code="200",method="GET"}`: 9}},
		{"a series that is not here", map[string]float64{`requests_total{code="404",method="GET"}`: 3},
			map[string]float64{`requests_total{code="404",method="GET"}`: 3}},
		{"labels that are not here", map[string]float64{`requests_total{code="200",host="a\"b\\c\nd"}`: 3, `requests_total`: 2},
			map[string]float64{`requests_total{code="200",host="a\"b\\c\nd"}`: 3, `requests_total`: 2}},
		{"a family that is not here", map[string]float64{`bytes_total`: 3, `bytes_sum`: 1, `bytes_bucket{le="1"}`: 1}, nil},
		{"a histogram with the same bounds", map[string]float64{`seconds_bucket{le="0.1"}`: 1, `seconds_bucket{le="1"}`: 2,
			`seconds_bucket{le="10"}`: 4, `seconds_count`: 15, `seconds_sum`: 2},
			map[string]float64{`seconds up to 0.1`: 2, `seconds up to 1`: 6, `seconds up to 10`: 10, `seconds_count`: 19, `seconds_sum`: 103.0625}},
		{"a histogram with other bounds", map[string]float64{`seconds_bucket{le="0.05"}`: 1, `seconds_bucket{le="0.5"}`: 2,
			`seconds_bucket{le="2.5"}`: 4, `seconds_bucket{le="30"}`: 8, `seconds_count`: 31},
			map[string]float64{`seconds up to 0.1`: 2, `seconds up to 1`: 6, `seconds up to 10`: 10, `seconds_count`: 35}},
		{"a histogram whose count is too small", map[string]float64{`seconds_bucket{le="1"}`: 8, `seconds_count`: 1},
			map[string]float64{`seconds up to 1`: 11, `seconds up to 10`: 11, `seconds_count`: 11}},
		{"a histogram with labels", map[string]float64{`seconds_bucket{le="1",path="/"}`: 8, `seconds_count{path="/"}`: 9, `seconds_sum{path="/"}`: 4},
			map[string]float64{`seconds{path="/"} up to 0.1`: 0, `seconds{path="/"} up to 1`: 8, `seconds{path="/"} up to 10`: 8,
				`seconds_count{path="/"}`: 9, `seconds_sum{path="/"}`: 4}},
		{"bounds that are none", map[string]float64{`seconds_bucket{le="+Inf"}`: 8, `seconds_bucket{le="NaN"}`: 8, `seconds_bucket{le="x"}`: 8,
			`seconds_bucket`: 8, `seconds_bucket{le="1"}`: .5}, nil},
		{"sum and count of a summary", map[string]float64{`pauses_sum`: 2, `pauses_count`: 3, `pauses{quantile="0.5"}`: 9},
			map[string]float64{`pauses_sum`: 2.25, `pauses_count`: 4}},
		{"a gauge", map[string]float64{`open`: 3}, nil},
		{"what the machine counts", map[string]float64{`process_network_receive_bytes_total`: 900}, nil},
		{"no numbers", map[string]float64{`requests_total{code="200",method="GET"}`: math.NaN(), `seconds_count`: math.Inf(1),
			`seconds_sum`: -1, `pauses_count`: math.Inf(-1)}, nil},
		{"counts that are none", map[string]float64{`seconds_count`: 1.5, `pauses_count`: 1e300, `seconds_bucket{le="1"}`: 1e300}, nil},
		{"malformed keys", malformed(), nil},
		{"labels that belong to others", map[string]float64{`requests_total{le="1"}`: 1, `seconds_count{quantile="1"}`: 1}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			calls := 0
			families, err := line{registry, func() map[string]float64 { calls++; return test.others }}.Gather()
			testserver.Equal(t, "error", err, nil)
			testserver.Equal(t, "calls", calls, 1)
			want := maps.Clone(own)
			maps.Copy(want, test.want)
			if diff := cmp.Diff(want, samples(families)); diff != "" {
				t.Errorf("samples (-want +got):\n%s", diff)
			}
			if again, _ := registry.Gather(); !cmp.Equal(own, samples(again)) {
				t.Errorf("the registry itself: %s", cmp.Diff(own, samples(again)))
			}
			checkText(t, families)
		})
	}
}

func malformed() map[string]float64 {
	found := make(map[string]float64)
	for _, text := range []string{"", "{", "}", "requests_total{", "requests_total}", "requests_total{}", "requests_total{code}",
		`requests_total{code="200"`, `requests_total{code="200}`, `requests_total{code="200"}x`, `requests_total{code="200",}`,
		`requests_total{code="200" method="GET"}`, `requests_total{code="2\00"}`, `requests_total{code="200\`, `requests_total{code="200\"}`,
		`requests_total{code="1",code="2"}`, `requests_total{="200"}`, `requests_total{0="200"}`, `requests_total{__name__="a"}`,
		"requests_total{code=\"\xff\"}", ` requests_total`, `requests_total `, `requests_total{ code="200"}`, `requests_total{a:b="200"}`} {
		found[text] = 1
	}
	return found
}

// checkText writes and reads the families in the text format.
func checkText(t *testing.T, families []*dto.MetricFamily) {
	t.Helper()
	var text strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	for sample := range strings.Lines(text.String()) {
		series := sample[:strings.LastIndexByte(sample, ' ')+1]
		if !strings.HasPrefix(sample, "#") && seen[series] {
			t.Errorf("series %s is there twice", series)
		}
		seen[series] = true
	}
}

// A key is read as it was written, and whatever is read is written in one way only.
func FuzzKey(f *testing.F) {
	f.Add("a_total", "code", "200", "method", `G"E\T`)
	f.Add(`a{b="c"}`, "", "\n", "__x", "\xff")
	for text := range malformed() {
		f.Add(text, "a", "", "b", "")
	}
	f.Fuzz(func(t *testing.T, text, name1, value1, name2, value2 string) {
		if name, labels, ok := parseKey(text); ok {
			name2, labels2, ok := parseKey(key(name, labels))
			if !ok || name2 != name || key("", labels) != key("", labels2) {
				t.Errorf("%q: read as %q and %v, and then as %q and %v", text, name, labels, name2, labels2)
			}
		}
		if !isName(name1, "") || !isName(name2, "") || name1 >= name2 || strings.HasPrefix(name1, "__") || strings.HasPrefix(name2, "__") {
			return
		}
		value1, value2 = strings.ToValidUTF8(value1, ""), strings.ToValidUTF8(value2, "")
		_, labels, ok := parseKey(key("a", []*dto.LabelPair{{Name: &name1, Value: &value1}, {Name: &name2, Value: &value2}}))
		if !ok || len(labels) != 2 || labels[0].GetValue() != value1 || labels[1].GetValue() != value2 {
			t.Errorf("%q, %q: read as %v", value1, value2, labels)
		}
	})
}

func TestValuesAreExactInAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		var sum [2]float64
		all := make([]float64, 100)
		for i := range all {
			all[i] = onGrid(math.Exp(random.Float64()*28 - 14)) // a microsecond to two weeks
		}
		for _, v := range all {
			sum[0] += v
		}
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, v := range all {
			sum[1] += v
		}
		if sum[0] != sum[1] {
			t.Fatalf("sums differ by %g", sum[0]-sum[1])
		}
	}
}

// A line of generations, some of another release, under traffic: at each moment
// the one that answers shows what all of them have counted.
func TestCountersGoOn(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { countersGoOn(t, seed) })
	}
}

func countersGoOn(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	releases := [][]float64{{.001, .01, .1, 1}, {.001, .005, .01, .05, .1, .5, 1}, {.01, .1, 1, 100}, {.003, .1}}
	const inAll = .1
	labels := map[int]string{200: "200", 304: "304", 404: "404", 502: "502", 299: "2xx", 777: "other"}
	codes := slices.Sorted(maps.Keys(labels))
	type generation struct {
		*Metrics
		handler http.Handler
		closed  uint64
		moved   uint64
	}
	var (
		living                   []*generation // the last one serves
		dead                     = make(map[string]float64)
		want                     = make(map[string]float64) // counters that are known exactly
		durations, short, closed float64
		before                   = make(map[string]float64)
	)
	exit := func(g *generation) {
		for k, v := range g.Own() {
			dead[k] += v
		}
		living = slices.DeleteFunc(living, func(other *generation) bool { return other == g })
	}
	for n := 1; n <= 5; n++ {
		g := &generation{}
		g.Metrics = New(Options{
			durationBuckets: releases[random.IntN(len(releases))],
			Source: func() Snapshot {
				return Snapshot{Generation: n, State: upgrade.Serving, Closed: map[server.Reason]uint64{server.ByClient: g.closed},
					MigratedOut: map[server.Protocol]uint64{server.HTTP1: g.moved, server.HTTP2OverTLS: 2 * g.moved}}
			},
			Others: func(context.Context) map[string]float64 {
				others := maps.Clone(dead)
				for _, other := range living {
					if other != g {
						for k, v := range other.Own() {
							others[k] += v
						}
					}
				}
				return others
			},
		})
		g.handler = g.Count(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			code, _ := strconv.Atoi(r.URL.Path[1:])
			w.WriteHeader(code)
		}))
		living = append(living, g)
		for range 40 {
			switch at := living[random.IntN(len(living))]; random.IntN(10) {
			case 0:
				d := random.Float64() * 2 // beside the short ones of requests
				at.durations.Observe(d)
				durations++
				if d <= inAll {
					short++
				}
			case 1:
				at.closed++
				closed++
				at.moved += 2
			case 2:
				if len(living) > 1 {
					exit(living[0])
				}
			default:
				code, method := codes[random.IntN(len(codes))], methods[random.IntN(len(methods))]
				at.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, fmt.Sprintf("/%d", code), nil))
				want[fmt.Sprintf("baton_http_requests_total{code=%q,method=%q}", labels[code], method)]++
				durations++
				short++
			}
			want[`baton_connections_closed_total{reason="client"}`] = closed
			want[`baton_connections_migrated_total{direction="out",protocol="http/1.1"}`] = 2 * closed
			want[`baton_connections_migrated_total{direction="out",protocol="http/2+tls"}`] = 4 * closed
			want["baton_http_request_duration_seconds_count"] = durations
			want[fmt.Sprint("baton_http_request_duration_seconds up to ", inAll)] = short

			families, err := g.line(t.Context()).Gather()
			if err != nil {
				t.Fatal(err)
			}
			checkText(t, families)
			now := samples(families)
			for series, want := range want {
				testserver.Equal(t, series, now[series], want)
			}
			for series, was := range before {
				is, there := now[series]
				_, isBucket := strings.CutPrefix(series, "baton_http_request_duration_seconds up to ")
				if isCumulative(series) && (is < was || !there) && !(isBucket && !there) {
					t.Fatalf("generation %d: %s was %v and is %v (there: %v)", n, series, was, is, there)
				}
			}
			maps.Copy(before, now)
		}
		for len(living) > 1 {
			exit(living[0])
		}
	}
}

// isCumulative reports for a series of samples whether it must never decrease.
func isCumulative(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	return strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") ||
		strings.Contains(series, " up to ")
}

// worstCase counts every label that there can be, and much of it.
func worstCase() *Metrics {
	m := newMetrics()
	for code := 100; code < 1000; code++ {
		for method := range methods {
			m.requests.Add(code, method)
		}
	}
	for i := range m.requests {
		for j := range m.requests[i] {
			if n := m.requests[i][j].Load(); n > 0 {
				m.requests[i][j].Store(1<<53 - uint64(1000*i+j))
			}
		}
	}
	for _, h := range []prometheus.Histogram{m.durations, m.upgrades, m.drains} {
		for d := .0001; d < 100; d *= 1.1 {
			h.Observe(d)
		}
	}
	return m
}

func TestOwnIsBounded(t *testing.T) {
	own := worstCase().Own()
	text, err := json.Marshal(own)
	testserver.Equal(t, "error", err, nil)
	t.Logf("%d values, %d bytes", len(own), len(text))
	if len(text) > 100_000 {
		t.Errorf("%d bytes, want less than 100,000, which leaves room for 120 KB", len(text))
	}
	testserver.Equal(t, "other codes than those of HTTP", own[`baton_http_requests_total{code="other",method="GET"}`] > 0, true)
	testserver.Equal(t, "codes of a class", own[`baton_http_requests_total{code="5xx",method="GET"}`] > 0, true)
	testserver.Equal(t, "CPU seconds", own["process_cpu_seconds_total"] > 0, true)
	testserver.Equal(t, "allocated bytes", own["go_memstats_alloc_bytes_total"] > 0, true)
	for name := range own {
		if strings.HasPrefix(name, "process_network") {
			t.Errorf("has %s, which the machine counts", name)
		}
	}
}

func BenchmarkOwn(b *testing.B) {
	for name, m := range map[string]*Metrics{"usual": newMetrics(), "worst": worstCase()} {
		m.requests.Add(200, 0)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Own()
			}
		})
	}
}

func BenchmarkScrape(b *testing.B) {
	m := worstCase()
	own := m.Own()
	m.others = func(context.Context) map[string]float64 { return own }
	for b.Loop() {
		m.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
	}
}
