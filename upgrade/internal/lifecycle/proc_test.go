package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// proc is one process.
type proc struct {
	*world
	n         int
	m         *Machine
	alive     bool
	accepting bool
	paused    bool // it has the listeners, and does not accept: its successor does
	served    bool // it has accepted
	committed bool
	announced bool // whoever asks for the generation that serves is led here
	up, down  *wire
	parent    *proc
	flip      flip
	timers    map[Kind]time.Time
	members   map[ID]*wire
	lastID    ID
	next      *proc // whoever has said hello last over the link to the successor
	stopping  bool  // that one reported a stop
	control   bool  // it accepts on the control socket
	waiters   []Waiter
	freed     bool  // tableflip's pipe, for the successor
	holding   bool  // the listeners, should the successor die
	rescuer   bool  // it was executed in place of a successor that has died
	saved     *proc // by which this one was executed then
}

// flip is the state of tableflip in a process.
type flip int

const (
	flipIdle flip = iota
	flipRuns
	flipUsed
)

// hello introduces a process to one at the other end of a link.
func (p *proc) hello(to *proc) Event {
	return Event{Kind: Hello, PID: p.n, Protocol: p.protocol(to.n, p.n)}
}

// send sends an event over a link to its other end.
func (p *proc) send(l *wire, e Event) bool { return p.sendWith(l, e, nil) }

func (p *proc) sendWith(l *wire, e Event, passed *wire) bool {
	if l == nil || l.broken {
		return false
	}
	q := l.toNewer
	if l.newer == p {
		q = l.toOlder
	}
	q.add(func() { p.arrive(l, q == l.toOlder, e, passed) })
	return true
}

// arrive delivers a message of p.
func (p *proc) arrive(l *wire, toOlder bool, e Event, passed *wire) {
	to := l.newer
	if toOlder {
		to = l.older
	}
	if to == nil || !to.alive {
		if e.Waiter != nil {
			p.lost[e.Waiter] = true
		}
		if passed != nil {
			passed.newer = l.newer
			p.cut(passed)
		}
		return
	}
	switch {
	case e.Kind == ControlTrigger:
		to.waiters = append(to.waiters, e.Waiter)
	case passed != nil:
		passed.newer = to
		to.lastID++
		e.Member.ID = to.lastID
		to.members[e.Member.ID] = passed
		to.send(passed, to.hello(passed.older))
		if passed.broken {
			passed.end()
		}
	case toOlder && to.down != l:
		return // of an attempt that has failed
	case e.Kind == kinds: // the report of a stop
		to.stopping = true
		return
	case e.Kind == Hello:
		to.next, to.stopping = p, false
	case !toOlder:
		e.ID = to.id(l)
	}
	to.handle(e)
}

func (p *proc) id(l *wire) ID {
	for id, other := range p.members {
		if other == l {
			return id
		}
	}
	return -1
}

// end is the end of a process, whatever it was busy with.
func (p *proc) end() {
	if !p.alive {
		return
	}
	p.trace = append(p.trace, fmt.Sprintf("%d ends", p.n))
	if p.holding && !p.next.alive { // of which it has not heard
		p.harmed = true
	}
	p.alive, p.accepting, p.paused, p.holding = false, false, false, false
	p.cut(p.up)
	p.cut(p.down)
	for _, l := range p.members {
		p.cut(l)
	}
	for _, w := range p.watches {
		if w.of == p {
			p.later(func() { w.by.handle(w.exited) })
		}
	}
	if p.parent != nil && p.parent.flip == flipRuns {
		p.later(func() { p.parent.flipFails(p) })
	}
	for _, q := range p.procs {
		if q.parent == p && !p.freed {
			p.later(func() { q.handle(Event{Kind: GateOpened}) })
		}
	}
}

// kill ends a process that has not decided to end.
func (p *proc) kill() {
	for _, w := range p.waiters {
		if p.alive && p.answers[w] == 0 {
			p.lost[w] = true
		}
	}
	if q := p.saved; p.alive && q != nil {
		p.later(func() { q.handle(Event{Kind: RescueFailed, Err: errors.New("killed")}) })
	}
	p.end()
}

func (p *proc) flipFails(c *proc) {
	if p.flip == flipRuns && p.child() == c {
		p.flip = flipIdle
		p.handle(Event{Kind: FlipFailed, Err: errors.New("exited")})
	}
}

// child is the successor, if one was executed.
func (p *proc) child() *proc {
	for _, q := range slices.Backward(p.procs) {
		if q.parent == p {
			return q
		}
	}
	return nil
}

// handle lets the machine decide, and carries out what it wants.
func (p *proc) handle(e Event) {
	if !p.alive {
		return
	}
	if c := p.child(); e.Kind == SuccessorExited && c != p.next {
		e.Younger = c.alive
	}
	e.Now = p.now
	actions := p.m.Handle(e)
	p.trace = append(p.trace, fmt.Sprintf("%d: event %d: %v -> %v, %v", p.n, e.Kind, what(actions), p.m.Phase(), p.m.attempt))
	var answered []Event
	for _, a := range actions {
		if !p.doOwn(a, &answered) && !p.doSuccessor(a) {
			p.doPredecessor(a, &answered)
		}
	}
	for _, e := range answered {
		p.handle(e)
	}
	p.check()
}

func (p *proc) doOwn(a Action, answered *[]Event) bool {
	switch a.Do {
	case Arm:
		p.timers[a.Timer] = a.At
	case Disarm:
		delete(p.timers, a.Timer)
	case Check:
		p.later(func() { p.handle(Event{Kind: CheckPassed}) })
	case Prepare:
		*answered = append(*answered, Event{Kind: Prepared})
	case Commit:
		p.committed = true
		if q := p.m.linked(); q != nil && q.Protocol >= ordersSince && !p.announced {
			p.fatal("generation %d lets its predecessor go, and nobody is led to it yet", p.n)
		}
		if q := p.parent; q != nil && q.alive {
			p.later(func() {
				if q.flip == flipRuns && q.child() == p {
					q.flip = flipUsed
					q.handle(Event{Kind: FlipAccepted})
				}
			})
		}
	case Serve:
		p.accepting, p.served = true, true
	case Announce:
		p.announced = true
	case SendPrepared:
		p.send(p.up, Event{Kind: SuccessorPrepared})
	case SendServing:
		p.send(p.up, Event{Kind: SuccessorServes})
	case SendReturning:
		p.send(p.up, Event{Kind: SuccessorReturns, Text: a.Text})
	case OpenControl:
		p.control = true
	case DrainForStop, DrainToSuccessor, DrainToPredecessor:
		p.accepting, p.paused = false, false
		p.later(func() { p.handle(Event{Kind: Drained}) })
	case RunHooks, RunStopHooks:
		p.later(func() { p.handle(Event{Kind: HooksEnded}) })
	case Exit:
		p.end()
	case Answer:
		p.answers[a.Waiter]++
	case Refuse, Fail, Succeed, Revoke:
		p.answer(a.Trigger)
		if a.Do == Fail {
			p.cut(p.down)
			p.down = nil
		}
	case Abandon:
		p.cut(p.down)
		p.down = nil
	default:
		return false
	}
	return true
}

func (p *proc) answer(t Trigger) {
	for _, w := range t.Waiters {
		p.answers[w]++
	}
}

func (p *proc) doSuccessor(a Action) bool {
	switch a.Do {
	case Execute:
		p.execute()
	case SendTakeOver:
		p.send(p.down, Event{Kind: TakeOver})
	case SendCommit:
		p.send(p.down, Event{Kind: CommitMessage})
	case Share:
		p.accepting, p.paused = a.Share < 1, a.Share == 1
	case Reclaim:
		p.accepting, p.paused = true, false
	case Judge:
		p.later(func() {
			p.handle(Event{Kind: Judged, PID: p.m.successor.pid, Stage: p.m.successor.stage, Verdict: Verdict(len(p.trace) % 8 / 3), Text: "numbers"})
		})
	case SendTakeBack:
		p.send(p.down, Event{Kind: TakeBack, Text: a.Text})
	case SendStop:
		p.send(p.down, Event{Kind: StopMessage, By: "the predecessor"})
	case StopFlip, KillUnknown:
		if c := p.child(); c != nil && p.flip == flipRuns {
			c.kill()
		}
	case Dismiss:
		c := p.child()
		p.kills.add(func() {
			early := c == nil || !c.alive
			if c != nil {
				c.kill()
			}
			p.handle(Event{Kind: SuccessorExited, InGrace: early && a.Duration > 0})
		})
	case HandOver:
		p.control = false
	case ReleasePipe:
		p.freed = true
		if c := p.child(); c != nil {
			p.later(func() { c.handle(Event{Kind: GateOpened}) })
		}
	case Forward:
		for _, w := range a.Trigger.Waiters {
			p.waiters = slices.DeleteFunc(p.waiters, func(own Waiter) bool { return own == w })
			if !p.send(p.down, Event{Kind: ControlTrigger, Waiter: w}) {
				p.answers[w]++
			}
		}
		for _, origin := range a.Trigger.Origins {
			p.send(p.down, Event{Kind: SignalTrigger, Origin: origin})
		}
	case ReportDrained:
		p.send(p.down, Event{Kind: PredecessorDrained})
	case WatchSuccessor:
		p.watch(p.next, Event{Kind: SuccessorExited}, Event{Kind: SuccessorLost})
	case HoldListeners:
		p.holding = true
	case ReleaseListeners:
		p.holding = false
	case Rescue:
		p.rescue()
	case Orphaned:
		if p.next.alive {
			p.fatal("generation %d takes its successor for dead", p.n)
		}
	default:
		return false
	}
	return true
}

func (p *proc) doPredecessor(a Action, answered *[]Event) {
	l := p.members[a.ID]
	switch a.Do {
	case ReportTo:
		switch p.m.Phase() {
		case Stopping:
			p.send(l, Event{Kind: kinds})
			p.send(l, Event{Kind: SuccessorDrains})
		case Upgrading:
			p.send(l, Event{Kind: SuccessorUpgrades})
		case Serving:
			p.send(l, Event{Kind: SuccessorSettles})
		}
	case Watch:
		p.watch(l.older, Event{Kind: PredecessorExited, ID: a.ID}, Event{Kind: PredecessorLost, ID: a.ID})
	case Kill:
		l.older.kill()
	case ReleaseLink:
		for len(l.toNewer.items) > 0 {
			l.toNewer.next()
		}
		*answered = append(*answered, Event{Kind: LinkReleased, ID: a.ID})
	case FollowLink:
		if l.broken { // the end of a socket can be read again
			l.end()
		}
	case PassLink:
		kind := LinkKept
		e := Event{Kind: PredecessorAdded, Member: Member{Generation: l.older.n, PID: l.older.n, Protocol: p.protocol(l.older.n, p.next.n), Drain: 30 * time.Second, Due: a.At}}
		if p.sendWith(p.down, e, l) {
			kind = LinkPassed
			delete(p.members, a.ID)
			l.newer = nil
		}
		*answered = append(*answered, Event{Kind: kind, ID: a.ID})
	}
}

// check checks what must hold at each moment.
func (p *proc) check() {
	if p.harmed || !p.procs[0].served {
		return
	}
	for _, q := range p.procs {
		if q.alive && (q.accepting || q.paused || q.holding || q.rescuer && !q.served) {
			return
		}
	}
	p.fatal("nobody accepts")
}

func anyProc(*proc) bool { return true }
