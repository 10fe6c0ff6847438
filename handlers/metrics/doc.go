// Package metrics counts requests and exports what a service does to Prometheus.
//
// A service outlives its processes, and so do its counters: [Metrics] adds to its own what
// the other generations of the line have counted, whoever of them is scraped. Directory
// ../dashboard has a dashboard for Grafana, and rules and alerts for Prometheus.
package metrics
