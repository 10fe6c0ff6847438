// Package handlers is what Baton serves.
//
// On the public listener that is Files, a directory; Proxy, the applications
// behind Baton; or Page, which shows live which generation answers. Two
// wrappers go around them: Log gives each request its id, writes the access
// log and catches panics; Metrics.Count counts. Both share one wrapper of the
// ResponseWriter, which keeps sendfile, flushing and hijacking.
//
// On the admin listener it is Admin: metrics, health, readiness, status, and a
// page that shows what happens, live. Folder dashboard has what Grafana and
// Prometheus make of the metrics.
//
// A service outlives its processes, and so do its counters: Metrics adds to its
// own what the other generations of the line have counted.
//
// The package decides nothing about generations, links or connections. What it
// shows it is given: Page an Identity and a function that returns the start of
// the drain, Metrics a function that returns a Snapshot, in the types of packages
// upgrade and server, and one for the others' counts, Admin one for readiness
// and one for the status.
package handlers
