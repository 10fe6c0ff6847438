package metrics

import (
	"context"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"example.com/baton/handlers/internal/recorder"
	"example.com/baton/upgrade"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/procfs"
)

// Options configure [New].
type Options struct {
	Version, Revision string
	Source            func() Snapshot // called at each scrape, perhaps by several at once

	// Others returns what [Metrics.Own] returned in all other generations of the line, the
	// living and the dead, added up. It is called once for each scrape, perhaps by
	// several at once, with the context of that; what it returns is not changed.
	// Nil: there are no others.
	Others func(context.Context) map[string]float64

	durationBuckets []float64 // of tests, which have another release this way
}

// Metrics counts requests and durations, and shows Snapshots. It is an
// [upgrade.Observer], for the durations of upgrades and drains.
type Metrics struct {
	upgrade.NopObserver
	requests  requestCounts
	durations prometheus.Histogram
	upgrades  prometheus.Histogram
	drains    prometheus.Histogram
	counts    *prometheus.Registry // of requests only: what the status page shows
	own       *prometheus.Registry // all but those of the process
	all       prometheus.Gatherer
	others    func(context.Context) map[string]float64
}

// New returns metrics in a registry of their own.
func New(options Options) *Metrics {
	durationBuckets := options.durationBuckets
	if durationBuckets == nil {
		durationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	}
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	m := &Metrics{
		durations: histogram("baton_http_request_duration_seconds",
			"Time from the request's header to the end of the response, of all generations so far. Hijacked connections are left out.",
			durationBuckets...),
		upgrades: histogram("baton_upgrade_duration_seconds",
			"Time from the trigger of an upgrade until the successor was ready, of all upgrades so far.",
			.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60),
		drains: histogram("baton_drain_duration_seconds",
			"Time from losing the sockets until the last connection was gone, of all drains so far.",
			.05, .1, .25, .5, 1, 1.5, 2.5, 5, 10, 20, 30, 60),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "baton_build_info", Help: "What the generation that answers was built from. Always 1.",
		ConstLabels: prometheus.Labels{"version": options.Version, "revision": options.Revision, "goversion": runtime.Version()},
	})
	build.Set(1)

	m.counts = prometheus.NewRegistry()
	m.counts.MustRegister(&m.requests, m.durations)
	m.own = prometheus.NewRegistry()
	m.own.MustRegister(build, m.durations, m.upgrades, m.drains, &m.requests, snapshots(options.Source),
		collectors.NewGoCollector())
	process := prometheus.NewRegistry()
	process.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.all, m.others = prometheus.Gatherers{m.own, process}, options.Others
	if m.others == nil {
		m.others = func(context.Context) map[string]float64 { return nil }
	}
	return m
}

// Handler answers scrapes, in OpenMetrics if the client accepts it. Counters and
// histograms are those of the whole line of generations: its own and Others'.
func (m *Metrics) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(m.line(r.Context()), promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(w, r)
	})
}

func (m *Metrics) line(ctx context.Context) line {
	return line{m.all, func() map[string]float64 { return m.others(ctx) }}
}

// Own returns what this generation has counted so far, to be added to what
// others show. None of the values ever decreases, and as JSON they take less
// than 120 KB, whatever clients and applications send. It may be called at any
// time, by several at once.
func (m *Metrics) Own() map[string]float64 {
	families, _ := m.own.Gather() // what cannot be gathered is missing in a scrape as well
	own := values(families)
	// This is all that the process collector counts for the process alone. To ask
	// the collector would list the open files, which takes long when there are many.
	if self, err := procfs.Self(); err == nil {
		if stat, err := self.Stat(); err == nil {
			own["process_cpu_seconds_total"] = onGrid(stat.CPUTime())
		}
	}
	return own
}

// Ready records how long an upgrade took from its trigger.
func (m *Metrics) Ready(took time.Duration) { m.upgrades.Observe(took.Seconds()) }

// PredecessorDrained records how long a drain took.
func (m *Metrics) PredecessorDrained(d upgrade.Drained) { m.drains.Observe(d.Seconds) }

// Count wraps next and counts its requests when they end. A request that was
// aborted before it had an answer has no code and is not counted; one whose
// handler panicked has 500, which is what middleware.Log answers.
func (m *Metrics) Count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		method := methodIndex(r.Method) // next may change r
		rec := recorder.New(w)
		defer func() {
			failure := recover()
			status := rec.Status
			if status == 0 && failure == nil {
				status = http.StatusOK // net/http sends it when the handler returns
			} else if status == 0 && !recorder.IsAbort(failure) {
				status = http.StatusInternalServerError
			}
			if status != 0 && !rec.HasMigrated() { // else the successor counts it
				m.requests.Add(status, method)
			}
			if status != 0 && !rec.Hijacked {
				m.durations.Observe(time.Since(begin).Seconds())
			}
			if failure != nil {
				panic(failure)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// methods are those of RFC 9110 and PATCH; the last stands for all others, so
// that no client can make up labels.
var methods = [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "other"}

func methodIndex(method string) int {
	for i, m := range methods {
		if m == method {
			return i
		}
	}
	return len(methods) - 1
}

// codes are the status codes that have a label of their own: those of the IANA
// registry, and those that nginx and Cloudflare have made common. Others that an
// application behind Baton may send count as one of their class, so that what a
// generation counts has a bounded size, and an error is an error all the same.
var codes, codeIndices = func() (labels []string, indices [1000]int) {
	classes := []string{"other", "1xx", "2xx", "3xx", "4xx", "5xx", "other", "other", "other", "other"}
	for code := range indices {
		label := classes[code/100]
		if http.StatusText(code) != "" || code == 444 || code >= 494 && code <= 499 || code >= 520 && code <= 530 {
			label = strconv.Itoa(code)
		}
		at := slices.Index(labels, label)
		if at < 0 {
			at = len(labels)
			labels = append(labels, label)
		}
		indices[code] = at
	}
	return labels, indices
}()

// requestCounts is a counter for each of codes and methods: a request costs one
// atomic addition, and neither a lookup nor an allocation.
type requestCounts [128][len(methods)]atomic.Uint64 // with room for codes of Go releases to come

var requestsDesc = prometheus.NewDesc("baton_http_requests_total",
	"Requests answered by all generations so far, by status code and method.", []string{"code", "method"}, nil)

// Add ignores codes that net/http does not send either.
func (c *requestCounts) Add(code, method int) {
	if code >= 100 && code < 1000 {
		c[codeIndices[code]][method].Add(1)
	}
}

func (c *requestCounts) Describe(descs chan<- *prometheus.Desc) { descs <- requestsDesc }

// Collect shows what was counted, and in any case the counter that most services
// have, so that others' are never without a family and a rate has a beginning.
func (c *requestCounts) Collect(metrics chan<- prometheus.Metric) {
	for i := range codes {
		for j := range methods {
			n := c[i][j].Load()
			if n > 0 || codes[i] == "200" && methods[j] == http.MethodGet {
				metrics <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), codes[i], methods[j])
			}
		}
	}
}
