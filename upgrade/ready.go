package upgrade

// This file holds how a generation becomes ready: the checks, and the takeover.

import (
	"context"
	"encoding/json"
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
		err := r.pidFile.prepare()
		if err == nil && !r.tf.HasParent() {
			err = r.pidFile.publish()
		}
		if err != nil {
			return err
		}
	}
	// A predecessor that is not told that this generation serves would kill it.
	if claims, err := json.Marshal(r.allClaims()); err != nil || len(claims) > messageSize-1<<10 {
		return fmt.Errorf("generation %d has %d listeners, and there is no room for them in a message to the predecessor; use fewer", r.number, len(r.claims))
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
	r.serveControl()
	r.storeListeners()
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
		r.record(Upgrade{Time: p.Asked, Trigger: p.Trigger, From: p.Generation, To: r.number, Result: Succeeded, Seconds: took.Seconds(),
			FromVersion: p.Version, ToVersion: r.opts.Version})
		r.count(Succeeded)
		for _, o := range r.observers {
			o.Ready(took)
		}
		r.sendServing(message{Type: msgServing, Claims: r.allClaims(), Adopts: r.adopter != nil, Pipe: r.pipe})
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

func (g *Generation) allClaims() (claims []claim) {
	for _, c := range g.claims {
		claims = append(claims, c)
	}
	return claims
}

// sendServing tells the predecessor that this generation serves. One that does not
// read now should hear it later, or it would give this generation up.
func (r *run) sendServing(m message) {
	err := r.link.send(m)
	if err == nil {
		return
	}
	r.log.Warn("predecessor does not listen", "error", err)
	go func() {
		for err != nil {
			select {
			case <-time.After(sendTimeout):
				err = r.link.send(m)
			case <-r.link.ended:
				return
			case <-r.done:
				return
			}
		}
	}()
}

// relief is how long a predecessor that does not say that it drains keeps the control
// socket to itself.
const relief = 2 * time.Second

// serveControl begins to accept on the control socket, where the predecessor does as
// well until it drains: whoever has heard of this generation is not to hear from that
// one afterwards.
func (r *run) serveControl() {
	if r.link == nil {
		r.control.serve()
		return
	}
	alone := make(chan struct{})
	r.alone = alone
	go func() {
		defer close(alone)
		select {
		case <-r.relieved:
		case <-r.link.ended:
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
		case h := <-r.heard:
			switch {
			case h.end:
				ended = true
			case h.exited: // nobody reads the pipe any more
				ended = false
				r.stderr.restore()
			case h.lost: // it serves, and nobody could tell it to stop
				return errors.New("the link to the predecessor is lost, and that serves on")
			case h.Type == msgStop:
				return errors.New("stopped by the predecessor before it was ready")
			}
			r.listen(&h)
		}
		if passed && !ended {
			return nil
		}
	}
}
