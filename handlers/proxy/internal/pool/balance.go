package pool

import (
	"slices"
	"time"
)

// State is what is known of a backend. Only one that is up gets requests.
type State uint8

const (
	Up      State = iota // also one of which nothing is known
	Down                 // it accepts no connections
	Leaving              // it has answered 503 with Connection: close
	Sick                 // its health path has failed
)

// String returns the name of the state, in lower case.
func (s State) String() string { return [...]string{"up", "down", "leaving", "sick"}[s] }

const (
	leavingTime = 10 * time.Second // until a backend that is leaving, but accepts connections, is up again
	trialPause  = time.Second      // until it gets a request nevertheless, if no other is up
	trustTime   = time.Minute      // how long one that was not leaving after all is believed to stay
	maxFailures = 2                // of the health path, in a row
)

// event is what happens to a backend.
type event uint8

const (
	accepted  event = iota // it accepts connections, and has no health path
	refused                // it does not, or loses them before anything is sent
	resigned               // it has answered 503 with Connection: close
	answered               // it has answered something else, to a request that it got while it was leaving
	healthy                // its health path answers
	unhealthy              // its health path fails
	probed                 // the same, but out of turn: nothing follows from it
)

// standing is the state of a backend, and what decides about the next one.
type standing struct {
	state    State
	tried    time.Time // Leaving: since when, or when it last got a request nevertheless
	trusted  time.Time // until then a 503 with Connection: close means nothing
	failures int       // of the health path, in a row
}

// on takes an event, and reports whether the state has changed.
func (s *standing) on(e event, now time.Time) (changed bool) {
	before := s.state
	switch e {
	case accepted:
		if s.state == Down || s.state == Leaving && now.Sub(s.tried) >= leavingTime {
			s.state = Up
		}
	case refused:
		s.trusted = time.Time{} // it is another one that comes back
		if s.state != Sick {
			s.state = Down
		}
	case resigned:
		if s.state == Leaving || s.state == Up && !now.Before(s.trusted) {
			s.state, s.tried = Leaving, now
		}
	case answered:
		if s.state == Leaving {
			s.state, s.trusted = Up, now.Add(trustTime)
		}
	case healthy:
		s.state, s.failures = Up, 0
	case unhealthy:
		if s.failures++; s.failures >= maxFailures {
			s.state = Sick
		}
	}
	return s.state != before
}

// mayTry reports whether a backend that is leaving gets a request, as no other is up.
func (s *standing) mayTry(now time.Time) bool {
	return s.state == Leaving && now.Sub(s.tried) >= trialPause
}

// load is what a choice minimises. Weights belong here.
func (b *backend) load() int { return b.inProgress }

// choose returns the backend that gets the next request, nil if there is none. Among those with
// the same load they take turns, which begin at turn. Those to avoid are chosen if no other is up.
func choose(backends, avoid []*backend, turn int) (best *backend) {
	avoided := false // best
	for i := range backends {
		b := backends[(turn+i)%len(backends)]
		if b.state != Up {
			continue
		}
		avoids := slices.Contains(avoid, b)
		if best == nil || avoided && !avoids || avoided == avoids && b.load() < best.load() {
			best, avoided = b, avoids
		}
	}
	return best
}

// chooseLeaving returns a backend that is leaving, but gets a request nevertheless, nil if there
// is none. It gets no other for trialPause.
func chooseLeaving(backends []*backend, now time.Time) *backend {
	for _, b := range backends {
		if b.mayTry(now) {
			b.tried = now
			return b
		}
	}
	return nil
}
