package judge

import (
	"math"
	"time"
)

// Outcomes counts the requests of one generation since its beginning, by how they ended.
type Outcomes struct {
	Started    uint64    `json:"started"`    // handlers called
	Answered   uint64    `json:"answered"`   // of which the response has begun, or the handler has ended
	Ended      uint64    `json:"ended"`      // of which the handler has ended: the requests that are judged
	Failed     uint64    `json:"failed"`     // ended with 5xx, or aborted by the handler
	Denied     uint64    `json:"denied"`     // ended with 401, 403 or 404
	Redirected uint64    `json:"redirected"` // ended with 3xx but 304
	Empty      uint64    `json:"empty"`      // ended with 2xx but 204 and 205, to a GET, without a body
	Latency    Latencies `json:"latency"`    // of those that ended, from the handler's call to its end
}

// Minus returns what was counted since. Nothing is less than 0.
func (o Outcomes) Minus(since Outcomes) Outcomes {
	return o.merge(since, minus)
}

// Plus returns the sum of both.
func (o Outcomes) Plus(more Outcomes) Outcomes {
	return o.merge(more, func(a, b uint64) uint64 { return a + b })
}

func (o Outcomes) merge(p Outcomes, f func(a, b uint64) uint64) Outcomes {
	return Outcomes{
		Started: f(o.Started, p.Started), Answered: f(o.Answered, p.Answered), Ended: f(o.Ended, p.Ended),
		Failed: f(o.Failed, p.Failed), Denied: f(o.Denied, p.Denied), Redirected: f(o.Redirected, p.Redirected),
		Empty: f(o.Empty, p.Empty), Latency: o.Latency.merge(p.Latency, f),
	}
}

func minus(a, b uint64) uint64 { return a - min(a, b) }

// Latencies is a histogram of durations. The bounds are a factor of 1.25 apart: bucket 0 is up to
// 1 ms, bucket i up to 1.25^i ms, and the last has all above 87 s.
type Latencies [53]uint64

const growth = 1.25

// Add counts a duration.
func (l *Latencies) Add(d time.Duration) { l[bucket(d)]++ }

// Bucket returns the index of the bucket that has a duration. The histogram, which may be nil, has
// no part in that: whoever counts with atomics needs no more.
func (*Latencies) Bucket(d time.Duration) int { return bucket(d) }

func bucket(d time.Duration) int {
	if d <= time.Millisecond {
		return 0
	}
	i := math.Ceil(math.Log(float64(d)/float64(time.Millisecond)) / math.Log(growth))
	return min(int(i), len(Latencies{})-1)
}

// Median returns the upper bound of the bucket that has the median, and how many requests there
// are. Without any it is 0.
func (l Latencies) Median() (median time.Duration, requests uint64) {
	for _, n := range l {
		requests += n
	}
	if requests == 0 {
		return 0, 0
	}
	var sum uint64
	for i, n := range l {
		if sum += n; sum >= requests-requests/2 {
			return time.Duration(math.Pow(growth, float64(i)) * float64(time.Millisecond)), requests
		}
	}
	return 0, requests // the counts overflow
}

// from returns how many took as long as d, or the bucket of it.
func (l Latencies) from(d time.Duration) (n uint64) {
	for _, m := range l[bucket(d):] {
		n += m
	}
	return n
}

// Minus returns what was counted since. Nothing is less than 0.
func (l Latencies) Minus(since Latencies) Latencies { return l.merge(since, minus) }

func (l Latencies) merge(m Latencies, f func(a, b uint64) uint64) Latencies {
	for i := range l {
		l[i] = f(l[i], m[i])
	}
	return l
}
