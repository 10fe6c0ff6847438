package upgrade

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
)

// reply sends a reply to clients that wait for an upgrade.
func reply(waiters []lifecycle.Waiter, reply control.Reply) {
	for _, w := range waiters {
		w.(*control.Waiter).Reply(reply)
	}
}

// planOf returns how the upgrade is tried that a client asks for; nil: as usual.
func (r *run) planOf(w *control.Waiter) *lifecycle.Trial {
	if w.Overrides == nil {
		return nil
	}
	overrides, err := decodeOverrides(w.Overrides)
	if err != nil { // by way of a predecessor of another release
		r.log.Warn("upgrade is tried as usual: what was requested is not understood", "error", err)
		return nil
	}
	t := r.plan(overrides.apply(r.opts.Trial))
	return &t
}

// verdictEvent returns the event of a client that ends a trial.
func verdictEvent(v *control.Verdict) lifecycle.Event {
	if v.Good {
		return lifecycle.Event{Kind: lifecycle.Promote, Waiter: v}
	}
	return lifecycle.Event{Kind: lifecycle.Abort, Waiter: v, Text: v.Reason}
}

func (r *run) answerVerdict(a lifecycle.Action) {
	v := a.Waiter.(*control.Verdict)
	if a.Text == "" {
		v.Accept()
	} else {
		v.Refuse(a.Text)
	}
}

func (r *run) progress(a lifecycle.Action) { reply(a.Trigger.Waiters, control.Reply{Progress: a.Text}) }

// drainProgress sends clients what the drain waits for.
func (r *run) drainProgress(a lifecycle.Action) {
	load := r.service.Load()
	outcome := r.succeeded(a.Duration)
	outcome.Predecessor.Load = &load
	reply(a.Trigger.Waiters, control.Reply{Outcome: encode(outcome), Progress: outcome.String()})
}

// refuse ends a trigger that has come too late.
func (r *run) refuse(a lifecycle.Action) {
	t, o := a.Trigger, refusal()
	r.log.Warn("upgrade refused", "by", t.By, "reason", o.Reason)
	r.record(Upgrade{Time: t.At, Trigger: t.By, From: r.number, To: r.number + 1, Result: Refused, Reason: o.Reason,
		FromVersion: r.opts.Version})
	r.count(Refused)
	reply(t.Waiters, control.Reply{Final: true, Outcome: encode(o)})
}

// forward passes a trigger on to the successor.
func (r *run) forward(a lifecycle.Action) {
	l := r.attempt.link
	for _, w := range a.Trigger.Waiters {
		w := w.(*control.Waiter)
		w.PassOn(func(nc net.Conn) (failure json.RawMessage) {
			conn, ok := nc.(syscall.Conn)
			if !ok || l.Send(link.Message{Type: link.TypeUpgrade, Overrides: w.Overrides}, conn) != nil {
				return encode(&Outcome{Result: Failed, Reason: "the upgrade request could not be sent to the successor; try again"})
			}
			return nil
		})
	}
	if len(a.Trigger.Origins) > 0 {
		if err := l.Send(link.Message{Type: link.TypeUpgrade, Origin: a.Trigger.Origins[0]}); err != nil {
			r.log.Error("upgrade request cannot be sent to the successor", "error", err)
		}
	}
}

// fail ends an upgrade whose successor has failed: this generation serves on.
func (r *run) fail(a lifecycle.Action) {
	t, version := a.Trigger, r.attempt.next.Version
	lines := r.abandon()
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, a.Text) }) // of one that was taken back
	r.log.Error("upgrade failed; this generation goes on serving", "by", t.By, "reason", a.Text, "stderr", strings.Join(lines, "\n"))
	r.record(Upgrade{Time: t.At, Trigger: t.By, From: r.number, To: r.number + 1, Result: Failed,
		Reason: withLastWords(a.Text, lines), Seconds: time.Since(t.At).Seconds(),
		FromVersion: r.opts.Version, ToVersion: version})
	r.count(Failed)
	reply(t.Waiters, control.Reply{Final: true, Outcome: encode(&Outcome{Result: Failed, Reason: a.Text, Stderr: lines,
		Generation: r.number, PID: r.introduction().PID, Version: r.opts.Version})})
}

// succeed ends an upgrade whose successor serves, at the end of the drain.
func (r *run) succeed(a lifecycle.Action) {
	o := r.succeeded(a.Duration)
	o.Predecessor.IsDrained, o.Predecessor.Drained = true, r.account
	reply(a.Trigger.Waiters, control.Reply{Final: true, Outcome: encode(o)})
}

// succeeded returns the outcome of an upgrade while this generation drains.
func (r *run) succeeded(took time.Duration) *Outcome {
	next := r.attempt.next
	return &Outcome{
		Result: Succeeded, Generation: r.number + 1, PID: next.PID, Version: next.Version, ReadySeconds: took.Seconds(),
		Predecessor: &Predecessor{Generation: r.number, PID: r.introduction().PID},
	}
}
