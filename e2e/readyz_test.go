// Readiness: whoever watches the service from outside sees one service, not its generations.
package e2e

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

func TestReadyzDoesNotFlap(t *testing.T) {
	t.Parallel()
	b := start(t, files(t))

	var polls atomic.Int64
	stop, result := make(chan struct{}), make(chan []string)
	go func() {
		var wrong []string
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				result <- wrong
				return
			case <-tick.C:
			}
			polls.Add(1)
			resp, err := fetch("tcp", b.Admin, "GET", "/readyz")
			if err != nil {
				wrong = append(wrong, err.Error())
			} else if resp.Status != 200 {
				wrong = append(wrong, fmt.Sprintf("%d %s", resp.Status, resp.Body))
			}
		}
	}()
	for range 20 {
		before := polls.Load()
		await(t, 10*time.Second, "polls", func() bool { return polls.Load() > before+10 })
		b.Upgrade()
	}
	close(stop)
	if wrong := <-result; len(wrong) != 0 {
		t.Errorf("%d of %d polls: got %.80q, want 200 always", len(wrong), polls.Load(), wrong)
	}
}

// A watcher that keeps its connection to the admin listener, as Prometheus does, loses nothing either: it has one
// connection for all generations.
func TestAdminKeepAlive(t *testing.T) {
	t.Parallel()
	b := start(t, files(t))
	l := load{network: "tcp", address: b.Admin, pause: 5 * time.Millisecond, exchanges: []exchange{
		newExchange("GET", "/readyz", nil, 200, nil),
		newExchange("GET", "/healthz", nil, 200, nil),
		newExchange("GET", "/metrics", nil, 200, nil),
		newExchange("GET", "/status", nil, 200, nil),
	}}
	l.clients = [habits]int{pausing: 4, perRequestEnd: 1}
	counts, stop := startLoad(t, l)
	for range 10 {
		before := counts.requests[pausing].Load()
		await(t, 10*time.Second, "requests", func() bool { return counts.requests[pausing].Load() > before+10 })
		b.Upgrade()
	}
	if stop().Failures() != 0 || counts.connections[pausing].Load() != 4 || counts.reconnects[pausing].Load()+counts.idleClosed[pausing].Load() != 0 {
		t.Errorf("want no failure, and 4 connections for 4 clients that pause; got %v", counts)
	}
}
