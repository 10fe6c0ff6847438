package upgrade

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
)

// run is what only the goroutine of Run touches: the machine that decides, and what it takes
// to carry its decisions out. It is one struct because none of that needs a lock.
type run struct {
	*Generation
	service Service

	machine *lifecycle.Machine
	queue   []lifecycle.Event            // to be handled before anything else happens
	posted  chan lifecycle.Event         // of what goes on in other goroutines
	timers  map[lifecycle.Kind]time.Time // those that are armed
	gate    <-chan struct{}              // closed when tableflip allows an upgrade, nil since then
	known   lifecycle.ID                 // the last predecessor that the machine knows of

	attempt    *attempt           // the upgrade under way, or the one that succeeded
	reclaiming sync.WaitGroup     // while connections that the last one was offered are not answered
	cancel     context.CancelFunc // of the checks, later of the drain
	reserve    []held             // what the successor accepts from, should it die
	rescuer    int                // the pid of what has taken over in its place; 0: nothing
	account    Drained            // once it is complete
	failure    error              // why this generation has never served
}

// Run makes the generation ready, serves until its time is over, and returns
// nil when nothing is left to do but to exit. It ends when a successor serves
// and everything under way here has ended, or when SIGTERM or SIGINT come in:
// then State becomes Draining at once, the service goes on for the shutdown
// delay, and drains. A further such signal closes what remains forcibly. Last of all the hooks of
// [Generation.OnExit] run and, if the service stops, those of [Generation.OnStop].
// SIGHUP asks for an upgrade. An error means that the generation never became
// ready; the hooks of OnExit have run then too.
func (g *Generation) Run(service Service, signals <-chan os.Signal) error {
	defer close(g.done)
	g.mu.Lock()
	g.service = service
	g.listeners = make(map[string]net.Listener)
	for ln, c := range g.claims {
		if ln != g.controlListener {
			g.addresses = append(g.addresses, c.Bound)
			g.listeners[c.Bound] = ln
		}
	}
	slices.Sort(g.addresses)
	g.mu.Unlock()
	r := newRun(g, service)
	if err := r.checkHeld(); err != nil {
		r.enqueue(lifecycle.Event{Kind: lifecycle.PrepareFailed, Err: err})
	}
	r.enqueue(lifecycle.Event{Kind: lifecycle.Begun})
	r.loop(signals)
	if r.failure != nil {
		g.giveUp()
		return r.failure
	}
	r.opts.Output.Flush()
	return nil
}

func newRun(g *Generation, service Service) *run {
	c := lifecycle.Config{Generation: g.number, Started: g.started,
		UpgradeTimeout: g.opts.UpgradeTimeout, ShutdownDelay: g.opts.ShutdownDelay, MaxDraining: g.opts.MaxDraining,
		ReturnTime: g.returnTime()}
	r := &run{Generation: g, service: service, cancel: func() {},
		posted: make(chan lifecycle.Event), timers: make(map[lifecycle.Kind]time.Time)}
	switch {
	case g.link != nil:
		c.Gate = lifecycle.GateHeld
	case g.flip.HasPredecessor():
		c.Gate = lifecycle.GateHeldUnlinked
	}
	if p := g.predecessor; p != nil {
		c.Begun, c.Deadline, c.Origins = p.Begun, p.Deadline, p.Origins
	}
	for _, p := range g.living() { // one at most
		member := p.member()
		c.Predecessor, r.known = &member, p.id
	}
	c.Trial = r.plan(g.opts.Trial)
	r.machine = lifecycle.New(c)
	return r
}

// loop turns what happens into events, one at a time, until nothing is left to do.
func (r *run) loop(signals <-chan os.Signal) {
	drains := (<-chan struct{})(r.predecessorDrains)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for r.settle(); !r.machine.Phase().Ended(); r.settle() {
		timer.Reset(r.untilTimer())
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				r.enqueue(lifecycle.Event{Kind: lifecycle.SignalTrigger, Origin: r.number})
			} else {
				r.enqueue(lifecycle.Event{Kind: lifecycle.StopSignal, By: sig.String()})
			}
		case w := <-r.control.Requests():
			r.enqueue(lifecycle.Event{Kind: lifecycle.ControlTrigger, Waiter: w, Trial: r.planOf(w)})
		case v := <-r.control.Verdicts():
			r.enqueue(verdictEvent(v))
		case e := <-r.events:
			r.handleEvent(&e)
		case e := <-r.posted:
			if e.Kind == lifecycle.Judged {
				r.noteComparison()
			}
			r.enqueue(e)
		case <-timer.C:
			r.fireTimers()
		case <-drains:
			drains = nil
			r.enqueue(lifecycle.Event{Kind: lifecycle.Relieved})
		case <-r.gate:
			r.gate = nil
			r.enqueue(lifecycle.Event{Kind: lifecycle.GateOpened})
		case <-r.heartbeat:
		}
	}
}

func (r *run) enqueue(e lifecycle.Event) { r.queue = append(r.queue, e) }

// settle lets the machine decide on what is in the queue, and does what it decides, which
// may add to the queue.
func (r *run) settle() {
	r.enqueueMembers()
	for len(r.queue) > 0 {
		e := r.queue[0]
		r.queue = r.queue[1:]
		e.Now = time.Now()
		for _, a := range r.machine.Handle(e) {
			verbs[a.Do](r, a)
		}
	}
}

// post is enqueue for other goroutines.
func (r *run) post(e lifecycle.Event) {
	select {
	case r.posted <- e:
	case <-r.done:
	}
}

// untilTimer returns how long the next timer is away.
func (r *run) untilTimer() time.Duration {
	next := time.Now().Add(time.Hour)
	for _, at := range r.timers {
		if at.Before(next) {
			next = at
		}
	}
	return time.Until(next)
}

func (r *run) fireTimers() {
	now := time.Now()
	for _, kind := range slices.Sorted(maps.Keys(r.timers)) {
		if !now.Before(r.timers[kind]) {
			delete(r.timers, kind)
			r.enqueue(lifecycle.Event{Kind: kind})
		}
	}
}

// handleEvent handles what came over a link. What came over one of an attempt that has
// failed since is of no interest.
func (r *run) handleEvent(e *link.Event) {
	defer e.Close()
	if a := r.attempt; a != nil && a.link == e.From {
		r.handleSuccessor(a, e)
		return
	}
	for _, p := range r.living() {
		if p.link == e.From {
			r.handlePredecessor(p, e)
		}
	}
}

// Alive returns nil if the goroutine that runs the generation still answers, and
// otherwise an error when ctx ends.
func (g *Generation) Alive(ctx context.Context) error {
	select {
	case g.heartbeat <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("generation %d hangs: %w", g.number, ctx.Err())
	}
}
