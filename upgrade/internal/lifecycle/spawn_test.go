package lifecycle

import (
	"errors"
	"slices"
	"time"
)

func (p *proc) execute() {
	for _, q := range p.procs {
		if q != p && q.alive && q.n > p.n {
			p.fatal("generation %d executes a successor although %d lives", p.n, q.n)
		}
	}
	p.next, p.stopping = nil, false
	if p.flip == flipUsed {
		p.down = &wire{broken: true}
		p.later(func() { p.handle(Event{Kind: FlipFailed, Err: errors.New("handed over once")}) })
		return
	}
	p.flip = flipRuns
	l := &wire{older: p, toOlder: p.newQueue(), toNewer: p.newQueue()}
	l.toNewer.to = l
	p.down = l
	c := Config{Generation: p.n + 1, Gate: GateHeld, Begun: p.now, Deadline: p.now.Add(timeout),
		Predecessor: &Member{Generation: p.n, PID: p.n, Protocol: p.protocol(p.n, p.n+1), Drain: 30 * time.Second}}
	p.start(p, l, c)
}

// rescue has another process take over.
func (p *proc) rescue() {
	if !p.holding {
		p.fatal("generation %d has no listeners for another process", p.n)
	}
	p.holding = false
	for _, q := range p.procs {
		switch {
		case q.alive && q.n > p.n && p.down.severed: // which it could not know; the control socket is taken
			p.later(func() { p.handle(Event{Kind: RescueFailed, Err: errors.New("another server listens there")}) })
			return
		case q.alive && q.n > p.n:
			p.fatal("generation %d takes over again although %d lives", p.n, q.n)
		}
	}
	p.start(nil, nil, Config{Generation: p.next.n + 1})
	q := p.procs[len(p.procs)-1]
	q.rescuer, q.saved = true, p
}

// isReplaceable reports whether a predecessor has what it takes when a process dies, and knows that
// this one has no successor.
func (p *proc) isReplaceable() bool {
	return p.m.Phase() != Upgrading && !slices.ContainsFunc(p.procs, func(q *proc) bool { return q.alive && q.parent == p }) &&
		slices.ContainsFunc(p.procs, func(q *proc) bool { return q.alive && q.holding && q.next == p && !q.down.severed })
}

// watch reports the end of a process, or that it lives on without a link and then its end.
func (p *proc) watch(of *proc, exited, lost Event) {
	if of == nil || !of.alive {
		p.later(func() { p.handle(exited) })
		return
	}
	p.later(func() {
		if of.alive {
			p.handle(lost)
		}
	})
	p.watches = append(p.watches, &watch{p, of, exited})
}
