package server

import (
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/upgrade"
)

// mayMigrate reports whether the connection could migrate, were it at rest, now or when the
// successor answers again. It is called with the lock held.
func (c *conn) mayMigrate() bool {
	d := c.server.drain.Load()
	return d != nil && !c.stays && d.migrator.takes(c.listener) && (d.migrator.h.States || !c.hasState())
}

// hasState reports whether a successor needs more of the connection than its socket.
func (c *conn) hasState() bool {
	return c.layer != layer(&c.socket) || c.top.Load() != &c.http1 || c.boundary.State() == boundary.Hijacked
}

// mayBeOffered reports whether it could migrate now. It is called with the lock held.
func (c *conn) mayBeOffered() bool {
	return c.mayMigrate() && !c.server.drain.Load().migrator.stalled.Load()
}

// willMigrate reports whether the connection is expected to migrate after the present
// response. One whose client pipelines, so that it does not come to rest, has the idle grace
// and a few requests for that.
func (c *conn) willMigrate(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayMigrate() && !c.boundary.Pipelines(now, c.server.opts.IdleGrace)
}

// offer offers the connection, which is at rest. It returns true if the successor has taken it, or
// it was closed forcibly meanwhile. The caller is its reader, and holds the lock.
func (c *conn) offer() (over bool) {
	for c.mayBeOffered() && c.boundary.Offer() { // again if the successor hung just now
		woken := c.boundary.InWindow()
		c.mu.Unlock()
		c.server.drain.Load().migrator.offer(c, woken)
		c.mu.Lock()
		if c.boundary.State() == boundary.Migrated || c.boundary.IsClosed() {
			return true
		}
		c.do(c.boundary.Answer(false)) // unless there is one
	}
	return c.boundary.IsClosed()
}

// wakeToOffer wakes the reader of a connection that waits at rest, so that it is offered. It
// reports whether it did.
func (c http1) wakeToOffer() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayBeOffered() && c.wake(boundary.ToOffer)
}

// export returns what the successor needs to go on with the connection, or false if it has to
// stay.
func (c *conn) export() (exported upgrade.Connection, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var t transfer
	defer t.clear()
	if c.boundary.IsClosed() || !c.layer.export(&t) || !c.follower().export(&t) {
		return exported, false
	}
	state, _ := c.boundary.Export()
	exported = upgrade.Connection{Conn: c.socket.Conn, Listener: c.listener, Used: state.Used}
	if c.tunnel != nil {
		exported.Peer, t.Tunnel = c.tunnel.peer, c.tunnel.export()
	}
	if !state.Deadline.IsZero() {
		exported.Left = max(time.Until(state.Deadline), time.Millisecond)
	}
	var err error
	c.protocol = t.protocol()
	exported.State, err = t.encode()
	if c.tunnel != nil {
		c.tunnel.sent = err == nil
	}
	return exported, err == nil
}

// settle notes whether the successor has taken the connection, and lets its reader go on.
func (c *conn) settle(taken bool) {
	c.mu.Lock()
	switch {
	case c.boundary.IsClosed(): // forcibly, meanwhile
	case taken:
		c.do(c.boundary.Answer(true))
		c.count(uncounted)
		c.server.noteDeparture(c.protocol)
	default:
		c.stays = true
	}
	c.layer.settle(taken)
	if c.tunnel != nil && !taken {
		c.tunnel.sent = false
	}
	c.mu.Unlock()
	close(c.answer)
}

// stay notes that the connection was not taken.
func (c *conn) stay() {
	c.mu.Lock()
	c.stays = true
	c.mu.Unlock()
}
