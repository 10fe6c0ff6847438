package await

import (
	"runtime"
	"slices"
	"sync"
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

// Unhurried returns a timeout that does not run out while a service is upgraded, however busy this machine is.
func Unhurried(d time.Duration) time.Duration {
	return time.Duration(float64(d) * min(Strain(), 10))
}

// Slower is what a time may be that is promised for a machine of two processors that has nothing else to do.
func Slower(d time.Duration, strain float64) time.Duration {
	if build.Race {
		d *= 5 // as much slower is the program
	}
	return time.Duration(float64(d) * strain)
}
