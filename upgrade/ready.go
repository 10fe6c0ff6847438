package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/link"
)

// becomeReady takes over from the predecessor, if there is one. Nothing has been
// accepted before [flip.Process.Ready], and what can fail the upgrade comes before it.
func (r *run) becomeReady(signals <-chan os.Signal) error {
	if err := r.prepareToServe(signals); err != nil {
		return err
	}
	if err := r.flip.Ready(); err != nil {
		// The sockets are here, and no other process serves them.
		r.log.Warn("predecessor died before it heard that its successor is ready", "error", err)
	}
	r.enter(Serving)
	r.service.Serve()
	adopts := r.adoption.begin(r.service)
	r.serveControl()
	r.storeListeners()
	if r.pidFile != nil && r.flip.HasPredecessor() {
		if err := r.pidFile.Publish(); err != nil {
			r.log.Error("PID file not replaced", "error", err)
		}
	}
	for _, c := range r.offered { // not claimed: the configuration has dropped them
		c.unlink()
		if c.listener != nil {
			c.listener.Close()
		}
	}
	r.flip.Stderr.Restore()
	if r.predecessor != nil {
		r.succeed(adopts)
	}
	r.gate = r.flip.PredecessorGone()
	return nil
}

// prepareToServe is what must succeed before this generation is ready.
func (r *run) prepareToServe(signals <-chan os.Signal) error {
	if err := r.checkHeld(); err != nil {
		return err
	}
	if err := r.check(signals); err != nil {
		return fmt.Errorf("generation %d is no good: %w", r.number, err)
	}
	if r.pidFile != nil {
		err := r.pidFile.Prepare()
		if err == nil && !r.flip.HasPredecessor() {
			err = r.pidFile.Publish()
		}
		if err != nil {
			return err
		}
	}
	// A predecessor that is not notified that this generation serves would kill it.
	if claims, err := json.Marshal(r.wireClaims()); err != nil || len(claims) > link.MaxMessage-1<<10 {
		return fmt.Errorf("generation %d has %d listeners, and there is no room for them in a message to the predecessor; use fewer", r.number, len(r.claims))
	}
	// Close to its deadline the predecessor may kill this process in the very
	// moment in which it is notified that this one is ready.
	if p := r.predecessor; p != nil && time.Until(p.Deadline) < p.Deadline.Sub(p.Begun)/20 {
		return fmt.Errorf("generation %d was not ready soon enough: gives up after %s, shortly before it would be killed",
			r.number, time.Since(p.Begun).Round(time.Millisecond))
	}
	return nil
}

// succeed records the upgrade that has made this generation, and notifies the predecessor
// that this one serves.
func (r *run) succeed(adopts bool) {
	p := r.predecessor
	took := time.Since(p.Asked)
	r.record(Upgrade{Time: p.Asked, Trigger: p.Trigger, From: p.Generation, To: r.number, Result: Succeeded, Seconds: took.Seconds(),
		FromVersion: p.Version, ToVersion: r.opts.Version})
	r.count(Succeeded)
	for _, o := range r.observers {
		o.Ready(took)
	}
	r.sendServing(link.Message{Type: link.TypeServing, Claims: r.wireClaims(), Adopts: adopts, Pipe: r.flip.Pipe()})
	for _, m := range r.living() {
		if m.due.IsZero() && p.Drain > 0 {
			m.due = time.Now().Add(p.Drain + overstay)
		}
	}
	r.watchOverdue()
}

func (g *Generation) wireClaims() (claims []link.Claim) {
	for _, c := range g.claims {
		claims = append(claims, c.Claim)
	}
	return claims
}

// sendServing notifies the predecessor that this generation serves. One that does not
// read now should be notified later, or it would give this generation up.
func (r *run) sendServing(m link.Message) {
	err := r.link.Send(m)
	if err == nil {
		return
	}
	r.log.Warn("predecessor does not listen", "error", err)
	go func() {
		for err != nil {
			select {
			case <-time.After(link.SendTimeout):
				err = r.link.Send(m)
			case <-r.link.Ended():
				return
			case <-r.done:
				return
			}
		}
	}()
}

// relief is how long a predecessor that does not report that it drains keeps the control
// socket to itself.
const relief = 2 * time.Second

// serveControl begins to accept on the control socket, where the predecessor does as
// well until it drains: a client that this generation has answered must not be answered
// by that one afterwards.
func (r *run) serveControl() {
	if r.link == nil {
		r.control.Serve()
		return
	}
	alone := make(chan struct{})
	r.alone = alone
	go func() {
		defer close(alone)
		select {
		case <-r.predecessorDrains:
		case <-r.link.Ended():
		case <-time.After(relief):
		}
	}()
}

// check runs the checks that precede readiness. A stop ends them.
func (r *run) check(signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if p := r.predecessor; p != nil {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, p.Deadline)
		defer stop()
	}
	checked := make(chan error, 1)
	var passed, ended bool // the checks; the link, and not known why
	go func() { checked <- r.service.Check(ctx) }()
	for {
		select {
		case err := <-checked:
			if err != nil {
				return err
			}
			passed = true
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				r.askBySignal(r.number)
				break
			}
			return fmt.Errorf("stopped by %v before it was ready", sig)
		case h := <-r.events:
			switch {
			case h.Kind == link.Ended:
				ended = true
			case h.Kind == link.Exited: // nobody reads the pipe any more
				ended = false
				r.flip.Stderr.Restore()
			case h.Kind == link.Lost: // it serves, and could not be notified that it should stop
				return errors.New("the link to the predecessor is lost, and that serves on")
			case h.Type == link.TypeStop:
				return errors.New("stopped by the predecessor before it was ready")
			}
			r.handleEvent(&h)
		}
		if passed && !ended {
			return nil
		}
	}
}
