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
	r.adoption.Lock()
	r.adopter, _ = r.service.(Adopter)
	r.adoption.Unlock()
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
		serving := message{Type: msgServing, Claims: claims, Adopts: r.adopter != nil, Pipe: r.pipe}
		if err := r.link.send(serving); err != nil {
			r.log.Warn("predecessor does not listen", "error", err)
		}
		for _, m := range r.living() {
			if m.due.IsZero() && p.Drain > 0 {
				m.due = time.Now().Add(p.Drain + overstay)
			}
		}
		r.watchOverdue()
	}
	if r.tf.HasParent() {
		gate := make(chan struct{})
		r.gate = gate
		go func() { // ends with the predecessor, or when that lets go
			r.tf.WaitForParent(context.Background())
			close(gate)
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
				r.askBySignal(r.number)
				continue
			}
			return fmt.Errorf("stopped by %v before it was ready", sig)
		case h := <-r.heard:
			if h.end { // nobody reads the pipe any more
				r.stderr.restore()
			} else if h.Type == msgStop {
				return errors.New("stopped by the predecessor before it was ready")
			}
			r.listen(&h)
		}
	}
}
