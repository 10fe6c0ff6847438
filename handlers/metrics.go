// Metrics: what Prometheus reads.

package handlers

import (
	"net/http"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// MetricsOptions configure NewMetrics.
type MetricsOptions struct {
	Version, Revision string
	Source            func() Snapshot // called at each scrape, perhaps by several at once
}

// Metrics counts requests and durations, and shows Snapshots.
type Metrics struct {
	requests  requestCounts
	durations prometheus.Histogram
	upgrades  prometheus.Histogram
	drains    prometheus.Histogram
	handler   http.Handler
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics(options MetricsOptions) *Metrics {
	histogram := func(name, help string, buckets ...float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	m := &Metrics{
		durations: histogram("baton_http_request_duration_seconds",
			"Time from the request's header to the end of the response. Hijacked connections are left out.",
			.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		upgrades: histogram("baton_upgrade_duration_seconds",
			"Time from the trigger of an upgrade until the successor was ready.",
			.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60),
		drains: histogram("baton_drain_duration_seconds",
			"Time from losing the sockets until the last connection was gone.",
			.05, .1, .25, .5, 1, 1.5, 2.5, 5, 10, 20, 30, 60),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "baton_build_info", Help: "What this generation was built from. Always 1.",
		ConstLabels: prometheus.Labels{"version": options.Version, "revision": options.Revision, "goversion": runtime.Version()},
	})
	build.Set(1)

	registry := prometheus.NewRegistry()
	registry.MustRegister(build, m.durations, m.upgrades, m.drains, &m.requests, snapshots(options.Source),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
	return m
}

// Handler answers scrapes, in OpenMetrics for who asks for it.
func (m *Metrics) Handler() http.Handler { return m.handler }

// ObserveUpgrade records how long an upgrade took from its trigger to ready.
func (m *Metrics) ObserveUpgrade(d time.Duration) { m.upgrades.Observe(d.Seconds()) }

// ObserveDrain records how long a drain took.
func (m *Metrics) ObserveDrain(d time.Duration) { m.drains.Observe(d.Seconds()) }

// Count wraps next and counts its requests when they end. A request that was
// cut before it had an answer has no code and is not counted; one whose
// handler panicked has 500, which is what Log makes of it.
func (m *Metrics) Count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		method := methodIndex(r.Method) // next may change r
		rec := record(w)
		defer func() {
			failure := recover()
			status := rec.status
			if status == 0 && failure == nil {
				status = http.StatusOK // net/http sends it when the handler returns
			} else if status == 0 && failure != http.ErrAbortHandler {
				status = http.StatusInternalServerError
			}
			if status != 0 {
				m.requests.add(status, method)
			}
			if status != 0 && !rec.hijacked {
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

// requestCounts is a counter for each code and method that there can be: a
// request costs one atomic addition, and neither a lookup nor an allocation.
type requestCounts [900][len(methods)]atomic.Uint64

var requestsDesc = prometheus.NewDesc("baton_http_requests_total",
	"Requests answered, by status code and method.", []string{"code", "method"}, nil)

// add ignores codes that net/http does not send either.
func (c *requestCounts) add(code, method int) {
	if code >= 100 && code < 1000 {
		c[code-100][method].Add(1)
	}
}

func (c *requestCounts) Describe(descs chan<- *prometheus.Desc) { descs <- requestsDesc }

func (c *requestCounts) Collect(metrics chan<- prometheus.Metric) {
	for i := range c {
		for j := range c[i] {
			if n := c[i][j].Load(); n > 0 {
				metrics <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n),
					strconv.Itoa(100+i), methods[j])
			}
		}
	}
}
