package upgrade

// This file holds the life of a generation: how it becomes ready, and the loop
// that decides on everything after that.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// run is what only the goroutine of Run touches.
type run struct {
	*Generation
	service Service

	fromPredecessor <-chan message
	predecessorGone <-chan struct{} // nil once it is
	goneAt          time.Time
	overdue         <-chan time.Time // when it should have been gone

	pending *trigger // waits for the predecessor's end or that of the upgrade
	attempt *attempt // the upgrade under way, or the one that succeeded

	kept       func(net.Listener) bool // which listeners the successor has
	handedOver bool                    // a successor serves
	stopping   bool                    // a stop was asked for
	signals    int                     // how often by a signal to this process
	delay      <-chan time.Time        // of a stop
	mayDrain   bool                    // it is over
	impatience <-chan time.Time        // when a successor that starts is no longer waited for

	drained  chan Drained // nil before the drain
	result   *Drained     // once it is over
	cut      context.CancelFunc
	loadTick <-chan time.Time
}

// trigger is one upgrade that was asked for, perhaps several times.
type trigger struct {
	by      string // what asked first: a signal, or someone on the control socket
	at      time.Time
	signal  bool // a signal asked as well
	waiters []*waiter
}

const (
	bySignal  = "signal"
	byControl = "control"
)

// Run makes the generation ready, serves until its time is over, and returns
// nil when nothing is left to do but to exit. It ends when a successor serves
// and everything under way here has ended, or when SIGTERM or SIGINT come in:
// then State becomes Draining at once, the service goes on for the shutdown
// delay, drains, and the hooks of [Generation.OnStop] run. A further such signal
// cuts the drain. SIGHUP asks for an upgrade. An error means that the
// generation never became ready.
func (g *Generation) Run(service Service, signals <-chan os.Signal) error {
	r := &run{Generation: g, service: service, cut: func() {}}
	defer close(g.done)
	g.mu.Lock()
	g.service = service
	g.mu.Unlock()
	if err := r.becomeReady(signals); err != nil {
		g.giveUp()
		return err
	}
	r.loop(signals)
	return nil
}

// becomeReady takes over from the predecessor, if there is one. Nothing has
// been accepted before tableflip's Ready, and what can fail the upgrade comes
// before it.
func (r *run) becomeReady(signals <-chan os.Signal) error {
	if r.link != nil {
		r.fromPredecessor = r.link.messages(r.done)
	}
	if err := r.check(signals); err != nil {
		return fmt.Errorf("generation %d is no good: %w", r.number, err)
	}
	if r.pidFile != nil {
		prepare := r.pidFile.prepare
		if !r.tf.HasParent() {
			prepare = r.pidFile.publishFirst
		}
		if err := prepare(); err != nil {
			return err
		}
	}
	// Close to its deadline the predecessor may kill this process in the very
	// moment in which it hears that it is ready.
	if p := r.predecessor; p != nil && time.Until(p.Deadline) < p.Deadline.Sub(p.Begun)/20 {
		return fmt.Errorf("generation %d was not ready soon enough: gives up after %s, shortly before it would be killed",
			r.number, time.Since(p.Begun).Round(time.Millisecond))
	}
	if err := r.tf.Ready(); err != nil {
		// The one thing in it that can fail is telling a predecessor that has
		// died. The sockets are here, and nobody else serves them.
		r.log.Warn("predecessor died before it heard that its successor is ready", "error", err)
	}
	r.enter(Serving)
	r.service.Serve()
	r.control.serve()
	if r.pidFile != nil && r.tf.HasParent() {
		if err := r.pidFile.publish(); err != nil {
			r.log.Error("PID file not replaced", "error", err)
		}
	}
	for _, c := range r.offered { // not claimed: the configuration has dropped them
		c.unlink()
	}
	r.stderr.restore()
	if p := r.predecessor; p != nil {
		took := time.Since(p.Asked)
		r.record(Upgrade{Time: p.Asked, Trigger: p.Trigger, From: p.Generation, To: r.number, Result: Succeeded, Seconds: took.Seconds()})
		if r.opts.OnReady != nil {
			r.opts.OnReady(took)
		}
		var claims []claim
		for _, c := range r.claims {
			claims = append(claims, c)
		}
		if err := r.link.send(message{Type: msgServing, Claims: claims}, nil); err != nil {
			r.log.Warn("predecessor does not listen", "error", err)
		}
		if p.Drain > 0 {
			r.overdue = time.After(p.Drain + overstay)
		}
	}
	if r.tf.HasParent() {
		gone := make(chan struct{})
		r.predecessorGone = gone
		go func() { // ends with the predecessor
			r.tf.WaitForParent(context.Background())
			close(gone)
		}()
	}
	return nil
}

// check runs the checks that precede readiness. A stop ends them.
func (r *run) check(signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if p := r.predecessor; p != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, p.Deadline)
		defer stop()
	}
	checked := make(chan error, 1)
	go func() {
		err := r.service.Check(ctx)
		if err == nil && r.opts.Check != nil {
			err = r.opts.Check(ctx)
		}
		checked <- err
	}()
	for {
		select {
		case err := <-checked:
			return err
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				r.ask(trigger{by: bySignal, signal: true})
				continue
			}
			return fmt.Errorf("stopped by %v before it was ready", sig)
		case m, ok := <-r.fromPredecessor:
			switch {
			case !ok: // nobody reads the pipe any more
				r.fromPredecessor = nil
				r.stderr.restore()
			case m.Type == msgStop:
				return errors.New("stopped by the predecessor before it was ready")
			default:
				r.hear(m)
			}
		}
	}
}

// loop decides on everything that happens to a generation that is ready.
func (r *run) loop(signals <-chan os.Signal) {
	r.goOn()
	for r.State() != Exited {
		var (
			ended         chan error
			fromSuccessor <-chan message
			late          <-chan time.Time
		)
		if a := r.attempt; a != nil {
			ended, fromSuccessor, late = a.ended, a.messages, a.late
		}
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				r.ask(trigger{by: bySignal, signal: true})
			} else {
				r.signals++
				r.stop(sig.String())
			}
		case w := <-r.control.asked:
			r.ask(trigger{by: byControl, waiters: []*waiter{w}})
		case err := <-ended:
			r.upgradeEnded(err)
		case m, ok := <-fromSuccessor:
			r.hearSuccessor(m, ok)
		case <-late:
			r.killSuccessor()
		case m, ok := <-r.fromPredecessor:
			if ok {
				r.hear(m)
			} else {
				r.fromPredecessor = nil
			}
		case <-r.predecessorGone:
			r.predecessorIsGone()
		case <-r.overdue:
			r.overdue = nil
			r.killPredecessor()
		case <-r.delay:
			r.delay, r.mayDrain = nil, true
			r.drainForStop()
		case <-r.impatience:
			r.endSuccessor()
		case <-r.loadTick:
			r.reportLoad()
		case d := <-r.drained:
			r.result = &d
		}
		if r.result != nil {
			r.finish(*r.result)
		}
	}
}

// hear takes what the predecessor says.
func (r *run) hear(m message) {
	switch m.Type {
	case msgLoad:
		r.mu.Lock()
		if r.before != nil && m.Load != nil {
			r.before.state, r.before.load = Draining, *m.Load
		}
		r.mu.Unlock()
	case msgDrained:
		if m.Drained == nil {
			return
		}
		d := *m.Drained
		c := d.Connections
		r.log.Info("predecessor drained", "seconds", d.Seconds, "requests_finished", d.Requests, "closed_by_client", c.Client,
			"told_to_close", c.Announced, "closed_after_grace", c.Grace, "cut", c.Cut)
		r.mu.Lock()
		if r.before != nil {
			r.before.reported, r.before.load = true, Load{}
		}
		r.mu.Unlock()
		if r.opts.OnDrained != nil {
			r.opts.OnDrained(d)
		}
	case msgUpgrade:
		if m.conn != nil {
			r.control.adopt(m.conn)
		} else {
			r.ask(trigger{by: bySignal, signal: true})
		}
	case msgStop:
		r.stop("the predecessor")
	}
}

func (r *run) predecessorIsGone() {
	r.predecessorGone = nil
	r.goneAt = time.Now()
	for r.fromPredecessor != nil { // its last words may still be on the link
		if m, ok := <-r.fromPredecessor; ok {
			r.hear(m)
		} else {
			r.fromPredecessor = nil
		}
	}
	r.mu.Lock()
	abrupt := r.before != nil && !r.before.reported
	r.before = nil
	r.mu.Unlock()
	if abrupt {
		r.log.Warn("predecessor ended without a report; what it had in hand is lost")
	} else {
		r.log.Info("predecessor is gone")
	}
	r.goOn()
}

// overstay is how much longer than its drain may take a predecessor may live.
const overstay = 5 * time.Second

// killPredecessor ends a predecessor that hangs or was stopped: as long as it
// lives no upgrade is possible.
func (r *run) killPredecessor() {
	if r.predecessorGone == nil || r.predecessorFD < 0 {
		return
	}
	r.log.Warn("predecessor is still there although its drain is long over; kills it", "predecessor_pid", r.predecessor.PID)
	if err := unix.PidfdSendSignal(r.predecessorFD, unix.SIGKILL, nil, 0); err != nil {
		r.log.Error("predecessor cannot be killed", "error", err)
	}
}

// stop begins the end of the service. A second signal to this process cuts it
// short; that the predecessor was stopped as well is not one.
func (r *run) stop(by string) {
	switch {
	case r.signals > 1:
		r.log.Warn("told to stop again; cuts the drain", "by", by)
		r.endSuccessor()
		r.delay, r.mayDrain = nil, true
		r.drainForStop()
		r.cut()
	case r.handedOver:
		r.log.Info("told to stop; goes on draining, since a successor serves", "by", by)
	case r.stopping:
		r.log.Info("told to stop, which it does", "by", by)
	default:
		r.log.Info("told to stop", "by", by, "delay", r.opts.ShutdownDelay.String())
		r.stopping = true
		r.mu.Lock()
		r.isStopping = true
		r.mu.Unlock()
		r.enter(Draining)
		if p := r.pending; p != nil {
			r.pending = nil
			r.refuse(p)
		}
		r.delay = time.After(r.opts.ShutdownDelay)
		if a := r.attempt; a != nil {
			// It may serve already, and must not be killed then: it ends by
			// itself, in whichever way is right for it.
			if a.link != nil {
				a.link.send(message{Type: msgStop}, nil)
			}
			r.impatience = time.After(time.Second)
		}
		r.commit()
	}
}

// drainForStop drains when the shutdown delay is over and no successor can take
// over any more.
func (r *run) drainForStop() {
	if !r.stopping || !r.mayDrain || r.attempt != nil || r.drained != nil {
		return
	}
	r.tf.Stop()
	<-r.tf.Exit() // it has closed its copies of the sockets
	r.drain(func(net.Listener) bool { return false })
}

// drain lets the service drain. kept says which listeners a successor has.
func (r *run) drain(kept func(net.Listener) bool) {
	for ln, c := range r.claims {
		if ln != r.control.listener && !kept(ln) {
			c.unlink() // nobody comes any more while the queue is emptied
			delete(r.claims, ln)
		}
	}
	ctx, cut := context.WithTimeout(context.Background(), r.opts.DrainTimeout)
	r.cut = cut
	if r.signals > 1 {
		cut()
	}
	r.drained = make(chan Drained, 1)
	go func() { r.drained <- r.service.Drain(ctx, kept) }()
}

// finish is the end of this generation.
func (r *run) finish(d Drained) {
	r.cut()
	c := d.Connections
	level := r.log.Info
	if c.Cut > 0 {
		level = r.log.Warn
	}
	level("drained", "seconds", d.Seconds, "requests_finished", d.Requests, "closed_by_client", c.Client,
		"told_to_close", c.Announced, "closed_after_grace", c.Grace, "timed_out", c.Timeout, "failed", c.Error,
		"closed_by_handler", c.Hijacked, "cut", c.Cut)
	if r.handedOver {
		if r.attempt.link != nil {
			r.attempt.link.send(message{Type: msgDrained, Drained: &d}, nil)
		}
		r.tell(r.attempt.waiters, reply{Final: true, Outcome: r.succeeded(&d)})
	}
	if r.stopping {
		r.runHooks()
	}
	if c, ok := r.claims[r.control.listener]; ok && !r.handedOver {
		c.unlink() // while the socket is open its inode can be no other's
	}
	r.control.finish()
	if r.pidFile != nil {
		r.pidFile.remove()
	}
	r.enter(Exited)
}

func (r *run) tell(waiters []*waiter, reply reply) {
	for _, w := range waiters {
		w.tell(reply)
	}
}

type hook struct {
	name string
	run  func(context.Context) error
}

// hookTimeout is how long all hooks may take together.
const hookTimeout = 10 * time.Second

// OnStop registers a function that runs when the service stops, after the
// drain: not when a successor takes over. Hooks run in reverse order of
// registration, each of them even if another fails or panics, and share ten
// seconds, which the context tells. Errors are joined and logged.
func (g *Generation) OnStop(name string, run func(context.Context) error) {
	g.hooks = append(g.hooks, hook{name, run})
}

func (r *run) runHooks() {
	ctx, cancel := context.WithTimeout(context.Background(), hookTimeout)
	defer cancel()
	var errs []error
	for i := len(r.hooks) - 1; i >= 0; i-- {
		h := r.hooks[i]
		ended := make(chan error, 1)
		go func() {
			defer func() {
				if p := recover(); p != nil {
					ended <- fmt.Errorf("panic: %v", p)
				}
			}()
			ended <- h.run(ctx)
		}()
		var err error
		select {
		case err = <-ended:
		case <-ctx.Done():
			err = fmt.Errorf("not done after %s", hookTimeout)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("hook %s: %w", h.name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Error("shutdown hooks failed", "error", err)
	}
}
