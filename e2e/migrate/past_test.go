package migrate

import (
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Releases of the past: upgrades between them and this one, in both directions.

func TestReleasesOfThePast(t *testing.T) {
	tier.Slow(t, "builds releases of the past")
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Patient())
	clients := [load.Habits]int{load.BackToBack: 2, load.Pausing: 32, load.PerRequest: 1, load.PerRequestEnd: 1, load.Silent: 8, load.SilentAfter: 8}
	counts, stop := load.Start(t, load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files(), Clients: clients}.Paced())
	load.AwaitCrowd(t, counts, clients)
	from := "v1"
	for i, to := range []string{build.Past, build.Past, "v2", "v1", build.Past, "v2"} {
		build.Version(t, to)
		b.Deploy(to)
		predecessor := b.Follow(b.PID())
		u := b.Upgrade()
		if u.Generation != i+2 || u.Version != to {
			t.Fatalf("from %s to %s: got generation %d, version %s, want generation %d", from, to, u.Generation, u.Version, i+2)
		}
		if moves := from != build.Past && to != build.Past; moves != (u.Predecessor.Moved > 0) {
			t.Errorf("from %s to %s: %d connections moved, want some: %v", from, to, u.Predecessor.Moved, moves)
		}
		if !predecessor.Within(await.Hang) {
			t.Fatalf("from %s to %s: the predecessor is still there after 10 s", from, to)
		}
		from = to
	}
	stop()
	t.Log(counts)
	load.CheckNothingLost(t, counts)
}

// Between this release and the one before, and between that and older ones, no request of any kind is lost. Connections
// that only this one can move end in order.
func TestPreviousRelease(t *testing.T) {
	tier.Long(t, "upgrades to all kinds of releases of the past; TestReleasesOfThePast has fewer")
	t.Parallel()
	option, over := service.EveryKind(t)
	b := service.Start(t, option, service.Args("-idle-grace", "500ms", "-websocket-grace", "500ms"))
	clients := service.SmallCrowd
	crowd := service.StartCrowd(t, b, over, clients, false)
	// Silent WebSockets do not notice that a drain before has closed them, and on a busy machine some clients of HTTP/2 do
	// not come to rest within the grace: the others migrate.
	most := clients.Clients() / 2
	plain := clients.Busy + clients.Pausing + 2*clients.Silent
	for i, step := range []struct {
		to   string
		move int // at least so many connections
	}{
		{build.Previous, plain}, {build.Previous, plain}, {"v2", plain}, {"v1", most},
		{build.Hasty, most}, {build.Hasty, most}, {"v2", most}, {build.Past, 0}, {build.Previous, 0}, {"v2", plain}, {"v1", most},
	} {
		before := crowd.Requests()
		await.Until(t, "requests of each kind", func() bool { return crowd.Advanced(before, 10) })
		build.Version(t, step.to)
		b.Deploy(step.to)
		predecessor := b.Follow(b.PID())
		u := b.Upgrade()
		if u.Generation != i+2 || u.Version != step.to {
			t.Fatalf("to %s: got generation %d, version %s, want generation %d", step.to, u.Generation, u.Version, i+2)
		}
		if u.Predecessor.Moved < step.move || step.move == 0 && u.Predecessor.Moved > 0 {
			t.Errorf("upgrade %d, to %s: %d connections moved, want %d or more", i+1, step.to, u.Predecessor.Moved, step.move)
		}
		if c := u.Predecessor.Connections; c.Cut+c.Timeout+c.Error > 0 {
			t.Errorf("upgrade %d, to %s: got %+v, want none closed forcibly", i+1, step.to, c)
		}
		if !predecessor.Within(await.Hang) {
			t.Fatalf("to %s: the predecessor is still there", step.to)
		}
	}
	crowd.Stop()
	t.Log(crowd)
	crowd.CheckNothingLost(t)
}
