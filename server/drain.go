package server

// This file holds the drain: what brings every connection to its end.

import (
	"context"
	"sync"
	"time"

	"example.com/baton/upgrade"
)

// afterCut is how long handlers whose connection was cut have to return before
// the drain is called over without them.
const afterCut = 250 * time.Millisecond

// Drain stops accepting, brings every request and connection to its end and
// returns an account of it. When ctx ends first, what remains is cut. Connections
// that wait in the queue of a listener which nobody keeps are accepted and
// answered first. It must be called once at most.
func (s *Server) Drain(ctx context.Context, h upgrade.Handoff) upgrade.Drained {
	start := time.Now()
	before := s.Closed()
	_, movedBefore := s.Migrated()
	s.moving = s.newMover(ctx, h)
	s.http2() // its test is not for a server that drains
	s.drainBegan, s.drainCtx = start, ctx
	s.isDraining.Store(true)
	close(s.draining)
	s.announceEnds()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.stopAccepting(h.Kept)
	}()

	if s.moving != nil {
		s.moving.start()
	}
	var announcing sync.WaitGroup
	announcing.Go(func() {
		for _, c := range s.open() {
			if h := c.http2.Load(); h != nil {
				h.announce()
			}
		}
	})

	if s.awaitEnd(ctx, stopped) {
		s.moving.stop()
		// No connection is left, so that Shutdown has nothing to lose.
		quiet, cancel := context.WithTimeout(context.Background(), afterCut)
		s.http.Shutdown(quiet)
		cancel()
	} else {
		s.moving.stop()
		s.cut()
		s.moving.abandon()
		cutoff, cancel := context.WithTimeout(context.Background(), afterCut)
		s.awaitEnd(cutoff, stopped)
		cancel()
		s.http.Close()
	}

	announcing.Wait()
	s.adopted.Close()
	s.adopting.Wait()

	closed := s.Closed()
	_, moved := s.Migrated()
	count := func(why Reason) int { return int(closed[why] - before[why]) }
	return upgrade.Drained{
		Seconds:  time.Since(start).Seconds(),
		Requests: int(s.finished.Load()),
		Moved:    int(moved - movedBefore),
		Connections: upgrade.Closed{
			Client:    count(ByClient),
			Announced: count(Announced),
			Grace:     count(AfterGrace),
			Cut:       count(Cut),
			Timeout:   count(TimedOut),
			Error:     count(Failed),
			Hijacked:  count(Hijacked),
		},
	}
}

// awaitEnd destroys silent connections as their grace ends. It returns true when
// accepting has stopped and neither a connection nor a request is left, false
// when ctx ends first.
func (s *Server) awaitEnd(ctx context.Context, stopped <-chan struct{}) bool {
	look := time.NewTimer(0)
	defer look.Stop()
	accepting := true
	for {
		select {
		case <-ctx.Done():
			return false
		case <-stopped:
			accepting, stopped = false, nil
		case <-s.ended:
		case now := <-look.C:
			look.Reset(time.Until(s.sweep(now)))
		}
		s.mu.Lock()
		left := len(s.conns)
		s.mu.Unlock()
		if !accepting && left == 0 && s.requests.Load() == 0 {
			return true
		}
	}
}

// sweep destroys the connections whose grace is over, and returns when the next
// one's ends. One that falls silent later has a whole grace before it.
func (s *Server) sweep(now time.Time) time.Time {
	next := now.Add(max(s.opts.IdleGrace, 10*time.Millisecond))
	for _, c := range s.open() {
		if due := c.expire(now); !due.IsZero() && due.Before(next) {
			next = due
		}
	}
	return next
}

// cut closes every listener and connection that is left, whatever it does.
func (s *Server) cut() {
	for _, ln := range s.listeners {
		ln.Close()
	}
	for _, c := range s.open() {
		c.because(c.endNow())
		c.close(false)
	}
}

// endNow returns why a connection is closed that is left at the deadline. One that
// is silent loses no more than the rest of its grace.
func (c *conn) endNow() Reason {
	h := c.http2.Load()
	silent := h != nil && h.isSilent()
	c.mu.Lock()
	defer c.mu.Unlock()
	if (c.boundary.IsWaiting() || silent && c.class == classIdle) && !readable(c.Conn) {
		return AfterGrace
	}
	return Cut
}

func (s *Server) open() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	return open
}

// noteEnd wakes a drain that may be over now.
func (s *Server) noteEnd() {
	if s.isDraining.Load() {
		nudge(s.ended)
	}
}

// nudge wakes whoever receives from a channel of capacity 1, now or when they look
// next. Nudging twice before that is as good as once.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
