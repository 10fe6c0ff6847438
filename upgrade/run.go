package upgrade

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/control"
	"example.com/baton/upgrade/internal/link"
)

// run is what only the goroutine of Run touches. Its fields are the channels that its loop
// selects from, each beside the state that it belongs to.
type run struct {
	*Generation
	service Service

	gate    <-chan struct{}  // closed when tableflip allows an upgrade, nil since then
	overdue <-chan time.Time // when a predecessor should have been gone
	alone   <-chan struct{}  // closed when nobody else answers on the control socket, nil since then

	hangup  hangup
	pending *trigger // waits for the predecessor's end or that of the upgrade
	attempt *attempt // the upgrade under way, or the one that succeeded

	kept       func(net.Listener) bool // which listeners the successor has
	handedOver bool                    // a successor serves
	stopping   bool                    // a stop was requested
	signals    int                     // how often by a signal to this process
	delay      <-chan time.Time        // of a stop: when it may drain
	mayDrain   bool                    // the delay is over
	impatience <-chan time.Time        // when a successor that starts is no longer waited for

	drained chan Drained // nil before the drain
	result  *Drained     // once it is over
	waiting bool         // for predecessors, with the result
	cut     context.CancelFunc

	hooksEnded <-chan struct{} // nil before they run

	reportTick <-chan time.Time // while a successor is there
}

// Run makes the generation ready, serves until its time is over, and returns
// nil when nothing is left to do but to exit. It ends when a successor serves
// and everything under way here has ended, or when SIGTERM or SIGINT come in:
// then State becomes Draining at once, the service goes on for the shutdown
// delay, and drains. A further such signal cuts the drain. Last of all the hooks of
// [Generation.OnExit] run and, if the service stops, those of [Generation.OnStop].
// SIGHUP asks for an upgrade. An error means that the generation never became
// ready; the hooks of OnExit have run then too.
func (g *Generation) Run(service Service, signals <-chan os.Signal) error {
	r := &run{Generation: g, service: service, cut: func() {}}
	defer close(g.done)
	if p := g.predecessor; p != nil && len(p.Origins) > 0 {
		// Predecessors may yet pass on the signal that has led here. One that comes
		// to this process is another: it was not there then.
		r.hangup = hangup{at: g.started, origins: append(p.Origins, g.number)}
	}
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
	if err := r.becomeReady(signals); err != nil {
		g.runHooks(false)
		g.giveUp()
		return err
	}
	r.loop(signals)
	r.opts.Output.Flush()
	return nil
}

// loop decides on everything that happens to a generation that is ready.
func (r *run) loop(signals <-chan os.Signal) {
	r.startPending()
	for r.State() != Exited {
		var (
			ended  chan error
			late   <-chan time.Time
			exited chan string
		)
		if a := r.attempt; a != nil {
			ended, late, exited = a.ended, a.late, a.exited
		}
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				r.askBySignal(r.number)
			} else {
				r.signals++
				r.stop(sig.String())
			}
		case w := <-r.control.Requests():
			r.ask(trigger{by: byControl, waiters: []*control.Waiter{w}})
		case err := <-ended:
			r.upgradeEnded(err)
		case e := <-r.events:
			r.handleEvent(&e)
		case <-late:
			r.successorIsLate()
		case reason := <-exited:
			r.attempt.dismissed, r.attempt.exited = reason, nil
			r.concludeDismissal()
		case <-r.gate:
			r.gate = nil
			r.startPending()
		case <-r.overdue:
			r.killOverdue()
		case <-r.alone:
			r.alone = nil
			r.control.Serve()
		case <-r.delay:
			r.delay, r.mayDrain = nil, true
			r.drainForStop()
		case <-r.impatience:
			r.endSuccessor()
		case <-r.reportTick:
			r.reportToSuccessor()
		case <-r.heartbeat:
		case d := <-r.drained:
			r.result = &d
		case <-r.hooksEnded:
			r.finish(*r.result)
			continue
		}
		if r.result != nil && r.hooksEnded == nil && !r.waitsForPredecessors() {
			r.end(*r.result)
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

// handleEvent handles what came over a link. What came over one of an attempt that has
// failed since is of no interest.
func (r *run) handleEvent(h *link.Event) {
	defer h.Close()
	if a := r.attempt; a != nil && a.link == h.From {
		r.handleSuccessor(h)
		return
	}
	for _, p := range r.living() {
		switch {
		case p.link != h.From:
		case h.Kind == link.Exited, h.Kind == link.Ended && p.reported: // it was about to exit
			r.predecessorIsGone(p)
		case h.Kind == link.Lost:
			r.predecessorIsLost(p)
		case h.Kind == link.Ended:
			p.link.FollowPeer(p.process, r.events, r.done)
		default:
			r.handlePredecessor(p, &h.Message)
		}
	}
}

// handlePredecessor handles a message of a predecessor.
func (r *run) handlePredecessor(p *member, m *link.Message) {
	switch m.Type {
	case link.TypeDrained:
		var d Drained
		if m.Drained == nil || decode(m.Drained, &d) != nil {
			return
		}
		c := d.Connections
		r.log.Info("predecessor drained", "predecessor", p.Generation, "seconds", d.Seconds, "requests_finished", d.Requests,
			"connections_moved", d.Moved, "closed_by_client", c.Client,
			"told_to_close", c.Announced, "closed_after_grace", c.Grace, "cut", c.Cut)
		r.mu.Lock()
		p.reported, p.load = true, Load{}
		r.mu.Unlock()
		for _, o := range r.observers {
			o.PredecessorDrained(d)
		}
	case link.TypeUpgrade:
		if conn := m.TakeConn(); conn != nil {
			r.control.Adopt(conn)
		} else {
			r.askBySignal(m.Origin)
		}
	case link.TypePredecessor: // the link has brought it already
		r.watchOverdue()
	case link.TypeStop:
		r.stop("the predecessor")
	}
}
