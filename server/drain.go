package server

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/upgrade"
)

// afterDeadline is how long handlers whose connection was closed forcibly have to return
// before the drain ends without them.
const afterDeadline = 250 * time.Millisecond

// drain is the drain of a Server. It is made when the drain begins; whoever finds it in
// Server.drain finds all of it.
type drain struct {
	server   *Server
	ctx      context.Context // its end is the drain's deadline
	began    time.Time
	finished atomic.Int64  // requests
	progress chan struct{} // cap 1: a connection or request has ended
}

// Drain stops accepting, completes every request, ends every connection and returns an
// account of it. When ctx ends first, the connections that remain are closed forcibly.
// Connections that wait in the queue of a listener which nobody keeps are accepted and
// answered first. Drain must be called once at most. After [Server.Share] it goes on with what
// that has begun, and its account includes what has migrated since.
func (s *Server) Drain(ctx context.Context, h upgrade.Handoff) upgrade.Drained {
	d := &drain{server: s, ctx: ctx, began: time.Now(), progress: make(chan struct{}, 1)}
	before := s.Closed()
	m := s.newMigrator(ctx, h)
	s.http2() // its self-test is not for a server that drains
	s.beginDrain(d, m)
	d.run(h, m)
	migrated, by := s.migratedSince(s.before)
	return upgrade.Drained{
		Seconds:     time.Since(d.began).Seconds(),
		Requests:    int(d.finished.Load()),
		Migrated:    migrated,
		MigratedBy:  by,
		Connections: s.closedSince(before),
	}
}

// beginDrain begins a drain, and its session of migration: in this order, since a response is
// the last of a connection that cannot migrate in a drain.
func (s *Server) beginDrain(d *drain, m *migrator) {
	if m != nil {
		m.tunnels = true
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.before == nil {
		_, s.before = s.MigratedBy()
	}
	s.begin(m)
	s.drain.Store(d)
	close(s.draining)
	if m != nil {
		close(s.migrating)
	}
}

func (d *drain) run(h upgrade.Handoff, m *migrator) {
	s := d.server
	d.scheduleHooks()
	stopped := make(chan struct{}) // closed when nothing is accepted any more
	go func() {
		defer close(stopped)
		s.stopAccepting(h.Kept)
	}()
	m.start()
	var goAway sync.WaitGroup
	goAway.Go(func() {
		for _, c := range s.open() {
			c.follower().drain()
		}
	})

	if d.awaitEnd(d.ctx, stopped) {
		s.migration.stop()
		// No connection is left, so that Shutdown has nothing to lose.
		quiet, cancel := context.WithTimeout(context.Background(), afterDeadline)
		s.http.Shutdown(quiet)
		cancel()
	} else {
		s.migration.stop()
		d.closeForcibly()
		s.migration.abandon()
		last, cancel := context.WithTimeout(context.Background(), afterDeadline)
		d.awaitEnd(last, stopped)
		cancel()
		s.http.Close()
	}

	goAway.Wait()
	s.adopted.Close()
	s.adopting.Wait()
}

// awaitEnd closes idle connections as their grace ends. It returns true when nothing is
// accepted any more and neither a connection nor a request is left, false when ctx ends
// first.
func (d *drain) awaitEnd(ctx context.Context, stopped <-chan struct{}) bool {
	s := d.server
	sweep := time.NewTimer(0)
	defer sweep.Stop()
	accepting := true
	for {
		select {
		case <-ctx.Done():
			return false
		case <-stopped:
			accepting, stopped = false, nil
		case <-d.progress:
		case now := <-sweep.C:
			sweep.Reset(time.Until(d.sweep(now)))
		}
		if !accepting && s.count() == 0 && s.requests.Load() == 0 {
			return true
		}
	}
}

// sweep closes the connections whose grace is over, and returns when the next one's ends.
// One that becomes idle later has a whole grace before it.
func (d *drain) sweep(now time.Time) time.Time {
	next := now.Add(max(d.server.opts.IdleGrace, 10*time.Millisecond))
	for _, c := range d.server.open() {
		if end := c.expire(now); !end.IsZero() && end.Before(next) {
			next = end
		}
	}
	return next
}

// closeForcibly closes every listener and connection that is left.
func (d *drain) closeForcibly() {
	for _, ln := range d.server.listeners {
		ln.Close()
	}
	for _, c := range d.server.open() {
		c.setReason(c.reasonAtDeadline())
		c.close(false)
	}
}

// reasonAtDeadline returns why a connection is closed that is left at the deadline. One that
// is idle loses no more than the rest of its grace.
func (c *conn) reasonAtDeadline() Reason {
	idle := c.follower().isIdle()
	c.mu.Lock()
	defer c.mu.Unlock()
	if idle && !readable(&c.socket) {
		return IdleGrace
	}
	return DrainTimeout
}

// length returns how long the drain may take, and false if that is not bounded.
func (d *drain) length() (time.Duration, bool) {
	end, bounded := d.ctx.Deadline()
	return end.Sub(d.began), bounded
}

func (s *Server) isDraining() bool { return s.drain.Load() != nil }

// open returns the connections from Accept to Close, copies of migrated ones included.
func (s *Server) open() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.AppendSeq(make([]*conn, 0, len(s.conns)), maps.Keys(s.conns))
}

// count returns how many they are.
func (s *Server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// noteEnd wakes a drain that may be over, since a connection or request has ended.
func (s *Server) noteEnd() {
	if d := s.drain.Load(); d != nil {
		nudge(d.progress)
	}
}

// Draining returns a channel that is closed when the server that serves a request begins to
// drain. A handler that would otherwise go on for long, such as an event stream, should then
// complete. ctx is the request's context, or one derived from it; for any other the channel
// is nil, and receiving from it blocks for ever.
func Draining(ctx context.Context) <-chan struct{} {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.server.draining
	}
	return nil
}

// nudge wakes whoever receives from a channel of capacity 1, now or next. Nudging twice
// before that is as good as once.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
