package metrics

import (
	"slices"
	"strings"

	"example.com/baton/handlers/backends"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxBackends    = 32  // that have labels of their own
	maxBackendName = 128 // bytes
	otherBackends  = "other"
	backendLabel   = "backend"
)

var (
	backendUpDesc         = describe("baton_backend_up", "Whether a backend of the proxy gets requests: 1 if it does, 0 if it is down, leaving or sick.", backendLabel)
	backendRequestsDesc   = describe("baton_backend_requests_total", "Requests answered by a backend to all generations so far, by class of the status code.", backendLabel, "code")
	backendErrorsDesc     = describe("baton_backend_errors_total", "Connects to a backend and requests to it that failed, of all generations so far.", backendLabel)
	backendInProgressDesc = describe("baton_backend_requests_in_progress", "Requests that a backend has in hand of the generation that answers, upgraded connections among them.", backendLabel)
	backendWaitingDesc    = describe("baton_backend_waiting_requests", "Requests of the generation that answers that wait for a backend.")
)

// named returns backends as they are labelled: those beyond maxBackends are one, which is up if
// all of them are, so that what a generation counts has a bounded size.
func named(all []backends.Backend) []backends.Backend {
	var labelled []backends.Backend
	other := backends.Backend{Name: otherBackends, State: backends.Up, Requests: make(map[int]uint64)}
	for _, b := range all {
		if len(labelled) < maxBackends && len(b.Name) <= maxBackendName {
			labelled = append(labelled, b)
			continue
		}
		if b.State != backends.Up {
			other.State = b.State
		}
		other.InProgress += b.InProgress
		other.Errors += b.Errors
		for code, n := range b.Requests {
			other.Requests[code] += n
		}
	}
	if len(labelled) < len(all) {
		labelled = append(labelled, other)
	}
	return labelled
}

func collectBackends(metrics chan<- prometheus.Metric, report backends.Report) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	send(backendWaitingDesc, prometheus.GaugeValue, float64(report.Waiting))
	for _, b := range named(report.Backends) {
		name, up := strings.ToValidUTF8(b.Name, "?"), 0.
		if b.State == backends.Up {
			up = 1
		}
		send(backendUpDesc, prometheus.GaugeValue, up, name)
		send(backendInProgressDesc, prometheus.GaugeValue, float64(b.InProgress), name)
		send(backendErrorsDesc, prometheus.CounterValue, float64(b.Errors), name)
		for i, n := range b.ByClass() {
			send(backendRequestsDesc, prometheus.CounterValue, float64(n), name, backends.Classes[i])
		}
	}
}

// KeepBackends returns a function that reports whether a counter of [Metrics.Own] is not about a
// backend other than these, by which the counters of backends end with the last generation that
// has them: Options.KeepCount of package upgrade. Applications that are deployed under new names
// would make more and more of them otherwise.
func KeepBackends(all []backends.Backend) func(series string) bool {
	var names []string
	for _, b := range named(all) {
		names = append(names, strings.ToValidUTF8(b.Name, "?"))
	}
	return func(series string) bool {
		if !strings.HasPrefix(series, "baton_backend_") {
			return true
		}
		_, labels, _ := parseKey(series)
		for _, l := range labels {
			if l.GetName() == backendLabel {
				return slices.Contains(names, l.GetValue())
			}
		}
		return false
	}
}
