package server

import "example.com/baton/upgrade"

// Reason says why a connection was closed.
type Reason uint8

// The reasons: how metrics spell each, and which count of a drain's report it is part of. To
// add one, add a line here, and pass it to setReason where the connection is about to be
// closed. Metrics have it at once; README, the dashboard and the test of metrics name it. A count of
// its own in reports is a field of upgrade.Closed, and of its sums and texts.
var (
	// ByClient: the client closed the connection, or asked for that.
	ByClient = newReason("client", func(c *upgrade.Closed) *int { return &c.Client })
	// ConnectionClose: a response carried "Connection: close", or HTTP/2 sent a GOAWAY.
	ConnectionClose = newReason("connection_close", func(c *upgrade.Closed) *int { return &c.ConnectionClose })
	// IdleGrace: it stayed idle for the idle grace of a drain, or until the drain's deadline.
	IdleGrace = newReason("idle_grace", func(c *upgrade.Closed) *int { return &c.IdleGrace })
	// DrainTimeout: it was closed forcibly, since it was busy when the drain had to end.
	DrainTimeout = newReason("drain_timeout", func(c *upgrade.Closed) *int { return &c.DrainTimeout })
	// TimedOut: the idle, header, body or write timeout passed.
	TimedOut = newReason("timeout", func(c *upgrade.Closed) *int { return &c.Timeout })
	// Failed: the request was malformed, or its handler panicked.
	Failed = newReason("error", func(c *upgrade.Closed) *int { return &c.Error })
	// Hijacked: a handler had taken it over, and closed it.
	Hijacked = newReason("hijacked", func(c *upgrade.Closed) *int { return &c.Hijacked })
)

// unknown is the zero Reason: nobody has said yet why the connection ends.
const unknown Reason = 0

type reasonInfo struct {
	name  string
	count func(*upgrade.Closed) *int
}

var reasons = []reasonInfo{unknown: {name: "unknown"}}

func newReason(name string, count func(*upgrade.Closed) *int) Reason {
	reasons = append(reasons, reasonInfo{name, count})
	return Reason(len(reasons) - 1)
}

// String returns the reason as metrics spell it.
func (r Reason) String() string { return reasons[r].name }

// closedSince returns how many connections were closed since there were as many as before.
func (s *Server) closedSince(before map[Reason]uint64) (closed upgrade.Closed) {
	for r, n := range s.Closed() {
		*reasons[r].count(&closed) += int(n - before[r])
	}
	return closed
}

// Closed returns how many connections have been closed, by [Reason].
func (s *Server) Closed() map[Reason]uint64 {
	closed := make(map[Reason]uint64, len(reasons))
	for r := unknown + 1; int(r) < len(reasons); r++ {
		closed[r] = s.closed[r].Load()
	}
	return closed
}
