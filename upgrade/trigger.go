package upgrade

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/link"
)

// trigger is one upgrade that was requested, perhaps several times.
type trigger struct {
	by      string // how it was requested first: bySignal or byControl
	at      time.Time
	signal  bool // a signal was among the requests
	origin  int  // generation that got the signal; 0: not known
	waiters []*control.Waiter
}

const (
	bySignal  = "signal"
	byControl = "control"
)

// hangup is one SIGHUP for the whole line, as killall sends it to each generation.
type hangup struct {
	at      time.Time
	origins []int // generations that have got it
}

// isSame reports whether a signal that came to a generation is this one, and notes it.
// A second one to the same generation is another.
func (h *hangup) isSame(origin int) bool {
	same := origin != 0 && time.Since(h.at) < sameIntent && len(h.origins) > 0 && !slices.Contains(h.origins, origin)
	if !same {
		*h = hangup{at: time.Now()}
	}
	h.origins = append(h.origins, origin)
	return same
}

// askBySignal requests an upgrade because a generation has got a signal.
func (r *run) askBySignal(origin int) {
	if r.hangup.isSame(origin) {
		r.log.Info("upgrade was asked for already", "by", bySignal, "origin", origin)
		return
	}
	r.ask(trigger{by: bySignal, signal: true, origin: origin})
}

// ask is where every trigger comes in.
func (r *run) ask(t trigger) {
	t.at = time.Now()
	switch {
	case r.handedOver:
		r.passOn(t)
	case r.stopping:
		r.refuse(&t)
	case r.pending == nil:
		r.pending = &t
		r.startPending()
	default:
		r.pending.waiters = append(r.pending.waiters, t.waiters...)
		r.pending.signal = r.pending.signal || t.signal
		r.log.Info("upgrade asked for again; joins the one that waits", "by", t.by)
	}
}

// startPending begins the upgrade that is pending, if it need not wait any longer.
func (r *run) startPending() {
	t := r.pending
	if t == nil {
		return
	}
	wait := ""
	switch {
	case r.State() == Starting:
		wait = "this generation is not ready yet"
	case r.State() == Upgrading:
		wait = "an upgrade is under way"
	case r.gate != nil:
		wait = "the predecessor still drains"
	case r.Predecessors() > max(r.opts.MaxDraining, 0):
		wait = fmt.Sprintf("%d predecessors still drain", r.Predecessors())
	}
	if wait != "" {
		r.log.Info("upgrade waits", "by", t.by, "reason", wait)
		r.reply(t.waiters, control.Reply{Progress: "waits: " + wait})
		return
	}
	r.pending = nil
	r.begin(*t)
}

// passOn passes a trigger on to the successor.
func (r *run) passOn(t trigger) {
	l := r.attempt.link
	for _, w := range t.waiters {
		w.PassOn(func(nc net.Conn) (failure json.RawMessage) {
			conn, ok := nc.(syscall.Conn)
			if !ok || l.Send(link.Message{Type: link.TypeUpgrade}, conn) != nil {
				return encode(&Outcome{Result: Failed, Reason: "the successor could not be asked; try again"})
			}
			return nil
		})
	}
	if t.signal {
		if err := l.Send(link.Message{Type: link.TypeUpgrade, Origin: t.origin}); err != nil {
			r.log.Error("successor could not be asked for an upgrade", "error", err)
		}
	}
}

// refuse ends a trigger that has come too late.
func (r *run) refuse(t *trigger) {
	o := refusal()
	r.log.Warn("upgrade refused", "by", t.by, "reason", o.Reason)
	r.record(Upgrade{Time: t.at, Trigger: t.by, From: r.number, To: r.number + 1, Result: Refused, Reason: o.Reason,
		FromVersion: r.opts.Version})
	r.count(Refused)
	r.reply(t.waiters, control.Reply{Final: true, Outcome: encode(o)})
}

// reply sends a reply to clients that wait for an upgrade.
func (r *run) reply(waiters []*control.Waiter, reply control.Reply) {
	for _, w := range waiters {
		w.Reply(reply)
	}
}
