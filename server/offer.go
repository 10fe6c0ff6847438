package server

import (
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/upgrade"
)

// part is the part that a connection has in a session of migration.
type part struct {
	session uint64 // its number
	out     bool   // the connection was not chosen, or the successor has not taken it
}

// mayMigrate returns the session in which the connection could migrate, were it at rest, now or
// when the successor answers again, or nil. It is called with the lock held.
func (c *conn) mayMigrate() *migrator {
	m := c.server.session.Load()
	if m == nil || c.stays || c.part == (part{m.number, true}) || !m.takes(c.listener) || !m.h.States && c.hasState() ||
		!m.tunnels && c.isHijacked() {
		return nil
	}
	if c.part.session != m.number {
		c.part = part{m.number, !m.chooses()}
	}
	if c.part.out {
		return nil
	}
	return m
}

// isHijacked reports whether a handler has taken the connection over.
func (c *conn) isHijacked() bool { return c.boundary.State() == boundary.Hijacked }

// hasState reports whether a successor needs more of the connection than its socket.
func (c *conn) hasState() bool {
	return c.layer != layer(&c.socket) || c.top.Load() != &c.http1 || c.isHijacked()
}

// mayBeOffered returns the session in which it could migrate now, or nil. It is called with the
// lock held.
func (c *conn) mayBeOffered() *migrator {
	if m := c.mayMigrate(); m != nil && !m.stalled.Load() {
		return m
	}
	return nil
}

// willMigrate reports whether the connection is expected to migrate after the present
// response. One whose client pipelines, so that it does not come to rest, has the idle grace
// and a few requests for that.
func (c *conn) willMigrate(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayMigrate() != nil && !c.boundary.Pipelines(now, c.server.opts.IdleGrace)
}

// offer offers the connection, which is at rest. It returns true if the successor has taken it, or
// it was closed forcibly meanwhile. The caller is its reader, and holds the lock.
func (c *conn) offer() (over bool) {
	for m := c.mayBeOffered(); m != nil && c.boundary.Offer(); m = c.mayBeOffered() { // again if the successor hung just now
		woken := c.boundary.InWindow()
		c.mu.Unlock()
		m.offer(c, woken)
		c.mu.Lock()
		if c.boundary.State() == boundary.Migrated || c.boundary.IsClosed() {
			return true
		}
		c.do(c.boundary.Answer(false)) // unless there is one
	}
	return c.boundary.IsClosed()
}

// wakeToOffer wakes the reader of a connection that waits at rest, so that it is offered in a
// session. It reports whether it did.
func (c http1) wakeToOffer(m *migrator) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayBeOffered() == m && c.enterWindow(m)
}

// enterWindow wakes the reader, and reports whether it did: then the connection has a place in
// the window of a session. It is called with the lock held.
func (c *conn) enterWindow(m *migrator) bool {
	if !c.wake(boundary.ToOffer) {
		return false
	}
	c.window = m
	return true
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

// settle notes whether the successor has taken the connection in a session, and lets its reader
// go on.
func (c *conn) settle(m *migrator, taken bool) {
	c.mu.Lock()
	switch {
	case c.boundary.IsClosed(): // forcibly, meanwhile
	case taken:
		c.do(c.boundary.Answer(true))
		c.count(uncounted)
		c.server.noteDeparture(c.protocol)
	default:
		c.part = part{m.number, true}
	}
	c.layer.settle(taken)
	if c.tunnel != nil && !taken {
		c.tunnel.sent = false
	}
	c.mu.Unlock()
	close(c.answer)
}

// refuse notes that the connection was not taken in a session.
func (c *conn) refuse(m *migrator) {
	c.mu.Lock()
	c.part = part{m.number, true}
	c.mu.Unlock()
}

// stay notes that the connection can never migrate.
func (c *conn) stay() {
	c.mu.Lock()
	c.stays = true
	c.mu.Unlock()
}
