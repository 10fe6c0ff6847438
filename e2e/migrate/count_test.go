package migrate

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// What is reported of connections that move: to who upgrades, in the log, and by the metrics of all generations together.

func TestMovedConnectionsAreCounted(t *testing.T) {
	t.Parallel()
	const upgrades = 5
	b := service.Start(t, service.Listen("HOST:PORT", "unix:DIR/public.sock"), service.Files(t), service.Patient())
	var all []*http1.Conn
	for i := range 8 {
		network, address := b.Network, b.Address
		if i%3 == 0 {
			network, address = "unix", b.Expand("DIR/public.sock")
		}
		all = append(all, http1.MustDial(t, network, address))
		if i%2 == 0 {
			answered(t, all[i])
		}
	}
	await.Until(t, "the connections", func() bool { return b.Connections() == len(all) })
	for n := 1; n <= upgrades; n++ {
		u := b.Upgrade()
		if c := u.Predecessor.Connections; u.Predecessor.Moved != len(all) || c != (service.Connections{}) {
			t.Errorf("upgrade %d: got %d connections moved, closed %+v, want %d, none", n, u.Predecessor.Moved, c, len(all))
		}
		service.CheckMigrated(t, b, n*len(all))
		checkHeld(t, b, len(all))
		if n%2 == 1 {
			for _, c := range all {
				answered(t, c)
			}
		}
	}
	// A connection that moves is neither accepted again nor closed.
	if got := b.Metric("baton_connections_accepted_total"); got != float64(len(all)) {
		t.Errorf("connections accepted: got %v, want %d", got, len(all))
	}
	for _, reason := range []string{"client", "connection_close", "idle_grace", "drain_timeout", "timeout", "error", "hijacked"} {
		if got := b.Metric("baton_connections_closed_total", "reason", reason); got != 0 {
			t.Errorf("connections closed, reason %s: got %v, want 0", reason, got)
		}
	}

	// The same for a person.
	code, line, stderr := b.Run("upgrade", "-control", b.Control)
	if code != 0 || !regexp.MustCompile(`\b8 connections migrated \(8 http/1\.1\),`).MatchString(line) {
		t.Errorf("baton upgrade: got exit code %d, %q %s, want the 8 connections migrated in it", code, line, stderr)
	}
	b.Follow(b.PID())
	if n := strings.Count(b.Log(), `"connections_migrated":8,"migrated":{"http/1.1":8}`); n < upgrades {
		t.Errorf("log: got %d reports of 8 connections migrated, want %d or more", n, upgrades)
	}
	await.Until(t, "the drain in the status", func() bool {
		u := b.Status().Upgrades[upgrades]
		return u.Drained != nil && u.Drained.Moved == len(all) && u.Drained.Migrated["http/1.1"] == len(all) && len(u.Drained.Migrated) == 1
	})
	for _, c := range all {
		c.Close()
	}
	await.Until(t, "connections closed by their clients", func() bool {
		return b.Metric("baton_connections_closed_total", "reason", "client") == float64(len(all))
	})
	service.CheckMigrated(t, b, (upgrades+1)*len(all))
}

// checkHeld checks that the service has connections in hand, none of them twice.
func checkHeld(t *testing.T, b *service.Baton, want int) {
	t.Helper()
	var got int
	if !await.Holds(await.Hang, func() bool { got = b.Connections(); return got == want }) {
		t.Errorf("connections in hand: got %d, want %d", got, want)
	}
}

// A generation with -migrate=false moves nothing, whatever its successor is started with; one without it does.
func TestMigrationIsSwitchedOff(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Config("migrate false"), service.Args("-idle-grace", "200ms"))
	c := b.Dial()
	answered(t, c)
	u := b.Upgrade()
	if u.Predecessor.Moved != 0 || u.Predecessor.Connections.Grace != 1 || u.Predecessor.DrainSeconds < 0.15 {
		t.Errorf("without migration: got %+v, want 1 connection closed after the grace of 0.2 s, none moved", u.Predecessor)
	}
	if e := c.AwaitClose(await.Hang); e != http1.Fin {
		t.Errorf("idle connection: got %s, want FIN", e)
	}
	b.Configure("migrate true\n")
	b.Upgrade() // still of a predecessor that does not
	c = b.Dial()
	answered(t, c)
	if u := b.Upgrade(); u.Predecessor.Moved != 1 {
		t.Errorf("with migration: got %+v, want 1 connection moved", u.Predecessor)
	}
	answered(t, c)
}

// What was accepted at a listener that the successor does not have cannot move: it is sent Connection: close, or closed after the grace.
func TestConnectionsOfADroppedListener(t *testing.T) {
	tier.Slow(t, "waits for the grace of connections")
	t.Parallel()
	b := service.Start(t, service.ListenInFile(), service.Config("listen ADDRESS", "listen unix:DIR/a.sock"), service.Files(t), service.Args("-idle-grace", "200ms"))
	stays, goes := b.Dial(), http1.MustDial(t, "unix", b.Expand("DIR/a.sock"))
	answered(t, stays)
	answered(t, goes)
	b.Configure("listen ADDRESS\n")
	u := b.Upgrade()
	if u.Predecessor.Moved != 1 || u.Predecessor.Connections.Grace != 1 {
		t.Errorf("upgrade that drops a listener: got %+v, want 1 connection moved, 1 closed after the grace", u.Predecessor)
	}
	if e := goes.AwaitClose(await.Hang); e != http1.Fin {
		t.Errorf("connection of the dropped listener: got %s, want FIN", e)
	}
	answered(t, stays)
	if s := b.Status(); slices.ContainsFunc(s.Listen, func(a string) bool { return strings.Contains(a, "a.sock") }) {
		t.Errorf("listeners: got %v, want the unix socket dropped", s.Listen)
	}
}
