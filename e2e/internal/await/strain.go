package await

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/build"
)

// Strain returns how many times as long as on a machine of its own work takes now, because others have work as well.
func Strain() float64 {
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

// AtStart returns the strain before the first test. What the tests do to each other when they run in parallel is not
// in it: they would wait for each other's timeouts.
var AtStart = sync.OnceValue(Strain)

// Unhurried returns a timeout that does not run out while a service is upgraded, however busy this machine is.
func Unhurried(d time.Duration) time.Duration {
	return time.Duration(float64(d) * min(max(1.5, AtStart()), 10))
}

// Load is what this machine has done to the times of what runs on it since a moment of a test.
type Load struct {
	mu     sync.Mutex
	strain float64       // the highest measured
	lag    time.Duration // see Lag
}

// Measure begins to measure the load.
func Measure(t *testing.T) *Load {
	const every = 10 * time.Millisecond
	l := &Load{strain: Strain()}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-quit:
				return
			case <-time.After(every):
				l.note(0, time.Since(last)-every)
			}
		}
	}()
	t.Cleanup(func() { close(quit); <-gone })
	return l
}

// Again measures the strain again; the lag is measured all the time.
func (l *Load) Again() { l.note(Strain(), 0) }

func (l *Load) note(strain float64, lag time.Duration) (float64, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strain, l.lag = max(l.strain, strain), max(l.lag, lag)
	return l.strain, l.lag
}

// Slower returns what a time may have been that is promised for a machine of two processors that has nothing else
// to do.
func (l *Load) Slower(d time.Duration) time.Duration {
	if build.Race {
		d *= 5 // as much slower is the program
	}
	strain, lag := l.note(Strain(), 0)
	return time.Duration(float64(d)*strain) + lag
}

// Lag returns for how long at most the test did not run although it wanted to.
func (l *Load) Lag() time.Duration {
	_, lag := l.note(0, 0)
	return lag
}

func (l *Load) String() string {
	strain, lag := l.note(0, 0)
	return fmt.Sprintf("strain %.1f, lag %v", strain, lag)
}
