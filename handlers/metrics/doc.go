// Package metrics counts requests and exports what a service does to Prometheus.
//
// A service outlives its processes, and so do its counters: [Metrics] adds to its own what
// the other generations of the line have counted, whoever of them is scraped. Those
// about a backend of the proxy end with the last generation that has it, and beyond 32 backends the
// others count as one. Directory
// ../dashboard has a dashboard for Grafana, and rules and alerts for Prometheus.
package metrics
