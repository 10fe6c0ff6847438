package upgrade

import (
	"context"
	"net"
	"time"

	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
)

// assumeServing takes a successor that cannot report its claims to have all listeners.
func (r *run) assumeServing() {
	r.attempt.assumed = true
	r.count(Succeeded) // it does not
}

// handOver leaves to the successor what only one generation has.
func (r *run) handOver(a lifecycle.Action) {
	t := a.Trigger
	r.mu.Lock()
	if r.successor != nil {
		r.successor.state = max(r.successor.state, Serving) // it may have reported already that it stops
	}
	r.mu.Unlock()
	r.record(Upgrade{Time: t.At, Trigger: t.By, From: r.number, To: r.number + 1, Result: Succeeded, Seconds: a.Duration.Seconds(),
		FromVersion: r.opts.Version, ToVersion: r.attempt.next.Version})
	r.log.Info("upgrade succeeded", "took", a.Duration.Round(time.Millisecond).String())
	r.control.Stop()
	delete(r.claims, r.controlListener) // its path is the successor's
	if r.pidFile != nil {
		r.pidFile.HandOver()
	}
}

// releasePipe lets the successor be upgraded before the end of this process.
func (r *run) releasePipe() {
	if a := r.attempt; a.protocol() >= 2 && a.pipe != 0 {
		if err := r.flip.ReleasePipe(a.pipe); err != nil {
			r.log.Warn("successor cannot be upgraded before this generation's end", "error", err)
		}
	}
}

// drainToSuccessor begins the drain of a generation that has a successor.
func (r *run) drainToSuccessor() {
	r.drain(r.handoff())
}

// handoff returns what the successor takes over.
func (r *run) handoff() Handoff {
	a := r.attempt
	kept := make(map[net.Listener]bool)
	for ln, c := range r.claims {
		kept[ln] = a.has(c)
	}
	h := Handoff{Kept: func(ln net.Listener) bool { return kept[ln] }}
	if a.protocol() >= 2 && a.adopts {
		h.States = a.protocol() >= 3
		h.Migrate = func(ctx context.Context, conns []Connection) []bool { return r.migrate(ctx, a.link, h.States, conns) }
	}
	return h
}

// reportToSuccessor sends a report to the successor.
func (r *run) reportToSuccessor() {
	r.report(r.attempt.link, link.Message{Type: link.TypeReport}, 0)
}

// reportDrained sends the successor the last report, with the account of the drain.
func (r *run) reportDrained() {
	r.report(r.attempt.link, link.Message{Type: link.TypeDrained, Drained: encode(r.account)}, 0)
}
