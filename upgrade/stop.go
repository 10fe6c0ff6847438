package upgrade

import (
	"context"
	"maps"
	"net"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/link"
)

// stop begins the end of the service. A second signal to this process cuts it
// short; that the predecessor was stopped as well is not one.
func (r *run) stop(by string) {
	switch {
	case r.signals > 1:
		r.log.Warn("told to stop again; cuts the drain", "by", by)
		r.endSuccessor()
		r.delay, r.mayDrain = nil, true
		r.drainForStop()
		r.cut()
	case r.handedOver:
		r.log.Info("told to stop; goes on draining, since a successor serves", "by", by)
	case r.stopping:
		r.log.Info("told to stop, which it does", "by", by)
	default:
		r.log.Info("told to stop", "by", by, "delay", r.opts.ShutdownDelay.String())
		r.stopping = true
		r.mu.Lock()
		r.isStopping = true
		r.mu.Unlock()
		r.enter(Draining)
		for _, p := range r.living() { // so that this one's end surprises nobody
			r.report(p.link, link.Message{Type: link.TypeReport}, 0)
		}
		if p := r.pending; p != nil {
			r.pending = nil
			r.refuse(p)
		}
		r.delay = time.After(r.opts.ShutdownDelay)
		if a := r.attempt; a != nil {
			// It may serve already, and must not be killed then: it ends by
			// itself, in whichever way is right for it.
			if a.link != nil {
				a.link.Send(link.Message{Type: link.TypeStop})
			}
			r.impatience = time.After(time.Second)
		}
		r.commit()
	}
}

// drainForStop drains when the shutdown delay is over and no successor can take
// over any more.
func (r *run) drainForStop() {
	if !r.stopping || !r.mayDrain || r.attempt != nil || r.drained != nil {
		return
	}
	r.flip.Stop()
	<-r.flip.Exit() // it has closed its copies of the sockets
	for _, c := range r.claims {
		r.unstore(c)
	}
	held := maps.Clone(r.claims)
	r.drain(Handoff{Kept: func(ln net.Listener) bool { return held[ln].Held }})
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
	ctx, cut := context.WithTimeout(context.Background(), r.opts.DrainTimeout)
	r.cut = cut
	if r.signals > 1 {
		cut()
	}
	r.drained = make(chan Drained, 1)
	go func() { r.drained <- r.service.Drain(ctx, h) }()
}

// waitsForPredecessors reports whether all is over but for predecessors that still
// drain and that no successor follows: with the last generation systemd, or a
// container, ends all that is left. A second signal ends the wait.
func (r *run) waitsForPredecessors() bool {
	unknown := r.gate != nil && r.link == nil // a predecessor that has no link
	if r.Predecessors() == 0 && !unknown || r.signals > 1 {
		return false
	}
	if !r.waiting {
		r.waiting = true
		r.log.Info("drained, and waits for predecessors that still drain")
	}
	return true
}

// end runs the hooks, now that the drain is over. Meanwhile the loop goes on: a
// trigger still has to be passed on, for example.
func (r *run) end(d Drained) {
	r.cut()
	c := d.Connections
	level := r.log.Info
	if c.Cut > 0 {
		level = r.log.Warn
	}
	level("drained", "seconds", d.Seconds, "requests_finished", d.Requests, "connections_moved", d.Moved, "closed_by_client", c.Client,
		"told_to_close", c.Announced, "closed_after_grace", c.Grace, "timed_out", c.Timeout, "failed", c.Error,
		"closed_by_handler", c.Hijacked, "cut", c.Cut)
	ended, atStop := make(chan struct{}), r.stopping
	r.hooksEnded = ended
	go func() {
		r.runHooks(atStop)
		close(ended)
	}()
}

// finish is what remains to be done before this process exits.
func (r *run) finish(d Drained) {
	if r.handedOver {
		if r.attempt.link != nil {
			r.report(r.attempt.link, link.Message{Type: link.TypeDrained, Drained: encode(d)}, 0)
		}
		r.reply(r.attempt.waiters, control.Reply{Final: true, Outcome: encode(r.succeeded(&d))})
	}
	if c, ok := r.claims[r.controlListener]; ok && !r.handedOver {
		c.unlink() // while the socket is open its inode can be no other's
	}
	r.control.Close()
	if r.pidFile != nil {
		r.pidFile.Remove()
	}
	if a := r.attempt; a != nil && a.tail != nil { // what the successor printed at its start comes by this way
		a.tail.Await()
	}
	r.enter(Exited)
}
