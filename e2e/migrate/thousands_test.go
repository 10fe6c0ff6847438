package migrate

import (
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Connections over TLS and tunnels by the thousand are the successor's at once too, while the service serves.
func TestThousandsOverTLSMoveAtOnce(t *testing.T) {
	tier.Slow(t, "moves thousands of connections")
	const rounds = 5
	secure := tier.Times(t, "connections over TLS", 0, 500, 2000)
	tunnels := secure / 4
	option, over := service.EveryKind(t)
	b := service.Prepare(t, option, service.Args("-root", backend.Directory(t), "-idle-grace", "1m", "-drain-timeout", "5m"))
	for i, arg := range b.Setup.Args { // of what the option has forwarded, only the WebSockets
		if backend, ok := strings.CutPrefix(arg, "/="); ok {
			b.Setup.Args[i] = "/ws=" + backend
		}
	}
	b.Launch()
	b.AwaitReady()
	var all service.Idle
	all.Grow(t, b, over, "HTTP/1.1 over TLS", secure)
	all.Grow(t, b, over, "WebSocket", tunnels/2)
	all.Grow(t, b, over, "WebSocket over TLS", tunnels-tunnels/2)
	const clients = 8
	busy := await.Measure(t)
	stop := startTimed(t, b, clients)
	var drained []time.Duration
	for range rounds {
		_, u := moveAll(t, b, all.Len()+clients)
		drained = append(drained, time.Duration(u.Predecessor.DrainSeconds*float64(time.Second)))
		busy.Again()
	}
	requests := stop()
	worst, n := worstOf(requests, func(timed) bool { return true })
	t.Logf("%d connections over TLS, %d tunnels: drained in %v; 99 of 100 of %d requests took %v at most; %v", secure, tunnels, drained, n, worst, busy)
	// The best of them, because whatever else the machine does in such a moment counts as well.
	if limit := busy.Slower(400 * time.Millisecond); slices.Min(drained) > limit {
		t.Errorf("drained in %v, want one within %v", drained, limit)
	}
	all.Ask(t)
}
