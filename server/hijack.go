package server

// This file holds what becomes in a drain of what has no end of its own:
// connections that a handler has hijacked, and responses that go on and on.

import (
	"context"
	"time"
)

// A farewell begins before the drain's deadline by a tenth of the drain's length,
// a second at most, so that there is time for it. A tenth of that is left when its
// context ends, so that who says it closes his connection before it is cut.
const (
	leadPart    = 10
	longestLead = time.Second
)

// Farewell registers what is to be done in a drain to bring a WebSocket or another
// hijacked connection, or an endless response, to a good end. ctx is the context of
// its request, or one derived from it.
//
// If the server drains, say is called in a goroutine of its own: when the drain has
// gone on for grace, or shortly before its deadline if that is earlier or if grace
// is 0 or less. How shortly: by a tenth of the drain timeout, one second at most. If
// the time has passed already, it is called at once. It is called once at most, and
// not after the connection was closed. The context that it is given ends just
// before the deadline, at which all connections that are left are cut. say has to
// end the connection itself, or to get its handler to do so.
//
// stop takes the registration back. If say is running, stop waits for its end; say
// must not call it. A handler should call it before it returns; a registration that
// nobody takes back ends with the connection. When stop returns, say has returned
// or will never be called.
//
// What cannot wait for a time, but should end when the drain begins, waits for
// [Draining] instead. If ctx is not that of a request of a Server, nothing is done.
func Farewell(ctx context.Context, grace time.Duration, say func(context.Context)) (stop func()) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return func() {}
	}
	f := &farewell{conn: c, grace: grace, say: say, over: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boundary.IsClosed() {
		return func() {}
	}
	if c.farewells == nil {
		c.farewells = make(map[*farewell]struct{})
	}
	c.farewells[f] = struct{}{}
	if c.server.isDraining.Load() {
		f.schedule()
	}
	return f.stop
}

// farewell is one registration. It is guarded by the mutex of its connection, and
// is in its set until it is said or taken back.
type farewell struct {
	conn  *conn
	grace time.Duration
	say   func(context.Context)
	timer *time.Timer   // from the drain's beginning on
	said  bool          // or being said
	over  chan struct{} // closed when say has returned
}

// announceEnds gives all that is registered its time, when the drain begins.
func (s *Server) announceEnds() {
	for _, c := range s.open() {
		c.mu.Lock()
		for f := range c.farewells {
			f.schedule()
		}
		c.mu.Unlock()
	}
}

// dropFarewells forgets what was registered for a connection that is closed.
func (c *conn) dropFarewells() {
	for f := range c.farewells {
		f.drop()
	}
}

// schedule is called in a drain.
func (f *farewell) schedule() {
	if f.timer != nil {
		return
	}
	s := f.conn.server
	wait := f.grace
	if end, bounded := s.drainCtx.Deadline(); bounded {
		length := end.Sub(s.drainBegan)
		if last := length - lead(length); wait <= 0 || wait > last {
			wait = last
		}
	} else if wait <= 0 {
		return // the drain takes as long as it takes
	}
	f.timer = time.AfterFunc(time.Until(s.drainBegan.Add(wait)), f.run)
}

// lead returns by how much what has to be said in a drain of that length precedes its end.
func lead(drain time.Duration) time.Duration { return min(drain/leadPart, longestLead) }

func (f *farewell) run() {
	c := f.conn
	c.mu.Lock()
	if _, registered := c.farewells[f]; !registered {
		c.mu.Unlock()
		return
	}
	f.drop()
	f.said = true
	c.mu.Unlock()

	defer close(f.over)
	ctx := c.server.drainCtx
	if end, bounded := ctx.Deadline(); bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-lead(end.Sub(c.server.drainBegan))/leadPart))
		defer cancel()
	}
	f.say(ctx)
}

func (f *farewell) stop() {
	c := f.conn
	c.mu.Lock()
	f.drop()
	said := f.said
	c.mu.Unlock()
	if said {
		<-f.over
	}
}

func (f *farewell) drop() {
	delete(f.conn.farewells, f)
	if f.timer != nil {
		f.timer.Stop()
	}
}
