package server

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"example.com/baton/upgrade"
)

// Pair is two servers as one [upgrade.Sharer]: one for clients and one for operators,
// which is drained last so that a stop can be watched. Both must be set before the
// methods are called.
type Pair struct{ Public, Admin *Server }

var (
	_ upgrade.Sharer = (*Pair)(nil)
	_ upgrade.Judged = (*Pair)(nil)
	_ upgrade.Holder = (*Pair)(nil)
)

// Check checks both servers.
func (p *Pair) Check(ctx context.Context) error {
	return errors.Join(p.Public.Check(ctx), p.Admin.Check(ctx))
}

// Accepting returns what keeps listeners from accepting connections.
func (p *Pair) Accepting() error {
	return errors.Join(p.Public.Accepting(), p.Admin.Accepting())
}

// AcceptErrors returns how many attempts to accept a connection failed.
func (p *Pair) AcceptErrors() uint64 { return p.Public.AcceptErrors() + p.Admin.AcceptErrors() }

// Adopt is that of the server that has the connection's listener.
func (p *Pair) Adopt(c upgrade.Connection) (begin func()) {
	if p.Admin.has(c.Listener) {
		return p.Admin.Adopt(c)
	}
	return p.Public.Adopt(c)
}

// Serve begins to accept connections with both servers, and returns at once.
func (p *Pair) Serve() {
	p.Public.Serve()
	p.Admin.Serve()
}

// Share shares the connections of the public server. Those of the admin server stay, and it goes
// on accepting, until the share is 1: then whoever asks the successor's listeners is answered by
// the successor.
func (p *Pair) Share(h upgrade.Handoff, share float64) {
	p.Public.Share(h, share)
	if share < 1 {
		share = 0
	}
	p.Admin.Share(h, share)
}

// Reclaim ends what Share has begun, for both servers.
func (p *Pair) Reclaim() {
	var both sync.WaitGroup // each accepts at once, whatever the other waits for
	both.Go(p.Admin.Reclaim)
	p.Public.Reclaim()
	both.Wait()
}

// Load returns that of the public server: scrapes and probes do not count as work.
func (p *Pair) Load() upgrade.Load { return p.Public.Load() }

// Outcomes returns those of the public server, for the same reason.
func (p *Pair) Outcomes() upgrade.Outcomes { return p.Public.Outcomes() }

// adminDrain bounds the drain of an admin server that nothing is left to be watched on.
const adminDrain = 100 * time.Millisecond

// Drain drains both servers, and returns the report of the public one. Unless the
// successor has the admin server's listeners, that server goes on until the public one
// is drained.
func (p *Pair) Drain(ctx context.Context, h upgrade.Handoff) upgrade.Drained {
	isKept := !slices.ContainsFunc(p.Admin.listeners, func(l *listener) bool { return !h.Kept(l.Listener) })
	if isKept {
		drained := make(chan upgrade.Drained, 1)
		go func() { drained <- p.Admin.Drain(ctx, h) }()
		defer func() { <-drained }()
		return p.Public.Drain(ctx, h)
	}
	d := p.Public.Drain(ctx, h)
	ctx, cancel := context.WithTimeout(ctx, adminDrain)
	defer cancel()
	p.Admin.Drain(ctx, h)
	return d
}

// has reports whether a listener is one of this server.
func (s *Server) has(ln net.Listener) bool {
	return slices.ContainsFunc(s.listeners, func(l *listener) bool { return l.Listener == ln })
}
