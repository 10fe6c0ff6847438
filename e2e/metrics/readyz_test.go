package metrics

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Readiness: whoever watches the service from outside sees one service, not its generations.

func TestReadyzDoesNotFlap(t *testing.T) {
	tier.Slow(t, "asks through upgrades")
	t.Parallel()
	b := service.Start(t, service.Files(t))

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
			resp, err := http1.Fetch("tcp", b.Admin, "GET", "/readyz")
			if err != nil {
				wrong = append(wrong, err.Error())
			} else if resp.Status != 200 {
				wrong = append(wrong, fmt.Sprintf("%d %s", resp.Status, resp.Body))
			}
		}
	}()
	for range 20 {
		before := polls.Load()
		await.Until(t, "polls", func() bool { return polls.Load() > before+10 })
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
	b := service.Start(t, service.Files(t))
	l := load.Load{Network: "tcp", Address: b.Admin, Pause: 5 * time.Millisecond, Exchanges: []exchange.Exchange{
		exchange.New("GET", "/readyz", nil, 200, nil),
		exchange.New("GET", "/healthz", nil, 200, nil),
		exchange.New("GET", "/metrics", nil, 200, nil),
		exchange.New("GET", "/status", nil, 200, nil),
	}}
	l.Clients = [load.Habits]int{load.Pausing: 4, load.PerRequestEnd: 1}
	counts, stop := load.Start(t, l)
	for range 10 {
		before := counts.Answered[load.Pausing].Load()
		await.Until(t, "requests", func() bool { return counts.Answered[load.Pausing].Load() > before+10 })
		b.Upgrade()
	}
	if stop().Failures() != 0 || counts.Connections[load.Pausing].Load() != 4 || counts.Reconnects[load.Pausing].Load()+counts.IdleClosed[load.Pausing].Load() != 0 {
		t.Errorf("want no failure, and 4 connections for 4 clients that pause; got %v", counts)
	}
}
