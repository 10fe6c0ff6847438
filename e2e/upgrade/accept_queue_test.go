package upgrade

import (
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// A stop refuses after it has begun to refuse: successes, then refusals, never mixed.
func TestSuccessesThenRefusals(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g)))
	held := b.Dial()
	held.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	var ok, no int
	signalled := false
	for no < 50 {
		if ok == 20 && !signalled {
			signalled = true
			b.Signal(syscall.SIGTERM)
		}
		resp, err := http1.Fetch(b.Network, b.Address, "GET", "/")
		switch {
		case err == nil && resp.Status == 200:
			if no > 0 {
				t.Fatalf("an answer after %d refusals", no)
			}
			ok++
		case err != nil:
			c, dialled := http1.Dial(b.Network, b.Address, time.Second)
			if dialled == nil {
				c.Close()
				t.Fatalf("request: %v, want an answer or a refusal", err)
			}
			no++
		default:
			t.Fatalf("status: got %d, want 200", resp.Status)
		}
	}
	g.Open()
	held.Expect(t, "GET", 200)
}

// A full accept queue at the moment of the handoff: everybody in it is served.
func TestFullAcceptQueue(t *testing.T) {
	tier.Slow(t, "fills an accept queue")
	t.Parallel()
	b := service.Start(t, service.Files(t))
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files()}
	l.Clients = [load.Habits]int{load.PerRequest: 150, load.PerRequestEnd: 150}
	counts, stop := load.Start(t, l)
	for range 3 {
		before := counts.Requests()
		await.Until(t, "requests", func() bool { return counts.Requests() > before+300 })
		b.Upgrade()
	}
	if stop().Failures() != 0 {
		t.Error(counts)
	}
}
