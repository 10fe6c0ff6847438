package lifecycle

import (
	"fmt"
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
	mixed   bool // every other release leaves it to its successor when that takes over
	tried   bool // successors are
	trace   []string
}

// wire is a link: messages go to whoever has the end. Both directions are queues.
type wire struct {
	older, newer     *proc // nil: the end is under way, in a message
	toOlder, toNewer *queue
	broken           bool
	severed          bool // both processes lived
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

func newWorld(t *testing.T, mixed, tried bool) *world {
	w := &world{t: t, now: epoch, mixed: mixed, tried: tried, answers: map[Waiter]int{}, lost: map[Waiter]bool{}}
	w.kills = w.newQueue()
	w.start(nil, nil, Config{Generation: 1})
	return w
}

// protocol is the version of the link that two generations speak.
func (w *world) protocol(a, b int) int {
	if w.mixed && (a%4 < 2 || b%4 < 2) {
		return ordersSince - 1
	}
	return ordersSince
}

// start begins a process.
func (w *world) start(parent *proc, up *wire, c Config) {
	p := &proc{world: w, n: c.Generation, alive: true, up: up, parent: parent, timers: map[Kind]time.Time{}, members: map[ID]*wire{}}
	c.Started, c.UpgradeTimeout, c.ShutdownDelay, c.MaxDraining, c.ReturnTime = w.now, timeout, 3*time.Second, 2, 40*time.Second
	if w.tried {
		c.Trial = Trial{Share: float64(c.Generation%2) / 10, Time: 3 * time.Second, Watch: time.Duration(c.Generation%3) * time.Second}
	}
	p.m = New(c)
	w.procs = append(w.procs, p)
	if up != nil {
		up.newer = p
		p.members[0] = up
		p.send(up, p.hello(parent))
	}
	w.later(func() { p.handle(Event{Kind: Begun}) })
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
			if p.stopping {
				kind = SuccessorLinkClosed
			}
			p.handle(Event{Kind: kind})
		}
	})
	l.end()
}

// sever ends a link of processes that may live on.
func (w *world) sever(l *wire) {
	if l != nil {
		l.severed = true
		w.cut(l)
	}
}

// end notifies the newer end, after what was sent before.
func (l *wire) end() {
	l.toNewer.add(func() {
		if p := l.newer; p != nil && p.alive {
			p.handle(Event{Kind: PredecessorUnlinked, ID: p.id(l)})
		}
	})
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
		w.harmed = w.harmed || !p.isReplaceable() && (p.parent == nil || p.committed || p.served && !p.parent.alive)
		p.kill()
	case 4:
		w.sever(p.up)
	case 6, 7:
		waiter := len(w.answers)
		w.answers[waiter] = 0
		p.handle(Event{Kind: Promote + Kind(what-6), Waiter: waiter})
	case 5:
		w.sever(p.down)
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
