package upgrade

// This file holds how a generation becomes ready: the checks, and the takeover.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// becomeReady takes over from the predecessor, if there is one. Nothing has
// been accepted before tableflip's Ready, and what can fail the upgrade comes
// before it.
func (r *run) becomeReady(signals <-chan os.Signal) error {
	if err := r.checkHeld(); err != nil {
		return err
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
	r.keepListeners()
	if r.pidFile != nil && r.tf.HasParent() {
		if err := r.pidFile.publish(); err != nil {
			r.log.Error("PID file not replaced", "error", err)
		}
	}
	for _, c := range r.offered { // not claimed: the configuration has dropped them
		c.unlink()
		if c.listener != nil {
			c.listener.Close()
		}
	}
	r.stderr.restore()
	if p := r.predecessor; p != nil {
		took := time.Since(p.Asked)
		r.record(Upgrade{Time: p.Asked, Trigger: p.Trigger, From: p.Generation, To: r.number, Result: Succeeded, Seconds: took.Seconds()})
		r.count(Succeeded)
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
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
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
