// Package load makes requests as many clients of several habits do, none of which ever retries, and counts
// every way in which a server can let a client down.
package load

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/exchange"
)

// Load describes who makes which requests of whom.
type Load struct {
	Network, Address string
	TLS              *tls.Config         // nil: plaintext
	Exchanges        []exchange.Exchange // made in turn
	Clients          [Habits]int
	Pause            time.Duration // mean of the pausing ones; 0 means 20 ms
	Rest             time.Duration // of busy ones after each request, where they shall not take all of the machine
	Patience         time.Duration // how long an answer may take; 0 means a minute
	Grace            time.Duration // for which the server keeps an idle connection in a drain; 0 means any time
	LastWords        bool          // an idle client makes one request when the load ends, if its connection is still there
	Once             bool          // a client does not connect again
	Lenient          bool          // a client goes on after a wrong answer, on the same connection
}

// Start runs the clients until stop is called or the test ends. stop waits for all of them;
// a request that is under way is brought to its end.
func Start(t testing.TB, l Load) (counts *Tally, stop func() *Tally) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	counts = &Tally{Clients: l.Clients}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, counts)
	}()
	stop = func() *Tally {
		cancel()
		<-done
		return counts
	}
	t.Cleanup(func() { stop() })
	return counts, stop
}

// run runs all clients until ctx is done, and returns when the last has finished.
func (l *Load) run(ctx context.Context, counts *Tally) {
	if l.Pause == 0 {
		l.Pause = 20 * time.Millisecond
	}
	if l.Patience == 0 {
		l.Patience = time.Minute
	}
	var wg sync.WaitGroup
	for h := range Habits {
		for i := range l.Clients[h] {
			c := &client{load: l, counts: counts, habit: h, turn: i, random: rand.New(rand.NewPCG(uint64(h), uint64(i)))}
			switch {
			case h.http2():
				wg.Go(func() { c.multiplex(ctx) })
			case h.webSocket():
				wg.Go(func() { c.talk(ctx) })
			default:
				wg.Go(func() { c.run(ctx) })
			}
		}
	}
	wg.Wait()
}
