package upgrade

// This file holds the life of a generation that is ready: the loop that decides
// on everything.

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// run is what only the goroutine of Run touches.
type run struct {
	*Generation
	service Service

	predecessorGone <-chan struct{} // nil once it is
	goneAt          time.Time
	overdue         <-chan time.Time // when it should have been gone

	pending *trigger // waits for the predecessor's end or that of the upgrade
	attempt *attempt // the upgrade under way, or the one that succeeded

	kept       func(net.Listener) bool // which listeners the successor has
	handedOver bool                    // a successor serves
	stopping   bool                    // a stop was asked for
	signals    int                     // how often by a signal to this process
	delay      <-chan time.Time        // of a stop: when it may drain
	mayDrain   bool                    // the delay is over
	impatience <-chan time.Time        // when a successor that starts is no longer waited for

	drained chan Drained // nil before the drain
	result  *Drained     // once it is over
	waiting bool         // for the predecessor, with the result
	cut     context.CancelFunc

	reportTick <-chan time.Time // while a successor is there
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
	for ln, c := range g.claims {
		if ln != g.control.listener {
			g.addresses = append(g.addresses, c.Bound)
		}
	}
	slices.Sort(g.addresses)
	g.mu.Unlock()
	if err := r.becomeReady(signals); err != nil {
		g.giveUp()
		return err
	}
	r.loop(signals)
	return nil
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
		case <-r.reportTick:
			r.reportToSuccessor()
		case <-r.pulse:
		case d := <-r.drained:
			r.result = &d
		}
		if r.result != nil && !r.waitsForPredecessor() {
			r.finish(*r.result)
		}
	}
}

// Alive returns nil if the goroutine that runs the generation still answers, and
// otherwise an error when ctx ends.
func (g *Generation) Alive(ctx context.Context) error {
	select {
	case g.pulse <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("generation %d hangs: %w", g.number, ctx.Err())
	}
}

// hear takes what the predecessor says.
func (r *run) hear(m message) {
	switch m.Type {
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
