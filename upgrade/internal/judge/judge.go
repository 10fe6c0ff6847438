// Package judge decides whether a release is worse than its predecessor, from counts of requests.
//
// Each of five ratios is tested on its own: requests that failed, were denied, redirected, had an
// empty body, or wait for longer than five seconds. The statistic is the generalized likelihood
// ratio of two Bernoulli samples, "each has a ratio of its own" against "both have the same": the
// predecessor's ratio is an estimate like the successor's, and a backend that fails hits both.
// It depends only on the counts so far, so that batches may be of any size.
//
// The counts are looked at again and again, which is why the thresholds are far above those of a
// single test. They are calibrated, not proved: in simulations of equally good or bad generations,
// of up to 5,000 requests of the successor, at most 0.6 % of trials were false alarms. With more
// requests the margin below exceeds what chance does. Both samples are taken to be independent, and
// so are requests; after the takeover the predecessor's are those of the time before. A burst of
// failures that hits one generation only is an alarm.
//
// A successor is bad only if its ratio is also half a percentage point and a quarter higher, and
// two of its requests at least are concerned. It is good once the likelihood excludes, at 5 %,
// twice the predecessor's ratio and one percentage point more.
//
// Not found: what is rarer than that, wrong bodies, what hits few requests of a quiet service,
// slow leaks, and whatever begins after the last call. Waiting requests are a lower bound: every
// answer since counts as one of those that had begun five seconds ago.
package judge

import (
	"math"
	"time"
)

// Options has what is judged besides the ratios.
type Options struct {
	Latency bool // a much slower successor is bad
}

// Decision is what is known of a successor.
type Decision int

const (
	Undecided Decision = iota
	Good               // so far
	Bad                // finally
)

// Verdict is a decision. Reason is a sentence in numbers; it is empty unless the successor is bad.
type Verdict struct {
	Decision Decision
	Reason   string
	Slow     bool // it is bad because of its latency
}

// Thresholds of the log likelihood ratio. Failures are what most bad releases show.
const (
	failedThreshold = 7
	otherThreshold  = 9
)

// patience is how long a request waits before it counts as unanswered.
const patience = 5 * time.Second

// Judge compares two generations. It is not safe for concurrent use.
type Judge struct {
	opts    Options
	verdict Verdict
	slower  string
	started []begun
	waiting uint64 // of the predecessor, at most
}

// begun is how many requests of the successor had begun at a time.
type begun struct {
	at time.Duration
	n  uint64
}

// New returns a judge of one stage.
func New(opts Options) *Judge { return &Judge{opts: opts} }

// Slower returns how much slower the successor is, and "" if it is not.
func (j *Judge) Slower() string { return j.slower }

// Observe returns the verdict at a time since the begin. Counts are since then, too; those of the
// predecessor may begin earlier.
func (j *Judge) Observe(at time.Duration, successor, predecessor Outcomes) Verdict {
	if j.verdict.Decision == Bad {
		return j.verdict
	}
	j.slower = slower(successor.Latency, predecessor.Latency)
	good := true
	for _, c := range j.comparisons(at, successor, predecessor) {
		if c.worse() {
			j.verdict = Verdict{Decision: Bad, Reason: c.reason()}
			return j.verdict
		}
		good = good && c.excluded()
	}
	switch {
	case j.opts.Latency && j.slower != "":
		j.verdict = Verdict{Decision: Bad, Reason: j.slower, Slow: true}
	case good:
		j.verdict = Verdict{Decision: Good}
	default:
		j.verdict = Verdict{}
	}
	return j.verdict
}

func (j *Judge) comparisons(at time.Duration, s, p Outcomes) []comparison {
	of := func(what string, threshold float64, x, y uint64) comparison {
		return comparison{what, threshold, sampleOf(x, s.Ended), sampleOf(y, p.Ended)}
	}
	cs := []comparison{
		of("failed", failedThreshold, s.Failed, p.Failed),
		of("were answered 404, 401 or 403", otherThreshold, s.Denied, p.Denied),
		of("were redirected", otherThreshold, s.Redirected, p.Redirected),
		of("had empty bodies", otherThreshold, s.Empty, p.Empty),
	}
	if n := j.startedBefore(at, s.Started); n > 0 {
		// Of the predecessor all that wait count, and those that have ended after as long:
		// counts that begin at some time miss what had begun before.
		j.waiting = max(j.waiting, minus(p.Started, p.Answered))
		y := j.waiting + p.Latency.from(patience)
		cs = append(cs, comparison{"were not answered within 5s", otherThreshold,
			sampleOf(minus(n, s.Answered), n), sampleOf(y, max(p.Started, p.Ended))})
	} else {
		j.waiting = max(j.waiting, minus(p.Started, p.Answered))
	}
	return cs
}

// startedBefore returns how many requests had begun when patience began, and notes those of now.
func (j *Judge) startedBefore(at time.Duration, n uint64) (before uint64) {
	j.started = append(j.started, begun{at, n})
	for len(j.started) > 1 && j.started[1].at <= at-patience {
		j.started = j.started[1:]
	}
	if first := j.started[0]; first.at <= at-patience {
		before = first.n
	}
	return before
}

// sample has how many of n requests are concerned.
type sample struct{ x, n float64 }

func sampleOf(x, n uint64) sample { return sample{float64(min(x, n)), float64(n)} }

func (s sample) ratio() float64 { return s.x / max(s.n, 1) }

// likelihood returns the logarithm of the likelihood that the ratio is p.
func (s sample) likelihood(p float64) float64 {
	l := 0.0
	if s.x > 0 {
		l += s.x * math.Log(p)
	}
	if s.n > s.x {
		l += (s.n - s.x) * math.Log1p(-p)
	}
	return l
}

// comparison is of one ratio.
type comparison struct {
	what                   string
	threshold              float64
	successor, predecessor sample
}

// worse reports whether the successor's ratio is higher, by a margin that matters.
func (c comparison) worse() bool {
	s, p := c.successor, c.predecessor
	if s.x < 2 || p.n == 0 || s.ratio() < max(p.ratio()+.005, 1.25*p.ratio()) {
		return false
	}
	both := sample{s.x + p.x, s.n + p.n}
	return s.likelihood(s.ratio())+p.likelihood(p.ratio())-both.likelihood(both.ratio()) > c.threshold
}

// excluded reports whether the successor's ratio is surely below what matters.
func (c comparison) excluded() bool {
	s, p := c.successor, c.predecessor
	if s.n == 0 || p.n == 0 {
		return false
	}
	// For a ratio near 1 nothing is twice as much: it is half way to 1 then.
	bound := min(max(2*p.ratio(), p.ratio()+.01), (1+p.ratio())/2)
	if bound >= 1 {
		return true // worse is impossible
	}
	return s.ratio() < bound && s.likelihood(s.ratio())-s.likelihood(bound) > math.Log(1/.05)
}
