package pool

import (
	"cmp"
	"context"
	"time"
)

const (
	fastPause    = 10 * time.Millisecond  // between two probes of a backend that requests wait for
	slowPause    = 50 * time.Millisecond  // of one that accepts connections, but has not said that it is well
	maxRest      = 250 * time.Millisecond // after a failure that is local
	probeTimeout = 2 * time.Second
)

// acquire returns the backend that the request is sent to next, and counts it there. It waits
// until there is one. A trial is a request that a backend gets that was leaving.
func (g *Group) acquire(t *trip) (b *backend, trial bool, err error) {
	g.pool.mu.Lock()
	defer g.pool.mu.Unlock()
	if b, trial = g.take(t); b != nil {
		return b, trial, nil
	}
	return g.await(t)
}

// take returns a backend, nil if none is up. The mutex is held.
func (g *Group) take(t *trip) (b *backend, trial bool) {
	b = choose(g.backends, t.sentTo, g.turn)
	if b == nil && g.pool.healthPath == "" {
		b = chooseLeaving(g.backends, time.Now())
	}
	if b == nil {
		return nil, false
	}
	g.turn++
	b.inProgress++
	return b, b.state == Leaving
}

// await waits for a backend. The mutex is held, but not while it waits.
func (g *Group) await(t *trip) (b *backend, trial bool, err error) {
	p, ctx := g.pool, t.request.Context()
	left := time.Until(t.until)
	switch {
	case left <= 0 || p.closed:
		return nil, false, g.giveUp()
	case p.waiting >= MaxWaiting:
		return nil, false, &Error{Absent: true, Err: errQueueFull}
	}
	g.count(1)
	defer g.count(-1)
	timeout := time.NewTimer(left)
	defer timeout.Stop()
	var failed <-chan struct{}
	if t.body != nil && t.request.Header.Get("Expect") == "" { // else the client would be sent 100 Continue
		failed = t.body.readAhead()
		defer t.body.stopAhead()
	}
	for b == nil && err == nil {
		changed := p.changed
		p.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-timeout.C:
			over = true
		case <-failed:
			err = t.body.failure()
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		p.mu.Lock()
		if err == nil {
			b, trial = g.take(t)
		}
		if b == nil && err == nil && (over || p.closed) {
			err = g.giveUp()
		}
	}
	return b, trial, err
}

// count adds n to the requests that wait.
func (g *Group) count(n int) {
	g.pool.waiting += n
	for _, b := range g.backends {
		if b.waiting += n; n > 0 {
			select {
			case b.hurry <- struct{}{}:
			default:
			}
		}
	}
}

// giveUp returns why a request has waited in vain. Of several backends the one counts that is
// most nearly there.
func (g *Group) giveUp() error {
	var best *Error
	for _, b := range g.backends {
		e := newError(b, cmp.Or(b.reason, errClosed))
		e.Absent = e.Absent || b.state == Sick || b.state == Leaving
		if best == nil || e.presence() > best.presence() {
			best = e
		}
	}
	return best
}

// probe lets a prober of b run until b is up. The mutex is held.
func (p *Pool) probe(b *backend) {
	if !b.probing && !p.closed {
		b.probing = true
		p.goroutines.Go(func() { p.runProber(b) })
	}
}

// idlePause returns the time between two probes of a backend that nobody waits for.
func (p *Pool) idlePause() time.Duration {
	if p.healthPath != "" {
		return healthPause
	}
	return time.Second
}

func (p *Pool) runProber(b *backend) {
	pause := fastPause
	for p.sleep(b, pause) {
		pause = p.probeOnce(b)
	}
}

// sleep waits until the next probe of b is due: pause after the last one if requests wait for
// it. It returns false if none is.
func (p *Pool) sleep(b *backend, pause time.Duration) bool {
	for {
		p.mu.Lock()
		if b.mayTry(time.Now()) && b.waiting > 0 && p.healthPath == "" {
			p.wake()
		}
		if b.state == Up || p.closed {
			b.probing = false
			p.mu.Unlock()
			return false
		}
		due := b.probed.Add(pause)
		if b.waiting == 0 {
			due = b.probed.Add(p.idlePause())
		}
		left := time.Until(due)
		p.mu.Unlock()
		if left <= 0 {
			return true
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-b.hurry:
		case <-p.ctx.Done():
		}
		timer.Stop()
	}
}

// probeOnce probes b, and returns when that is to be done again.
func (p *Pool) probeOnce(b *backend) (pause time.Duration) {
	e, err := accepted, error(nil)
	if p.healthPath == "" {
		ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
		defer cancel()
		if err = b.Transport.Probe(ctx); err != nil {
			e = refused
		}
	} else if e, err = p.askHealth(b); e == unhealthy {
		e = probed // it does not count as one of those that are every 2 s
	}
	p.mu.Lock()
	b.probed = time.Now()
	p.mu.Unlock()
	p.happen(b, e, err)
	if e == refused {
		return fastPause
	}
	return slowPause
}

// rest lets a request wait for a moment, longer each time.
func (g *Group) rest(t *trip) error {
	p := g.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting >= MaxWaiting || p.closed {
		return t.err
	}
	p.waiting++
	defer func() { p.waiting-- }()
	t.pause = min(max(2*t.pause, fastPause), maxRest)
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-time.After(t.pause):
		return nil
	case <-t.request.Context().Done():
		return context.Cause(t.request.Context())
	}
}
