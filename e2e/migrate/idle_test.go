package migrate

import (
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Idle connections by the thousand: how long it takes until all of them are the successor's, what one of them costs,
// and what clients that are busy meanwhile notice of it.

// herd are connections on which nothing happens.
type herd []*http1.Conn

// grow opens connections until there are n. Every other makes one request; the rest has said nothing yet.
func (h *herd) grow(t *testing.T, b *service.Baton, n int) {
	t.Helper()
	old := len(*h)
	*h = append(*h, make(herd, n-old)...)
	await.InParallel(t, n-old, func(i int) error {
		c, err := http1.Dial(b.Network, b.Address, 10*time.Second)
		if err != nil {
			return err
		}
		(*h)[old+i] = c
		if i%2 == 0 {
			return nil
		}
		return http1.Ask(c)
	})
	await.Until(t, "connections", func() bool { return b.Connections() >= n })
}

func (h *herd) close() {
	for _, c := range *h {
		if c != nil {
			c.Close()
		}
	}
}

// timed is how long a request took.
type timed struct {
	begun, ended time.Time
}

// startTimed lets clients make one request each millisecond or less often, each on one connection, until stop is called.
func startTimed(t *testing.T, b *service.Baton, clients int) (stop func() []timed) {
	t.Helper()
	quit := make(chan struct{})
	all := make([][]timed, clients)
	var wg sync.WaitGroup
	for i := range clients {
		c := b.Dial()
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				begun := time.Now()
				if err := http1.Ask(c); err != nil {
					t.Errorf("client %d, request %d on its connection: %v", i+1, len(all[i])+1, err)
					return
				}
				all[i] = append(all[i], timed{begun, time.Now()})
				time.Sleep(time.Millisecond) // or the clients take the machine from the move
			}
		})
	}
	stop = sync.OnceValue(func() []timed {
		close(quit)
		wg.Wait()
		return slices.Concat(all...)
	})
	t.Cleanup(func() { stop() })
	return stop
}

// worstOf returns how long all but one in a hundred of some requests took at most, and how many there are.
func worstOf(requests []timed, which func(timed) bool) (p99 time.Duration, n int) {
	var took []time.Duration
	for _, r := range requests {
		if which(r) {
			took = append(took, r.ended.Sub(r.begun))
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)*99/100], len(took)
}

// moveAll upgrades, and returns when the predecessor was gone, counted from when the successor was ready.
func moveAll(t *testing.T, b *service.Baton, want int) (gone time.Duration, u *service.Upgraded) {
	t.Helper()
	predecessor := b.Follow(b.PID())
	u = b.Upgrade()
	if !predecessor.Within(await.Hang) {
		t.Fatal("predecessor: alive long after the upgrade")
	}
	if c := u.Predecessor.Connections; u.Predecessor.Moved != want || c != (service.Connections{}) {
		t.Fatalf("connections: got %d moved, closed %+v, want all %d moved", u.Predecessor.Moved, c, want)
	}
	return predecessor.Exited.Sub(u.Handoff()), u
}

// A predecessor without long requests is gone at once, whatever the number of its connections, and each costs the same.
func TestIdleConnectionsMoveAtOnce(t *testing.T) {
	tier.Slow(t, "moves thousands of connections")
	const rounds = 3
	many := tier.Times(t, "connections", 0, 3000, 8000)
	if build.Race {
		many = 2000 // the clients are slower as well
	}
	b := service.Start(t, service.Files(t), service.Patient())
	var all herd
	defer func() { all.close() }()
	cost := make(map[int]time.Duration)
	var none, most time.Duration // without a connection, and with the most
	busy := await.Measure(t)
	for _, n := range []int{0, 100, 1000, many} {
		all.grow(t, b, n)
		var took, drained []time.Duration
		for range rounds {
			gone, u := moveAll(t, b, n)
			took = append(took, gone)
			drained = append(drained, time.Duration(u.Predecessor.DrainSeconds*float64(time.Second)))
			if limit := busy.Slower(250 * time.Millisecond); n <= 1000 && gone > limit {
				t.Errorf("predecessor with %d idle connections: gone %v after the handoff, want %v at most", n, gone, limit)
			}
		}
		if most = load.Median(took); n == 0 {
			none = most
			t.Logf("without connections: predecessor gone after %v; %v", none, busy)
			continue
		}
		cost[n] = max(0, most-none) / time.Duration(n) // noise may make it less than none
		t.Logf("%d idle connections: predecessor gone after %v, drained in %v, %v for each connection; %v", n, most, load.Median(drained), cost[n], busy)
	}
	// One in thousands may not cost more than one of a thousand, measuring errors aside.
	if all := time.Duration(many); all*cost[many] > busy.Slower(all*(3*cost[1000]+10*time.Microsecond)) {
		t.Errorf("cost of a connection: got %v among %d, %v among 1,000, want it to be the same", cost[many], many, cost[1000])
	}
	await.InParallel(t, len(all), func(i int) error { return http1.Ask(all[i]) })

	t.Run("while clients are under way", func(t *testing.T) {
		const clients = 8
		busy := await.Measure(t)
		stop := startTimed(t, b, clients)
		time.Sleep(500 * time.Millisecond) // a load to compare with, not a condition
		var took, drained []time.Duration
		var windows []timed
		for range rounds {
			gone, u := moveAll(t, b, len(all)+clients)
			took = append(took, gone)
			drained = append(drained, time.Duration(u.Predecessor.DrainSeconds*float64(time.Second)))
			windows = append(windows, timed{u.Handoff(), u.Handoff().Add(gone)})
			time.Sleep(300 * time.Millisecond)
		}
		requests := stop()
		within := func(r timed) bool {
			return slices.ContainsFunc(windows, func(w timed) bool { return r.begun.Before(w.ended) && w.begun.Before(r.ended) })
		}
		inside, n := worstOf(requests, within)
		outside, m := worstOf(requests, func(r timed) bool { return !within(r) })
		t.Logf("%d idle connections and %d busy ones: predecessor gone after %v, drained in %v; 99 of 100 requests took %v at most meanwhile (%d requests), %v else (%d); %v",
			len(all), clients, took, drained, inside, n, outside, m, busy)
		// The best of them, because whatever else the machine does in such a moment counts as well.
		if limit := busy.Slower(400 * time.Millisecond); slices.Min(took) > limit {
			t.Errorf("predecessor gone %v after the handoff, want %v at most", slices.Min(took), limit)
		}
		if limit := busy.Slower(100 * time.Millisecond); inside > limit || n == 0 || m == 0 {
			t.Errorf("99 of 100 requests while connections moved: got %v at most of %d requests, want %v", inside, n, limit)
		}
	})
	// Nobody has been forgotten on the way.
	await.InParallel(t, len(all), func(i int) error { return http1.Ask(all[i]) })
}
