package upgrade

import (
	"context"
	"fmt"
	"net"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/process"
)

// handleSuccessor handles what came over the link to the successor.
func (r *run) handleSuccessor(h *link.Event) {
	a := r.attempt
	m := &h.Message
	switch {
	case h.Kind == link.Exited:
		r.successorExited()
	case h.Kind == link.Lost:
		a.lost = true
		r.log.Warn("the link to the generation that serves is lost")
	case h.Kind == link.Ended:
		a.gone = true
		if a.greeted && !a.serving && !a.accepted {
			r.dismiss("link to the successor broke before that was ready; it was killed", 0)
		}
		r.watchSuccessor()
	case m.Type == link.TypeHello && m.Hello != nil && a.greeted:
		if r.handedOver {
			r.log.Info("another generation serves by now", "successor_pid", m.Hello.PID, "successor_version", m.Hello.Version)
		}
	case m.Type == link.TypeHello && m.Hello != nil:
		a.greeted = true
		a.next, a.protocol = *m.Hello, min(m.Hello.Protocol, link.Version())
		a.process = process.Open(m.Sender())
		next := m.Hello
		r.reportTick = time.Tick(reportInterval)
		r.reportToSuccessor()
		r.log.Info("successor started", "successor_pid", next.PID, "successor_version", next.Version)
		r.reply(a.waiters, control.Reply{Progress: fmt.Sprintf("generation %d (pid %d, version %s) starts", r.number+1, next.PID, next.Version)})
	case m.Type == link.TypeServing && a.greeted && !a.serving:
		a.serving, a.ready = true, time.Since(a.at)
		a.pipe, a.adopts = m.Pipe, m.Adopts
		r.noteClaims(m.Claims)
	}
	r.commit()
}

// watchSuccessor finds out why the link to a successor that serves has ended, unless
// it stops.
func (r *run) watchSuccessor() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.successor; r.handedOver && s != nil && s.state < Draining && s.process.Known() {
		s.link.FollowPeer(s.process, r.events, r.done)
	}
}

// successorExited takes the end of a successor after that of its link. If the link was
// lost before, it may have stopped, or handed over.
func (r *run) successorExited() {
	if r.attempt.lost {
		return
	}
	r.log.Error("successor died after it had taken over; nobody accepts connections now")
	for _, o := range r.observers {
		o.Orphaned()
	}
}

// commit hands over once the successor serves. Until then this generation
// accepts as well, so that one that dies as it becomes ready costs nothing.
func (r *run) commit() {
	a := r.attempt
	switch {
	case a == nil || !a.accepted || r.handedOver || a.dismissed != "":
	case a.serving, a.gone && !a.greeted: // the latter is a release that has no link
		r.handOver()
	case a.gone:
		r.dismiss("link to the successor broke as that became ready; it was killed", link.PeerExit/2)
		r.concludeDismissal()
	}
}

// noteClaims notes which listeners the successor has.
func (r *run) noteClaims(claims []link.Claim) {
	bound := make(map[string]bool)
	for _, c := range claims {
		bound[c.Bound] = true
	}
	r.kept = func(ln net.Listener) bool { return bound[r.claims[ln].Bound] }
}

// handOver begins the drain: the successor serves.
func (r *run) handOver() {
	a := r.attempt
	r.handedOver = true
	if !a.serving { // it has no link to report its claims
		a.ready = time.Since(a.at)
		r.count(Succeeded)
		r.kept = func(net.Listener) bool { return true }
	}
	r.mu.Lock()
	if r.successor != nil {
		r.successor.state = max(r.successor.state, Serving) // it may have reported already that it stops
	}
	r.mu.Unlock()
	r.record(Upgrade{Time: a.at, Trigger: a.by, From: r.number, To: r.number + 1, Result: Succeeded, Seconds: a.ready.Seconds(),
		FromVersion: r.opts.Version, ToVersion: a.next.Version})
	r.log.Info("upgrade succeeded", "took", a.ready.Round(time.Millisecond).String())
	r.control.Stop()
	if r.pidFile != nil {
		r.pidFile.HandOver()
	}
	if r.stopping { // it was ready before it was notified; it will be
		r.stopping, r.delay, r.impatience = false, nil, nil
	} else {
		r.enter(Draining)
	}
	if t := r.pending; t != nil {
		r.pending = nil
		r.passOn(*t)
	}
	r.passPredecessors()
	if a.protocol >= 2 && a.pipe != 0 {
		if err := r.flip.ReleasePipe(a.pipe); err != nil {
			r.log.Warn("successor cannot be upgraded before this generation's end", "error", err)
		}
	}
	h := Handoff{Kept: r.kept}
	if a.protocol >= 2 && a.adopts {
		h.Move = func(ctx context.Context, conns []Connection) []bool { return r.move(ctx, a.link, conns) }
	}
	r.drain(h)
	r.reportToSuccessor()
	if a.gone {
		r.watchSuccessor()
	}
}

// reportInterval bounds what is lost with a generation that is killed once it
// has a successor.
const reportInterval = 200 * time.Millisecond

// reportToSuccessor sends a report to the successor, and to waiting clients what the
// drain waits for.
func (r *run) reportToSuccessor() {
	a := r.attempt
	if !a.gone {
		r.report(a.link, link.Message{Type: link.TypeReport}, 0)
	}
	if !r.handedOver {
		return
	}
	load := r.service.Load()
	outcome := r.succeeded(nil)
	outcome.Predecessor.Load = &load
	r.reply(a.waiters, control.Reply{Outcome: encode(outcome), Progress: outcome.String()})
}

// succeeded returns the outcome of the upgrade. d is nil while this generation drains.
func (r *run) succeeded(d *Drained) *Outcome {
	o := &Outcome{
		Result: Succeeded, Generation: r.number + 1, ReadySeconds: r.attempt.ready.Seconds(),
		Predecessor: &Predecessor{Generation: r.number, PID: r.introduction().PID},
	}
	o.PID, o.Version = r.attempt.next.PID, r.attempt.next.Version
	if d != nil {
		o.Predecessor.IsDrained, o.Predecessor.Drained = true, *d
	}
	return o
}
