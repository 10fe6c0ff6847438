package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
)

// check runs the service's own check, until the predecessor's deadline at most.
func (r *run) check() {
	ctx, cancel := context.WithCancel(context.Background())
	if p := r.predecessor; p != nil {
		ctx, cancel = context.WithDeadline(context.Background(), p.Deadline)
	}
	r.cancel = cancel
	go func() {
		defer cancel()
		e := lifecycle.Event{Kind: lifecycle.CheckPassed}
		if err := r.service.Check(ctx); err != nil {
			e = lifecycle.Event{Kind: lifecycle.CheckFailed, Err: err}
		}
		r.post(e)
	}()
}

// prepare does what can fail before this generation is ready.
func (r *run) prepare() {
	e := lifecycle.Event{Kind: lifecycle.Prepared}
	if err := r.prepareToServe(); err != nil {
		e = lifecycle.Event{Kind: lifecycle.PrepareFailed, Err: err}
	}
	r.enqueue(e)
}

func (r *run) prepareToServe() error {
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
	return nil
}

// commit passes the point of no return.
func (r *run) commit() {
	if err := r.flip.Ready(); err != nil {
		// The sockets are here, and no other process serves them.
		r.log.Warn("predecessor died before it was notified that its successor is ready", "error", err)
	}
	r.gate = r.flip.PredecessorGone()
}

// announce makes known that this generation serves for good.
func (r *run) announce() {
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
	p := r.predecessor
	if p == nil {
		return
	}
	took := time.Since(p.Asked)
	r.record(Upgrade{Time: p.Asked, Trigger: p.Trigger, From: p.Generation, To: r.number, Result: Succeeded, Seconds: took.Seconds(),
		FromVersion: p.Version, ToVersion: r.opts.Version})
	r.count(Succeeded)
	for _, o := range r.observers {
		o.Ready(took)
	}
}

// sendPrepared notifies the predecessor that this generation could accept, and that connections
// can migrate to it.
func (r *run) sendPrepared() { r.sendStanding(link.TypePrepared) }

// sendServing notifies it that this generation accepts.
func (r *run) sendServing() { r.sendStanding(link.TypeServing) }

func (r *run) sendStanding(kind link.Type) {
	adopts := r.adoption.begin(r.service)
	r.sendSurely(r.link, link.Message{Type: kind, Claims: r.wireClaims(), Adopts: adopts, Pipe: r.flip.Pipe()})
}

func (g *Generation) wireClaims() (claims []link.Claim) {
	for _, c := range g.claims {
		claims = append(claims, c.Claim)
	}
	return claims
}

// sendSurely sends a message on which the upgrade depends. A neighbor that does not read now gets
// it later, or it would give this generation up.
func (g *Generation) sendSurely(l *link.Link, m link.Message) {
	err := l.Send(m)
	if err == nil {
		return
	}
	g.log.Warn("neighbor does not read from the link", "message", string(m.Type), "error", err)
	go func() {
		for err != nil {
			select {
			case <-time.After(link.SendTimeout):
				err = l.Send(m)
			case <-l.Ended():
				return
			case <-g.done:
				return
			}
		}
	}()
}
