package server

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"example.com/baton/upgrade"
)

// outcomes counts the requests for which a handler was called, by how they ended.
type outcomes struct {
	started, answered, ended            atomic.Uint64
	failed, denied, redirected, isEmpty atomic.Uint64
	latency                             [len(upgrade.Latencies{})]atomic.Uint64
}

// Outcomes returns what has become of the requests since the start. It counts those for which the
// handler was called: neither those of connections that a handler of a predecessor had hijacked,
// nor those that the server answers itself.
func (s *Server) Outcomes() (o upgrade.Outcomes) {
	// What is counted first is loaded last: of those that are answered, say, all have started.
	c := &s.outcomes
	for i := range o.Latency {
		o.Latency[i] = c.latency[i].Load()
	}
	o.Failed, o.Denied, o.Redirected, o.Empty = c.failed.Load(), c.denied.Load(), c.redirected.Load(), c.isEmpty.Load()
	o.Ended = c.ended.Load()
	o.Answered = c.answered.Load()
	o.Started = c.started.Load()
	return o
}

// countOutcome is called when the handler of a request has returned, or has panicked.
func (w *response) countOutcome(r *http.Request, aborted bool) {
	o := &w.conn.server.outcomes
	if !w.begun {
		o.answered.Add(1)
	}
	o.ended.Add(1)
	if w.status > 0 && w.status != http.StatusSwitchingProtocols && !w.isStream {
		o.latency[(*upgrade.Latencies)(nil).Bucket(time.Since(w.came))].Add(1)
	}
	switch status := w.status; {
	case aborted:
		if r.Context().Err() == nil && !w.conn.isLeft() {
			o.failed.Add(1)
		}
	case status >= 500:
		o.failed.Add(1)
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusNotFound:
		o.denied.Add(1)
	case status >= 300 && status < 400 && status != http.StatusNotModified:
		o.redirected.Add(1)
	case status >= 200 && status < 300 && !w.hasBody && r.Method == http.MethodGet && status != http.StatusNoContent && status != http.StatusResetContent:
		o.isEmpty.Add(1)
	}
}

// isEventStream reports whether a response with this header takes as long as its client likes.
func isEventStream(h http.Header) bool {
	kind := h["Content-Type"]
	return len(kind) > 0 && strings.HasPrefix(kind[0], "text/event-stream")
}

// isLeft reports whether the client has closed the connection, or has been waited for too long.
func (c *conn) isLeft() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason == ByClient || c.reason == TimedOut
}
