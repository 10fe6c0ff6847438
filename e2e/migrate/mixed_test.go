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
	"example.com/baton/e2e/internal/tier"
)

// Connections over TLS and WebSockets by the thousand migrate at once, too, while others are busy.
func TestOtherKindsMoveAtOnce(t *testing.T) {
	tier.Slow(t, "moves 2,500 connections")
	secured, tunnels := 2000, 500
	if build.Race {
		secured, tunnels = 400, 100 // the clients are slower as well
	}
	const rounds, clients = 3, 4
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(certFile, keyFile), service.Files(t), service.Patient(), service.Args("-idle-grace", "25s",
		"-proxy", "/ws="+backend.Start(t, http.HandlerFunc(backend.EveryKind))))
	over := service.Over{Config: certificate.Trusting(t, []string{certFile}, "http/1.1")}
	var all service.Idle
	all.Grow(t, b, over, "HTTP/1.1 over TLS", secured)
	all.Grow(t, b, over, "WebSocket", tunnels/2)
	all.Grow(t, b, over, "WebSocket over TLS", tunnels/2)
	busy := await.Strain()
	stop := startTimed(t, b, clients)
	var took []time.Duration
	for range rounds {
		gone, _ := moveAll(t, b, all.Len()+clients)
		took = append(took, gone)
		busy = max(busy, await.Strain())
		all.Ask(t)
	}
	t.Logf("%d connections over TLS, %d WebSockets and %d busy connections, %d requests meanwhile: predecessor gone after %v; strain %.1f",
		secured, tunnels, clients, len(stop()), took, busy)
	// The best of them, because whatever else the machine does in such a moment counts as well.
	if limit := await.Slower(400*time.Millisecond, busy); slices.Min(took) > limit {
		t.Errorf("predecessor gone %v after the handoff, want %v at most", slices.Min(took), limit)
	}
}
