package proxy

import (
	"context"
	"sync"
	"testing"
	"time"
)

// drain stands in for a server that drains.
type drain struct {
	mu    sync.Mutex
	says  map[int]func(context.Context)
	ids   int
	grace []time.Duration
	busy  sync.WaitGroup
}

// onDrain is what server.OnDrain is to a server.
func (d *drain) onDrain(_ context.Context, grace time.Duration, say func(context.Context)) (stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.says == nil {
		d.says = make(map[int]func(context.Context))
	}
	d.ids++
	id, over := d.ids, make(chan struct{})
	begun := false
	d.says[id] = func(ctx context.Context) { defer close(over); begun = true; d.mu.Unlock(); say(ctx) }
	d.grace = append(d.grace, grace)
	return func() {
		d.mu.Lock()
		wait := begun
		delete(d.says, id)
		d.mu.Unlock()
		if wait {
			<-over
		}
	}
}

// open returns how many hooks are registered.
func (d *drain) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.says)
}

// say says all of them, and returns when all have been said.
func (d *drain) say(t *testing.T, within time.Duration) (took time.Duration) {
	t.Helper()
	until := time.Now().Add(time.Minute)
	for d.open() == 0 {
		if time.Now().After(until) {
			t.Error("nothing was registered")
			return 0
		}
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	began := time.Now()
	d.mu.Lock()
	says := d.says
	d.says = nil
	d.mu.Unlock()
	for _, say := range says {
		d.busy.Go(func() { d.mu.Lock(); say(ctx) })
	}
	d.busy.Wait()
	return time.Since(began)
}
