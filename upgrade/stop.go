package upgrade

import (
	"context"
	"maps"
	"net"

	"example.com/baton/upgrade/internal/lifecycle"
)

// beginStop takes no more requests, as a readiness probe sees it.
func (r *run) beginStop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isStopping = true
}

// drainForStop begins the drain of a generation that has no successor.
func (r *run) drainForStop() {
	r.flip.Stop()
	<-r.flip.Exit() // it has closed its copies of the sockets
	for _, c := range r.claims {
		r.unstore(c)
	}
	held := maps.Clone(r.claims)
	r.drain(Handoff{Kept: func(ln net.Listener) bool { return held[ln].Held }})
}

// drainToPredecessor begins the drain of a generation that does not commit: the predecessor
// accepts from all listeners, and what has migrated here migrates back.
func (r *run) drainToPredecessor() {
	h := Handoff{Kept: func(net.Listener) bool { return true }}
	if r.link != nil {
		h.States = true
		h.Migrate = func(ctx context.Context, conns []Connection) []bool { return r.migrate(ctx, r.link, true, conns) }
	}
	r.drain(h)
}

// drain lets the service drain.
func (r *run) drain(h Handoff) {
	r.adoption.end()
	for ln, c := range r.claims {
		if ln != r.controlListener && !h.Kept(ln) {
			c.unlink() // no client connects any more while the queue is emptied
			delete(r.claims, ln)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.opts.DrainTimeout)
	r.cancel = cancel
	go func() {
		r.account = r.service.Drain(ctx, h)
		r.post(lifecycle.Event{Kind: lifecycle.Drained})
	}()
}

// logAccount logs what the drain has done.
func (r *run) logAccount() {
	r.cancel()
	d := r.account
	c := d.Connections
	level := r.log.Info
	if c.DrainTimeout > 0 {
		level = r.log.Warn
	}
	level("drained", "seconds", d.Seconds, "requests_finished", d.Requests, "connections_migrated", d.Migrated, "migrated", d.protocols(), "closed_by_client", c.Client,
		"sent_connection_close", c.ConnectionClose, "closed_idle", c.IdleGrace, "timed_out", c.Timeout, "failed", c.Error,
		"closed_by_handler", c.Hijacked, "closed_forcibly", c.DrainTimeout)
}

// startHooks runs the hooks. Meanwhile the loop goes on: a trigger still has to be
// forwarded, for example.
func (r *run) startHooks(atStop bool) {
	go func() {
		r.runHooks(atStop)
		r.post(lifecycle.Event{Kind: lifecycle.HooksEnded})
	}()
}

// finish is what remains to be done before this process exits.
func (r *run) finish() {
	if c, ok := r.claims[r.controlListener]; ok {
		c.unlink() // while the socket is open its inode can be no other's
	}
	r.control.Close()
	if r.pidFile != nil {
		r.pidFile.Remove()
	}
	if a := r.attempt; a != nil && a.tail != nil { // what the successor printed at its start comes by this way
		a.tail.Await()
	}
}
