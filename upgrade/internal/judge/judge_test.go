package judge

import (
	"encoding/binary"
	"testing"
	"time"
)

func fine(n uint64) Outcomes { return Outcomes{Started: n, Answered: n, Ended: n} }

func TestVerdict(t *testing.T) {
	of := func(n uint64, change func(*Outcomes)) Outcomes {
		o := fine(n)
		change(&o)
		return o
	}
	for _, tt := range []struct {
		name      string
		s, p      Outcomes
		latency   bool
		want      Decision
		reason    string
		slowCause bool
	}{
		{name: "no request", p: fine(1000)},
		{name: "no predecessor", s: fine(1000)},
		{name: "few", s: fine(10), p: fine(100)},
		{name: "as good", s: fine(400), p: fine(2810), want: Good},
		{name: "all fail at both", s: of(400, func(o *Outcomes) { o.Failed = 400 }), p: of(2000, func(o *Outcomes) { o.Failed = 2000 }), want: Good},
		{name: "better", s: fine(400), p: of(2000, func(o *Outcomes) { o.Failed = 1000 }), want: Good},
		{name: "one failure", s: of(1, func(o *Outcomes) { o.Failed = 1 }), p: fine(100000)},
		{name: "failed", s: of(12, func(o *Outcomes) { o.Failed = 5 }), p: of(2810, func(o *Outcomes) { o.Failed = 3 }), want: Bad,
			reason: "5 of 12 requests failed (41.7 %); at the predecessor 3 of 2,810 (0.1 %)"},
		{name: "denied", s: of(4, func(o *Outcomes) { o.Denied = 4 }), p: fine(1000), want: Bad,
			reason: "4 of 4 requests were answered 404, 401 or 403 (100.0 %); at the predecessor 0 of 1,000 (0.0 %)"},
		{name: "redirected", s: of(4, func(o *Outcomes) { o.Redirected = 4 }), p: fine(1000), want: Bad,
			reason: "4 of 4 requests were redirected (100.0 %); at the predecessor 0 of 1,000 (0.0 %)"},
		{name: "empty", s: of(4, func(o *Outcomes) { o.Empty = 4 }), p: fine(1000), want: Bad,
			reason: "4 of 4 requests had empty bodies (100.0 %); at the predecessor 0 of 1,000 (0.0 %)"},
		{name: "significant, but no margin", s: of(1e7, func(o *Outcomes) { o.Failed = 4e4 }), p: fine(1e7), want: Good},
		{name: "slow", s: of(400, func(o *Outcomes) { o.Latency[bucket(2*time.Second)] = 50 }), p: of(400, func(o *Outcomes) { o.Latency[3] = 50 }), want: Good},
		{name: "slow, judged", latency: true, s: of(400, func(o *Outcomes) { o.Latency[bucket(2*time.Second)] = 50 }),
			p: of(400, func(o *Outcomes) { o.Latency[3] = 50 }), want: Bad, slowCause: true,
			reason: "the median of 50 requests was 2.465s; at the predecessor of 50 2ms"},
		{name: "slow, too few", latency: true, s: of(400, func(o *Outcomes) { o.Latency[40] = 49 }), p: of(400, func(o *Outcomes) { o.Latency[3] = 50 }), want: Good},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := New(Options{Latency: tt.latency}).Observe(0, tt.s, tt.p)
			if want := (Verdict{tt.want, tt.reason, tt.slowCause}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// observe calls a judge five times a second, with what has happened by then.
func observe(end time.Duration, counts func(at time.Duration) (s, p Outcomes)) (at time.Duration, v Verdict) {
	j := New(Options{})
	for ; at <= end && v.Decision != Bad; at += 200 * time.Millisecond {
		s, p := counts(at)
		v = j.Observe(at, s, p)
	}
	return at, v
}

func TestUnanswered(t *testing.T) {
	rate := func(at time.Duration, n float64) uint64 { return uint64(n * max(at, 0).Seconds()) }
	for _, tt := range []struct {
		name   string
		counts func(at time.Duration) (s, p Outcomes)
		by     time.Duration // 0: never
	}{
		{"hangs", func(at time.Duration) (s, p Outcomes) {
			return Outcomes{Started: rate(at, 10)}, fine(rate(at, 100))
		}, 6500 * time.Millisecond},
		{"hangs in a watch", func(at time.Duration) (s, p Outcomes) {
			return Outcomes{Started: rate(at, 10)}, fine(1000)
		}, 6500 * time.Millisecond},
		{"deadlocks after 5 s", func(at time.Duration) (s, p Outcomes) {
			s = fine(rate(min(at, 5*time.Second), 10))
			s.Started = rate(at, 10)
			return s, fine(rate(at, 100))
		}, 12 * time.Second},
		{"long polls at both", func(at time.Duration) (s, p Outcomes) {
			ended := rate(at-20*time.Second, 10)
			s = Outcomes{Started: rate(at, 10), Answered: ended, Ended: ended}
			p = Outcomes{Started: rate(at, 90), Answered: 9 * ended, Ended: 9 * ended}
			return s, p
		}, 0},
		{"long polls in a watch", func(at time.Duration) (s, p Outcomes) {
			ended := rate(at-20*time.Second, 10)
			p = fine(1000)
			p.Latency[bucket(20*time.Second)] = 1000
			return Outcomes{Started: rate(at, 10), Answered: ended, Ended: ended}, p
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at, v := observe(40*time.Second, tt.counts)
			if bad := v.Decision == Bad; bad != (tt.by > 0) || bad && at > tt.by {
				t.Errorf("%+v at %v, want bad by %v", v, at, tt.by)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	got := Summary(fine(312), Outcomes{Ended: 2810, Failed: 3})
	if want := "312 requests, 0 failed (0.0 %); here 2,810, 3 failed (0.1 %)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLatencies(t *testing.T) {
	var l Latencies
	if d, n := l.Median(); d != 0 || n != 0 {
		t.Errorf("the median of none is %v of %d", d, n)
	}
	for _, d := range []time.Duration{-1, time.Millisecond, 100 * time.Millisecond, time.Hour, 1 << 62} {
		l.Add(d)
	}
	d, n := l.Median()
	if n != 5 || d < 100*time.Millisecond || d > 125*time.Millisecond {
		t.Errorf("median %v of %d", d, n)
	}
	if got := l.Minus(l); got != (Latencies{}) {
		t.Errorf("l minus l is %v", got)
	}
}

func FuzzObserve(f *testing.F) {
	f.Add(make([]byte, 400))
	f.Fuzz(func(t *testing.T, data []byte) {
		next := func() (n uint64) {
			if len(data) < 8 {
				return 0
			}
			n, data = binary.LittleEndian.Uint64(data), data[8:]
			return n >> (n & 63)
		}
		outcomes := func() Outcomes {
			o := Outcomes{Started: next(), Answered: next(), Ended: next(), Failed: next(), Denied: next(), Redirected: next(), Empty: next()}
			o.Latency[next()%uint64(len(o.Latency))] = next()
			return o
		}
		j := New(Options{Latency: next()&1 == 1})
		var last Verdict
		for len(data) >= 8 {
			v := j.Observe(time.Duration(next()), outcomes(), outcomes())
			if (v.Reason != "") != (v.Decision == Bad) || last.Decision == Bad && v != last {
				t.Fatalf("%+v after %+v", v, last)
			}
			last = v
		}
	})
}

func TestThousands(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567"} {
		if got := Thousands(n); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
