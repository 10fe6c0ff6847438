package await

import (
	"sync"
	"sync/atomic"
	"testing"
)

// InParallel calls f for 0 to n-1 from some goroutines, and fails the test for errors.
func InParallel(t *testing.T, n int, f func(i int) error) {
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
