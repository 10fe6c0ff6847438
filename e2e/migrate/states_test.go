package migrate

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Connections that migrate with keys, and with a second socket, are gone from a predecessor as fast as others, while
// clients are served.
func TestConnectionsWithStatesMoveAtOnce(t *testing.T) {
	tier.Slow(t, "moves many connections")
	const rounds, clients = 3, 4
	secure := tier.Times(t, "connections over TLS", 0, 400, 2000)
	tunnels := secure / 4
	if build.Race {
		secure, tunnels = 400, 100 // the clients are slower as well
	}
	cert, key := certificate.Certificate(t)
	over := service.Over{Config: certificate.Trusting(t, []string{cert})}
	b := service.Start(t, service.OverTLS(cert, key), service.Files(t), service.Patient(), service.Args("-idle-grace", "1m",
		"-proxy", "/ws="+backend.Start(t, http.HandlerFunc(backend.EveryKind))))
	var all service.Idle
	all.Grow(t, b, over, "HTTP/1.1 over TLS", secure)
	all.Grow(t, b, over, "WebSocket", tunnels/2)
	all.Grow(t, b, over, "WebSocket over TLS", tunnels/2)
	stop := startTimed(t, b, clients)
	busy := await.Measure(t)
	var took []time.Duration
	for range rounds {
		gone, u := moveAll(t, b, all.Len()+clients)
		took = append(took, gone)
		busy.Again()
		t.Logf("predecessor gone after %v, drained in %.0f ms; %v", gone, 1000*u.Predecessor.DrainSeconds, busy)
		all.Ask(t)
	}
	stop()
	// The best of them, because whatever else the machine does in such a moment counts as well.
	if limit := busy.Slower(400 * time.Millisecond); slices.Min(took) > limit {
		t.Errorf("predecessor gone %v after the handoff, want %v at most", slices.Min(took), limit)
	}
	service.CheckMigrated(t, b, rounds*(all.Len()+clients))
}
