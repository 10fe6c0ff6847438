package migrate

import (
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Connections of every kind: each client ends on the connection that it began with, whatever it was doing when it
// migrated, and nothing that it asked for was lost.
func TestEveryKindKeepsItsConnection(t *testing.T) {
	upgrades := *tier.Soak
	if upgrades == 0 {
		upgrades = tier.Times(t, "upgrades", 2, 5, 6)
	}
	option, over := service.EveryKind(t)
	b := service.Start(t, option, service.Args("-idle-grace", "2m", "-drain-timeout", "5m"))
	crowd := service.StartCrowd(t, b, over, service.SmallCrowd, false)
	deploy := b.Releases("v1", "v2")
	for i := range upgrades {
		before := crowd.Requests()
		await.Until(t, "requests of each kind", func() bool { return crowd.Advanced(before, 10) })
		deploy([]string{"v2", "v1"}[i%2])
		predecessor := b.Follow(b.PID())
		u := b.Upgrade()
		checkNoneClosed(t, u)
		if u.Predecessor.Moved < service.SmallCrowd.Clients() {
			t.Errorf("upgrade %d: %d connections migrated, want all %d", i+1, u.Predecessor.Moved, service.SmallCrowd.Clients())
		}
		if !predecessor.Within(await.Hang) {
			t.Fatalf("upgrade %d: predecessor alive %v after its drain", i+1, await.Hang)
		}
	}
	crowd.Stop()
	t.Log(crowd)
	crowd.CheckKept(t)
	if got, want := b.Metric("baton_connections_accepted_total"), service.SmallCrowd.Clients(); int(got) != want {
		t.Errorf("connections accepted: got %v, want %d, one from each client", got, want)
	}
}
