// Releases of the past: upgrades between them and this one, in both directions.
package e2e

import (
	"testing"
	"time"
)

func TestReleasesOfThePast(t *testing.T) {
	t.Parallel()
	b := start(t, files(t), patient())
	clients := [habits]int{backToBack: 2, pausing: 32, perRequest: 1, perRequestEnd: 1, silent: 8, silentAfter: 8}
	counts, stop := startLoad(t, load{network: b.Network, address: b.Address, grace: b.grace(), exchanges: fileExchanges(), clients: clients})
	awaitCrowd(t, counts, clients)
	from := "v1"
	for i, to := range []string{past, past, "v2", "v1", past, "v2"} {
		built(t, to)
		b.Deploy(to)
		predecessor := b.follow(b.PID())
		u := b.Upgrade()
		if u.Generation != i+2 || u.Version != to {
			t.Fatalf("from %s to %s: got generation %d, version %s, want generation %d", from, to, u.Generation, u.Version, i+2)
		}
		if moves := from != past && to != past; moves != (u.Predecessor.Moved > 0) {
			t.Errorf("from %s to %s: %d connections moved, want some: %v", from, to, u.Predecessor.Moved, moves)
		}
		if !predecessor.within(10 * time.Second) {
			t.Fatalf("from %s to %s: the predecessor is still there after 10 s", from, to)
		}
		from = to
	}
	stop()
	t.Log(counts)
	checkNothingLost(t, counts)
}
