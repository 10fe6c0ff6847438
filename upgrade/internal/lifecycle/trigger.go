package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// What requests an upgrade, as logs and reports spell it.
const (
	BySignal  = "signal"
	ByControl = "control"
)

// SameIntent is how long after a signal another one means the same.
const SameIntent = time.Second

// hangup is one SIGHUP for the whole line, as killall sends it to each generation.
type hangup struct {
	at      time.Time
	origins []int // generations that have got it
}

// isSame reports whether a signal that a generation got is this one, and notes it. A second
// one to the same generation is another.
func (h *hangup) isSame(origin int, now time.Time) bool {
	same := origin != 0 && now.Sub(h.at) < SameIntent && len(h.origins) > 0 && !slices.Contains(h.origins, origin)
	if !same {
		*h = hangup{at: now}
	}
	h.origins = append(h.origins, origin)
	return same
}

func triggerOf(e Event) Trigger {
	if e.Kind == SignalTrigger {
		return Trigger{By: BySignal, At: e.Now, Origins: []int{e.Origin}}
	}
	return Trigger{By: ByControl, At: e.Now, Waiters: []Waiter{e.Waiter}, Trial: e.Trial}
}

// enqueue keeps a trigger until an upgrade can begin, together with all others of that time.
func (m *Machine) enqueue(e Event) {
	t := triggerOf(e)
	if p := m.pending; p != nil {
		p.Waiters = append(p.Waiters, t.Waiters...)
		p.Origins = append(p.Origins, t.Origins...)
		p.Trial = cmp.Or(t.Trial, p.Trial)
		m.log("upgrade requested again; joining the one that waits", "by", t.By)
		return
	}
	m.pending = &t
	m.startPending(e)
}

// startPending begins the upgrade that waits, if it need not wait any longer.
func (m *Machine) startPending(Event) {
	t := m.pending
	if t == nil {
		return
	}
	if reason := m.waitReason(); reason != "" {
		m.log("upgrade waiting", "by", t.By, "reason", reason)
		m.emit(Action{Do: Progress, Trigger: *t, Text: "waits: " + reason})
		return
	}
	m.pending = nil
	m.execute(*t)
}

// waitReason returns why no upgrade can begin; empty: one can.
func (m *Machine) waitReason() string {
	switch {
	case m.phase.starting():
		return "this generation is not ready yet"
	case m.phase != Serving:
		return "an upgrade is under way"
	case m.gate != GateOpen:
		return "the predecessor still drains"
	case len(m.predecessors) > max(m.config.MaxDraining, 0):
		return fmt.Sprintf("%d predecessors still drain", len(m.predecessors))
	}
	return ""
}

// refuse ends a trigger that comes too late.
func (m *Machine) refuse(e Event) { m.emit(Action{Do: Refuse, Trigger: triggerOf(e)}) }

// forward leaves a trigger to the generation that serves.
func (m *Machine) forward(e Event) { m.emit(Action{Do: Forward, Trigger: triggerOf(e)}) }
