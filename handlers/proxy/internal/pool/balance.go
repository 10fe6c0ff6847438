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
	probePause  = time.Second      // between two probes of a backend that is down, if nobody waits for it
	leavingTime = 10 * time.Second // until a backend that is leaving gets a request, if another is up
	trialPause  = time.Second      // the same if none is
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
	probed                 // the same, in a probe
)

// standing is the state of a backend, and what decides about the next one.
type standing struct {
	state    State
	probed   time.Time // the last failed connect, or the last probe
	tried    time.Time // Leaving: since when, or when it last got a request to see
	trusted  time.Time // until then a 503 with Connection: close means nothing
	failures int       // of the health path, in a row
}

// on takes an event, and reports whether the state has changed.
func (s *standing) on(e event, now time.Time) (changed bool) {
	before := s.state
	if e != resigned && e != answered {
		s.probed = now
	}
	switch e {
	case accepted:
		if s.state == Down {
			s.state = Up
		}
	case refused:
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

// mayTry reports whether a backend that is leaving gets a request to see. One with a health path
// does not.
func (s *standing) mayTry(anyUp, hasHealth bool, now time.Time) bool {
	pause := trialPause
	if anyUp {
		pause = leavingTime
	}
	return s.state == Leaving && !hasHealth && now.Sub(s.tried) >= pause
}

// mayProbe reports whether a probe is due although nobody waits.
func (s *standing) mayProbe(now time.Time) bool {
	return (s.state == Down || s.state == Leaving) && now.Sub(s.probed) >= probePause
}

// load is what a choice minimises. Weights belong here.
func (b *backend) load() int { return b.inProgress }

// choose returns the backend that gets the next request, nil if none does. Among those with
// the same load they take turns, which begin at turn. One of avoided is only chosen if no other
// is up. What it returns is counted as if the request had been sent.
func choose(backends []*backend, avoided []*backend, turn int, hasHealth bool, now time.Time) *backend {
	var best *backend
	bestAvoided, anyUp := false, false
	for i := range backends {
		b := backends[(turn+i)%len(backends)]
		if b.state != Up {
			continue
		}
		anyUp = true
		isAvoided := slices.Contains(avoided, b)
		if best == nil || bestAvoided && !isAvoided || bestAvoided == isAvoided && b.load() < best.load() {
			best, bestAvoided = b, isAvoided
		}
	}
	for _, b := range backends {
		if b.mayTry(anyUp, hasHealth, now) && !slices.Contains(avoided, b) {
			b.tried = now
			return b
		}
	}
	return best
}
