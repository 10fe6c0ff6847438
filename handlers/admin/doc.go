// Package admin serves the admin listener of a service:
//
//	/         a page that shows generations, upgrades, connections, traffic and backends
//	/events   what keeps that page current: server-sent events
//	/status   the status as JSON
//	/metrics  metrics for Prometheus
//	/healthz  200 while the process is healthy, else 503
//	/readyz   200 while the service takes requests, else 503
//
// The page has its first content when it arrives, also for clients that run no scripts.
// Its script then follows /events, which sends the status and the totals of the line of
// generations once a second, and at once when a generation or an upgrade changes. At most
// 32 clients may watch at a time. The stream ends with the drain, so that the browser
// reconnects to the successor.
package admin
