package lifecycle

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world is a line of generations: machines that are connected by queues. Which queue
// delivers next, and what happens from outside, is up to the fuzzer.
type world struct {
	t       *testing.T
	now     time.Time
	procs   []*proc
	queues  []*queue
	kills   *queue // of successors; they take less time than any timer
	answers map[Waiter]int
	lost    map[Waiter]bool // they went with a process that was killed
	watches []*watch
	harmed  bool // a process was killed that has served, or a stop was requested
	trace   []string
}

// proc is one process.
type proc struct {
	*world
	n         int
	m         *Machine
	alive     bool
	accepting bool
	served    bool // it has accepted
	up, down  *wire
	parent    *proc
	flip      flip
	limit     time.Time // of tableflip's patience
	timers    map[Kind]time.Time
	members   map[ID]*wire
	lastID    ID
	next      *proc // whoever has said hello last over the link to the successor
	farewell  bool  // that one reported a stop
	control   bool  // it accepts on the control socket
	waiters   []Waiter
	freed     bool // tableflip's pipe, for the successor
}

// flip is the state of tableflip in a process.
type flip int

const (
	flipIdle flip = iota
	flipRuns
	flipUsed
)

// wire is a link: messages go to whoever has the end. Both directions are queues.
type wire struct {
	older, newer     *proc // nil: the end is under way, in a message
	toOlder, toNewer *queue
	broken           bool
}

// queue delivers in order.
type queue struct {
	items []func()
	to    *wire // its newer end receives them; nil: another
}

func (q *queue) next() {
	f := q.items[0]
	q.items = q.items[1:]
	f()
}

func (q *queue) isReady() bool { return len(q.items) > 0 && (q.to == nil || q.to.newer != nil) }

// watch is a process that awaits the end of another.
type watch struct {
	by, of *proc
	exited Event
}

func (q *queue) add(f func()) { q.items = append(q.items, f) }

func (w *world) later(f func()) { w.newQueue().add(f) }

func (w *world) newQueue() *queue {
	q := &queue{}
	w.queues = append(w.queues, q)
	return q
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: epoch, answers: map[Waiter]int{}, lost: map[Waiter]bool{}}
	w.kills = w.newQueue()
	w.start(nil, nil, Config{Generation: 1})
	return w
}

// start begins a process.
func (w *world) start(parent *proc, up *wire, c Config) {
	p := &proc{world: w, n: c.Generation, alive: true, up: up, parent: parent, timers: map[Kind]time.Time{}, members: map[ID]*wire{}}
	c.Started, c.UpgradeTimeout, c.ShutdownDelay, c.MaxDraining = w.now, timeout, 3*time.Second, 2
	p.m = New(c)
	w.procs = append(w.procs, p)
	if up != nil {
		up.newer = p
		p.members[0] = up
		p.send(up, Event{Kind: Hello, PID: p.n, Protocol: 2})
	}
	w.later(func() { p.handle(Event{Kind: Begun}) })
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
		to.send(passed, Event{Kind: Hello, PID: to.n, Protocol: 2})
		if passed.broken {
			passed.end()
		}
	case toOlder && to.down != l:
		return // of an attempt that has failed
	case e.Kind == kinds: // the report of a stop
		to.farewell = true
		return
	case e.Kind == Hello:
		to.next, to.farewell = p, false
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

// cut ends a link: both ends are notified after what was sent before.
func (w *world) cut(l *wire) {
	if l == nil || l.broken {
		return
	}
	l.broken = true
	l.toOlder.add(func() {
		if p := l.older; p != nil && p.alive && p.down == l {
			kind := SuccessorLinkEnded
			if p.farewell {
				kind = SuccessorLinkClosed
			}
			p.handle(Event{Kind: kind})
		}
	})
	l.end()
}

// end notifies the newer end, after what was sent before.
func (l *wire) end() {
	l.toNewer.add(func() {
		if p := l.newer; p != nil && p.alive {
			p.handle(Event{Kind: PredecessorUnlinked, ID: p.id(l)})
		}
	})
}

// end is the end of a process, whatever it was busy with.
func (p *proc) end() {
	if !p.alive {
		return
	}
	p.trace = append(p.trace, fmt.Sprintf("%d ends", p.n))
	p.alive, p.accepting = false, false
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
	p.end()
}

func (p *proc) flipFails(c *proc) {
	if p.flip == flipRuns && p.child() == c {
		p.flip, p.limit = flipIdle, time.Time{}
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
	e.Now = p.now
	actions := p.m.Handle(e)
	p.trace = append(p.trace, fmt.Sprintf("%d: event %d: %v -> %v, %v", p.n, e.Kind, what(actions), p.m.Phase(), p.m.Attempt()))
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
		if q := p.parent; q != nil && q.alive {
			p.later(func() {
				if q.flip == flipRuns && q.child() == p {
					q.flip, q.limit = flipUsed, time.Time{}
					q.handle(Event{Kind: FlipAccepted})
				}
			})
		}
	case Serve:
		p.accepting, p.served = true, true
	case Announce:
		p.send(p.up, Event{Kind: SuccessorServes})
	case OpenControl:
		p.control = true
	case DrainForStop, DrainToSuccessor:
		p.accepting = false
		p.later(func() { p.handle(Event{Kind: Drained}) })
	case RunHooks, RunStopHooks:
		p.later(func() { p.handle(Event{Kind: HooksEnded}) })
	case Exit:
		p.end()
	case Refuse, Fail, Succeed:
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
	case SendStop:
		p.send(p.down, Event{Kind: StopMessage, By: "the predecessor"})
	case StopFlip:
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
	case Orphaned:
		if p.next.alive {
			p.fatal("generation %d takes its successor for dead", p.n)
		}
	default:
		return false
	}
	return true
}

func (p *proc) execute() {
	for _, q := range p.procs {
		if q != p && q.alive && q.n > p.n {
			p.fatal("generation %d executes a successor although %d lives", p.n, q.n)
		}
	}
	p.next, p.farewell = nil, false
	if p.flip == flipUsed {
		p.down = &wire{broken: true}
		p.later(func() { p.handle(Event{Kind: FlipFailed, Err: errors.New("handed over once")}) })
		return
	}
	p.flip, p.limit = flipRuns, p.now.Add(timeout)
	l := &wire{older: p, toOlder: p.newQueue(), toNewer: p.newQueue()}
	l.toNewer.to = l
	p.down = l
	c := Config{Generation: p.n + 1, Gate: GateHeld, Begun: p.now, Deadline: p.limit,
		Predecessor: &Member{Generation: p.n, PID: p.n, Protocol: 2, Drain: 30 * time.Second}}
	p.start(p, l, c)
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

func (p *proc) doPredecessor(a Action, answered *[]Event) {
	l := p.members[a.ID]
	switch a.Do {
	case ReportTo:
		if p.m.Phase() == Stopping {
			p.send(l, Event{Kind: kinds})
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
		e := Event{Kind: PredecessorAdded, Member: Member{Generation: l.older.n, PID: l.older.n, Protocol: 2, Drain: 30 * time.Second, Due: a.At}}
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
		if q.alive && q.accepting {
			return
		}
	}
	p.fatal("nobody accepts")
}

func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.trace {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

// deliver delivers the next item of one of the queues. It returns false if there is none.
func (w *world) deliver(choice int) bool {
	w.queues = slices.DeleteFunc(w.queues, func(q *queue) bool { return len(q.items) == 0 && q != w.kills && !w.inUse(q) })
	var ready []*queue
	for _, q := range w.queues {
		if q.isReady() {
			ready = append(ready, q)
		}
	}
	if len(ready) == 0 {
		return false
	}
	ready[choice%len(ready)].next()
	return true
}

// inUse reports whether a queue is that of a link.
func (w *world) inUse(q *queue) bool {
	return slices.ContainsFunc(w.procs, func(p *proc) bool {
		for _, l := range p.members {
			if l.toOlder == q || l.toNewer == q {
				return true
			}
		}
		return p.down != nil && (p.down.toOlder == q || p.down.toNewer == q)
	})
}

// tick advances the clock to the next timer. It returns false if there is none but that of
// reports.
func (w *world) tick() bool {
	for len(w.kills.items) > 0 {
		w.kills.next()
	}
	var at time.Time
	var fire func()
	for _, p := range w.procs {
		if !p.alive {
			continue
		}
		for kind := range kinds {
			if t, ok := p.timers[kind]; ok && kind != ReportDue && (fire == nil || t.Before(at)) {
				at, fire = t, func() { delete(p.timers, kind); p.handle(Event{Kind: kind}) }
			}
		}
		if t := p.limit; !t.IsZero() && (fire == nil || t.Before(at)) {
			at, fire = t, func() {
				if c := p.child(); c != nil {
					c.kill()
				}
				p.flipFails(p.child())
			}
		}
	}
	if fire == nil {
		return false
	}
	if at.After(w.now) {
		w.now = at
	}
	fire()
	return true
}

// living returns the processes that live and satisfy a condition.
func (w *world) living(ok func(*proc) bool) (procs []*proc) {
	for _, p := range w.procs {
		if p.alive && ok(p) {
			procs = append(procs, p)
		}
	}
	return procs
}

func anyProc(*proc) bool { return true }

// outside lets something happen to one of the processes.
func (w *world) outside(what, choice int) {
	among := anyProc
	if what == 0 {
		among = func(p *proc) bool { return p.control }
	}
	procs := w.living(among)
	if len(procs) == 0 || len(w.procs) > 6 {
		return
	}
	p := procs[choice%len(procs)]
	w.trace = append(w.trace, fmt.Sprintf("outside: %d to %d", what, p.n))
	switch what {
	case 0:
		waiter := len(w.answers)
		w.answers[waiter] = 0
		p.waiters = append(p.waiters, waiter)
		p.handle(Event{Kind: ControlTrigger, Waiter: waiter})
	case 1:
		p.handle(Event{Kind: SignalTrigger, Origin: p.n})
	case 2:
		w.harmed = true
		p.handle(Event{Kind: StopSignal, By: "terminated"})
	case 3:
		w.harmed = w.harmed || p.served || p.parent == nil
		p.kill()
	case 4:
		w.cut(p.up)
	case 5:
		if p.down != nil {
			w.cut(p.down)
		}
	}
}

// rest plays until nothing happens any more, and checks what must hold then.
func (w *world) rest() {
	for n := 0; w.deliver(n) || w.tick(); n++ {
		if n > 10_000 {
			w.fatal("no end of events")
		}
	}
	living := w.living(anyProc)
	if len(living) > 1 || len(living) == 0 && !w.harmed {
		w.fatal("%d generations live at last", len(living))
	}
	for _, p := range living {
		if p.m.Phase() != Serving || p.m.pending != nil || !p.accepting || !p.control {
			w.fatal("generation %d: at last in phase %v, accepting: %v, answering: %v", p.n, p.m.Phase(), p.accepting, p.control)
		}
	}
	for waiter, n := range w.answers {
		if n > 1 || n == 0 && !w.lost[waiter] {
			w.fatal("waiter %v got %d final answers", waiter, n)
		}
	}
}

// playLine lets a line of generations live whose messages are delayed and whose processes and
// links are lost.
func playLine(t *testing.T, plan []byte) {
	w := newWorld(t)
	for _, b := range plan {
		switch choice := int(b) / 8; b % 8 {
		case 5:
			w.tick()
		case 6:
			w.outside(choice%3, choice/3)
		case 7:
			w.outside(3+choice%3, choice/3)
		default:
			w.deliver(choice)
		}
	}
	w.rest()
}

// Exactly one generation decides, at least one accepts, every waiter gets exactly one answer,
// and at last one generation is left.
func TestLine(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		plan := make([]byte, 20+random.IntN(200))
		for i := range plan {
			plan[i] = byte(random.Uint32())
			if plan[i]%8 == 7 && random.IntN(4) > 0 { // most lines live long
				plan[i]--
			}
		}
		if t.Run(fmt.Sprint(seed), func(t *testing.T) { playLine(t, plan) }); t.Failed() {
			return
		}
	}
}

// FuzzLine is TestLine with plans that lead to where no other has led.
func FuzzLine(f *testing.F) {
	f.Add([]byte{0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 6, 6, 14, 0, 8, 16, 0, 0, 6, 0, 0, 0, 8, 5, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 6, 0, 0, 22, 0, 5, 0, 5, 0, 0, 7})
	f.Add([]byte{0, 0, 6, 0, 0, 7, 0, 15, 0, 23, 0, 0, 7})
	f.Fuzz(func(t *testing.T, plan []byte) {
		if len(plan) < 300 {
			playLine(t, plan)
		}
	})
}
