package server

import (
	"context"
	"time"
)

// A drain hook that has to run before the drain's deadline runs a tenth of the drain's length
// before it, a second at most. A tenth of that is left when its context ends, so that it can
// close its connection before that is closed forcibly.
const (
	leadPart    = 10
	longestLead = time.Second
)

// OnDrain registers a drain hook: f closes a WebSocket or another hijacked connection, or an
// endless response, gracefully. ctx is the context of its request, or one derived from it.
//
// If the server drains, f is called in a goroutine of its own: when the drain has gone on for
// grace, or shortly before its deadline if that is earlier or if grace is 0 or less. Shortly
// is a tenth of the drain timeout, one second at most. If the time has passed already, f is
// called at once. It is called once at most, and not after the connection was closed. The
// context that f is given ends just before the deadline, at which all connections that are
// left are closed forcibly. f has to end the connection itself, or have its handler do so.
//
// stop removes the hook. If f runs, stop waits for its end; f must not call it. A handler
// should call it before it returns; a hook that nobody removes ends with the connection. When
// stop returns, f has returned or will never be called.
//
// What should end as soon as the drain begins waits for [Draining] instead. If ctx is not that
// of a request of a Server, OnDrain does nothing.
func OnDrain(ctx context.Context, grace time.Duration, f func(context.Context)) (stop func()) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return func() {}
	}
	h := &hook{conn: c, grace: grace, f: f, returned: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boundary.IsClosed() {
		return func() {}
	}
	if c.hooks == nil {
		c.hooks = make(map[*hook]struct{})
	}
	c.hooks[h] = struct{}{}
	if d := c.server.drain.Load(); d != nil {
		h.schedule(d)
	}
	return h.stop
}

// hook is a drain hook. It is guarded by the mutex of its connection, and is in its set until
// it runs or is removed.
type hook struct {
	conn     *conn
	grace    time.Duration
	f        func(context.Context)
	timer    *time.Timer // in a drain
	runs     bool        // or has run
	returned chan struct{}
}

// scheduleHooks schedules the hooks that are registered when the drain begins.
func (d *drain) scheduleHooks() {
	for _, c := range d.server.open() {
		c.mu.Lock()
		for h := range c.hooks {
			h.schedule(d)
		}
		c.mu.Unlock()
	}
}

// dropHooks removes the hooks of a connection that is closed.
func (c *conn) dropHooks() {
	for h := range c.hooks {
		h.drop()
	}
}

func (h *hook) schedule(d *drain) {
	if h.timer != nil {
		return
	}
	wait := h.grace
	if length, bounded := d.length(); bounded {
		if last := length - lead(length); wait <= 0 || wait > last {
			wait = last
		}
	} else if wait <= 0 {
		return // the drain takes as long as it takes
	}
	h.timer = time.AfterFunc(time.Until(d.began.Add(wait)), func() { h.run(d) })
}

// lead returns by how much a hook precedes the end of a drain of that length.
func lead(drain time.Duration) time.Duration { return min(drain/leadPart, longestLead) }

func (h *hook) run(d *drain) {
	c := h.conn
	c.mu.Lock()
	if _, registered := c.hooks[h]; !registered {
		c.mu.Unlock()
		return
	}
	h.drop()
	h.runs = true
	c.mu.Unlock()

	defer close(h.returned)
	ctx := d.ctx
	if length, bounded := d.length(); bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, d.began.Add(length-lead(length)/leadPart))
		defer cancel()
	}
	h.f(ctx)
}

func (h *hook) stop() {
	h.conn.mu.Lock()
	h.drop()
	runs := h.runs
	h.conn.mu.Unlock()
	if runs {
		<-h.returned
	}
}

func (h *hook) drop() {
	delete(h.conn.hooks, h)
	if h.timer != nil {
		h.timer.Stop()
	}
}
