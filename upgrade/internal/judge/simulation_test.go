package judge

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
)

// binomial returns how many of n requests are concerned.
func binomial(r *rand.Rand, n uint64, p float64) (x uint64) {
	switch {
	case p == 0:
	case p == .5:
		for ; n >= 64; n -= 64 {
			x += uint64(bits.OnesCount64(r.Uint64()))
		}
		x += uint64(bits.OnesCount64(r.Uint64() & (1<<n - 1)))
	default: // from one to the next
		scale := 1 / math.Log1p(-p)
		for at := uint64(0); ; x++ {
			if at += 1 + uint64(math.Log(1-r.Float64())*scale); at > n {
				break
			}
		}
	}
	return x
}

// add counts n requests, each of the four ratios on its own.
func (o *Outcomes) add(r *rand.Rand, n uint64, p float64) {
	o.Started, o.Answered, o.Ended = o.Started+n, o.Answered+n, o.Ended+n
	o.Failed += binomial(r, n, p)
	o.Denied += binomial(r, n, p)
	o.Redirected += binomial(r, n, p)
	o.Empty += binomial(r, n, p)
}

func TestFalseAlarms(t *testing.T) {
	for _, arrivals := range []struct {
		name      string
		s, p      uint64 // of a batch, on average
		before    uint64 // baseline of the predecessor
		clustered bool
		looks     uint64
	}{
		{name: "half each", s: 20, p: 20, looks: 20},
		{name: "few and many", s: 6, p: 54, looks: 20},
		{name: "clustered", s: 10, p: 90, looks: 25, clustered: true},
		{name: "watch", s: 30, before: 1000, looks: 20},
	} {
		for _, p := range []float64{0, .001, .01, .1, .5} {
			t.Run(fmt.Sprintf("%s, %g %%", arrivals.name, 100*p), func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 2))
				alarms, histories := 0, tier.Times(t, "histories", 1000, 3000, 10000)
				for range histories {
					j := New(Options{})
					var s, o Outcomes
					o.add(r, arrivals.before, p)
					for i := range arrivals.looks {
						n, m := r.Uint64N(2*arrivals.s+1), r.Uint64N(2*arrivals.p+1)
						if arrivals.clustered {
							if r.Uint64N(5) > 0 {
								n, m = 0, 0
							}
							n, m = 5*n, 5*m
						}
						s.add(r, n, p)
						o.add(r, m, p)
						if j.Observe(time.Duration(i)*200*time.Millisecond, s, o).Decision == Bad {
							alarms++
							break
						}
					}
				}
				if got := float64(alarms) / float64(histories); got > .01 {
					t.Errorf("%.2f %% of false alarms, want at most 1 %%", 100*got)
				} else {
					t.Logf("%.2f %% of false alarms", 100*got)
				}
			})
		}
	}
}

// wald returns the expected number of requests that a sequential probability ratio test needs to
// find q where p is known (Wald, Sequential Analysis, 3.5), with alpha 1 % and beta 5 %.
func wald(p, q float64) float64 {
	const alpha, beta = .01, .05
	information := q*math.Log(q/p) + (1-q)*math.Log((1-q)/(1-p))
	return ((1-beta)*math.Log((1-beta)/alpha) + beta*math.Log(beta/(1-alpha))) / information
}

func TestDetection(t *testing.T) {
	for _, tt := range []struct {
		p, q, want float64
	}{
		{0, .5, 2 * wald(.005, .5)}, // less than the margin does not matter
		{.001, .01, 2 * wald(.001, .01)},
		{.01, .05, 2 * wald(.01, .05)},
		{.1, .2, 2 * wald(.1, .2)},
		{0, .9999, 4},
	} {
		t.Run(fmt.Sprintf("%g %%, %g %%", 100*tt.p, 100*tt.q), func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			n := uint64(0)
			tries := tier.Times(t, "histories", 1000, 3000, 10000)
			step := max(1, uint64(tt.want/40))
			for range tries {
				j := New(Options{})
				var s, o Outcomes
				o.Ended = 10000
				o.Failed = binomial(r, 10000, tt.p)
				for {
					o.Ended += 9 * step
					o.Failed += binomial(r, 9*step, tt.p)
					s.Ended += step
					s.Failed += binomial(r, step, tt.q)
					n += step
					if j.Observe(0, s, o).Decision == Bad {
						break
					}
					if s.Ended > 20*uint64(tt.want)+100 {
						t.Fatalf("not found in %d requests", s.Ended)
					}
				}
			}
			if got := float64(n) / float64(tries); got > tt.want {
				t.Errorf("found after %.1f requests, want at most %.1f", got, tt.want)
			} else {
				t.Logf("found after %.1f requests; limit %.1f", got, tt.want)
			}
		})
	}
}
