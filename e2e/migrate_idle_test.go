// Idle connections by the thousand: how long it takes until all of them are the successor's, what one of them costs,
// and what clients that are busy meanwhile notice of it.
package e2e

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// herd are connections on which nothing happens.
type herd []*conn

// grow opens connections until there are n. Every other makes one request; the rest has said nothing yet.
func (h *herd) grow(t *testing.T, b *Baton, n int) {
	t.Helper()
	old := len(*h)
	*h = append(*h, make(herd, n-old)...)
	inParallel(t, n-old, func(i int) error {
		c, err := dial(b.Network, b.Address, 10*time.Second)
		if err != nil {
			return err
		}
		(*h)[old+i] = c
		if i%2 == 0 {
			return nil
		}
		return ask(c)
	})
	await(t, 10*time.Second, "connections", func() bool { return b.connections() >= n })
}

func (h *herd) close() {
	for _, c := range *h {
		if c != nil {
			c.Close()
		}
	}
}

// connections counts those of the public listeners, in all generations.
func (b *Baton) connections() (n int) {
	b.t.Helper()
	for _, g := range b.Status().Generations {
		n += g.Connections.New + g.Connections.Active + g.Connections.Idle
	}
	return n
}

// ask makes one request on a connection that is to be kept.
func ask(c *conn) error {
	c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := c.Write(request("GET", "/100.bin", nil)); err != nil {
		return err
	}
	var resp response
	if err := c.receive("GET", &resp); err != nil {
		return err
	}
	if resp.Status != 200 || len(resp.Body) != 100 {
		return fmt.Errorf("got status %d, %d bytes, want 200, 100", resp.Status, len(resp.Body))
	}
	if resp.Close {
		return errors.New("got Connection: close, want the connection kept")
	}
	return nil
}

// inParallel calls f for 0 to n-1 from some goroutines, and fails the test for errors.
func inParallel(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var next, failed atomic.Int64
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := f(int(i)); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		t.Fatalf("%d of %d connections failed, the first: %v", failed.Load(), n, *err)
	}
}

// timed is how long a request took.
type timed struct {
	begun, ended time.Time
}

// startTimed lets clients make one request after the other, each on one connection, until stop is called.
func startTimed(t *testing.T, b *Baton, clients int) (stop func() []timed) {
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
				if err := ask(c); err != nil {
					t.Errorf("client %d, request %d on its connection: %v", i+1, len(all[i])+1, err)
					return
				}
				all[i] = append(all[i], timed{begun, time.Now()})
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
func moveAll(t *testing.T, b *Baton, want int) (gone time.Duration, u *upgraded) {
	t.Helper()
	predecessor := b.follow(b.PID())
	u = b.Upgrade()
	if !predecessor.within(10 * time.Second) {
		t.Fatal("predecessor: alive 10 s after the upgrade")
	}
	if c := u.Predecessor.Connections; u.Predecessor.Moved != want || c != (connections{}) {
		t.Fatalf("connections: got %d moved, closed %+v, want all %d moved", u.Predecessor.Moved, c, want)
	}
	return predecessor.exited.Sub(u.Handoff()), u
}

// strain returns how many times as long as on a machine of its own work takes now, because others have work as well.
func strain() float64 {
	const work = 20 * time.Millisecond // of processor time, on each processor
	factors := make([]float64, runtime.NumCPU())
	var wg sync.WaitGroup
	for i := range factors {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			used := func() time.Duration {
				var now unix.Timespec
				unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now)
				return time.Duration(now.Nano())
			}
			began, before := time.Now(), used()
			for used()-before < work {
			}
			factors[i] = float64(time.Since(began)) / float64(work)
		})
	}
	wg.Wait()
	return max(1, slices.Max(factors))
}

// slower is what a time may be that is promised for a machine of two processors that has nothing else to do.
func slower(d time.Duration, strain float64) time.Duration {
	if race {
		d *= 5 // as much slower is the program
	}
	return time.Duration(float64(d) * strain)
}

// A predecessor without long requests is gone at once, whatever the number of its connections, and each costs the same.
func TestIdleConnectionsMoveAtOnce(t *testing.T) {
	const rounds = 3
	b := start(t, files(t), patient())
	var all herd
	defer func() { all.close() }()
	cost := make(map[int]time.Duration)
	var none, most time.Duration // without a connection, and with the most
	for _, n := range []int{0, 100, 1000, 8000} {
		all.grow(t, b, n)
		var took, drained []time.Duration
		busy := strain()
		for range rounds {
			gone, u := moveAll(t, b, n)
			took = append(took, gone)
			drained = append(drained, time.Duration(u.Predecessor.DrainSeconds*float64(time.Second)))
			busy = max(busy, strain())
			if limit := slower(250*time.Millisecond, busy); n <= 1000 && gone > limit {
				t.Errorf("predecessor with %d idle connections: gone %v after the handoff, want %v at most", n, gone, limit)
			}
		}
		if most = middle(took); n == 0 {
			none = most
			t.Logf("without connections: predecessor gone after %v; strain %.1f", none, busy)
			continue
		}
		cost[n] = (most - none) / time.Duration(n)
		t.Logf("%d idle connections: predecessor gone after %v, drained in %v, %v for each connection; strain %.1f", n, most, middle(drained), cost[n], busy)
	}
	// One in thousands may not cost more than one of a thousand, measuring errors aside.
	if cost[8000] > 3*cost[1000]+10*time.Microsecond {
		t.Errorf("cost of a connection: got %v among 8,000, %v among 1,000, want it to be the same", cost[8000], cost[1000])
	}
	inParallel(t, len(all), func(i int) error { return ask(all[i]) })

	t.Run("while clients are under way", func(t *testing.T) {
		const clients = 8
		busy := strain()
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
		busy = max(busy, strain())
		within := func(r timed) bool {
			return slices.ContainsFunc(windows, func(w timed) bool { return r.begun.Before(w.ended) && w.begun.Before(r.ended) })
		}
		inside, n := worstOf(requests, within)
		outside, m := worstOf(requests, func(r timed) bool { return !within(r) })
		t.Logf("%d idle connections and %d busy ones: predecessor gone after %v, drained in %v; 99 of 100 requests took %v at most meanwhile (%d requests), %v else (%d); strain %.1f",
			len(all), clients, took, drained, inside, n, outside, m, busy)
		// The best of them, because whatever else the machine does in such a moment counts as well.
		if limit := slower(400*time.Millisecond, busy); slices.Min(took) > limit {
			t.Errorf("predecessor gone %v after the handoff, want %v at most", slices.Min(took), limit)
		}
		if limit := slower(100*time.Millisecond, busy); inside > limit || n == 0 || m == 0 {
			t.Errorf("99 of 100 requests while connections moved: got %v at most of %d requests, want %v", inside, n, limit)
		}
	})
	// Nobody has been forgotten on the way.
	inParallel(t, len(all), func(i int) error { return ask(all[i]) })
}
