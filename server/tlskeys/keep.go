package tlskeys

import (
	"context"
	"sync"
	"time"
)

// interval is how often it is looked whether files of certificates have changed, and whether a
// ticket key is due.
const interval = 5 * time.Second

// Keep refreshes certificates and rotates ticket keys until stop is called, which waits for
// what is under way.
func Keep(certificates *Certificates, tickets *TicketKeys) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for tick := time.Tick(interval); ; {
			select {
			case <-tick:
				certificates.Refresh()
				tickets.Rotate()
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); running.Wait() }
}
