// The main promise: through upgrades under load, clients that never retry lose nothing.
package e2e

import (
	"os"
	"testing"
	"time"
)

const (
	// defaultGrace is how long a silent connection lives in a drain unless -idle-grace says otherwise.
	defaultGrace = time.Second
	// slack is what a predecessor may take over the grace, on a machine under full load.
	slack = time.Second
)

// world is one combination of listener and handler that the promise has to hold for.
type world struct {
	name      string
	listen    []string
	handler   func(testing.TB) option
	exchanges []exchange
}

func worlds() []world {
	return []world{
		{"tcp+files", nil, files, fileExchanges()},
		{"tcp+proxy", nil, proxied, echoExchanges("")},
		{"unix+files", []string{"unix:DIR/public.sock"}, files, fileExchanges()},
		{"unix+proxy", []string{"unix:DIR/public.sock"}, proxied, echoExchanges("")},
	}
}

// crowd is the load of the main promise.
var crowd = [habits]int{backToBack: 8, pausing: 64, perRequest: 2, perRequestEnd: 2, silent: 25, silentAfter: 25}

func TestUpgradesUnderLoad(t *testing.T) {
	for _, w := range worlds() {
		t.Run(w.name, func(t *testing.T) { upgradeUnderLoad(t, w, 20) })
	}
}

func TestSoak(t *testing.T) {
	upgrades := *soak
	if upgrades == 0 && os.Getenv("BATON_STRICT") == "1" {
		upgrades = 2 // enough to see that it works
	} else if upgrades == 0 {
		t.Skip("long: go test ./e2e -run Soak -soak=200 makes 200 upgrades under load in each world")
	}
	for _, w := range worlds() {
		t.Run(w.name, func(t *testing.T) { upgradeUnderLoad(t, w, upgrades) })
	}
}

func upgradeUnderLoad(t *testing.T, w world, upgrades int) {
	built(t, "v2") // built before the clock runs
	b := start(t, listen(w.listen...), w.handler(t))
	began := time.Now()
	counts, stop := startLoad(t, load{network: b.Network, address: b.Address, grace: b.grace(), exchanges: w.exchanges, clients: crowd})
	await(t, 20*time.Second, "requests of every client", func() bool {
		return counts.requests[pausing].Load() > 64 && counts.requests[silentAfter].Load() == int64(crowd[silentAfter])
	})

	var handoffs []*upgraded
	for i := range upgrades {
		before := counts.Requests()
		tick := time.After(500 * time.Millisecond)
		b.Deploy([]string{"v2", "v1"}[i%2])
		<-tick // the distance between upgrades belongs to the case
		if counts.Requests() == before {
			t.Fatalf("before upgrade %d: no request in half a second\n%v", i+1, counts)
		}
		predecessor := b.follow(b.PID())
		u := b.Upgrade()
		if want := i + 2; u.Generation != want || u.PID != b.PID() || u.Version != []string{"v2", "v1"}[i%2] {
			t.Fatalf("upgrade %d: got generation %d, pid %d, version %s, PID file %d", i+1, u.Generation, u.PID, u.Version, b.PID())
		}
		if !predecessor.within(5 * time.Second) {
			t.Fatalf("upgrade %d: predecessor alive 5 s after the upgrade", i+1)
		}
		if took := predecessor.exited.Sub(u.Handoff()); took > defaultGrace+slack {
			t.Errorf("upgrade %d: predecessor gone %v after the handoff, want %v at most", i+1, took, defaultGrace+slack)
		}
		if u.Predecessor.Connections.Cut != 0 {
			t.Errorf("upgrade %d: %d connections cut", i+1, u.Predecessor.Connections.Cut)
		}
		handoffs = append(handoffs, u)
	}
	stop()
	t.Logf("%d upgrades in %v: %v", upgrades, time.Since(began).Round(time.Second), counts)

	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	for h := range habits {
		if h != silent && counts.requests[h].Load() == 0 {
			t.Errorf("%v clients: no requests", h)
		}
	}
	// Somebody who speaks every 20 ms is never idle for the whole grace.
	for _, h := range []habit{backToBack, pausing} {
		if n := counts.idleClosed[h].Load(); n != 0 {
			t.Errorf("%v clients: %d connections closed while idle, want none", h, n)
		}
	}
	checkSilences(t, counts.Silences(), handoffs)
}

// checkSilences checks that each silent connection that was there at a handoff was closed in order, in time.
func checkSilences(t *testing.T, all []silence, handoffs []*upgraded) {
	t.Helper()
	endings := make(map[ending]int)
	for _, s := range all {
		endings[s.ending]++
	}
	if wrong := len(all) - endings[fin] - endings[stillOn]; wrong > 0 {
		t.Errorf("silent connections: got endings %v, want FIN only, or still open at the end", endings)
	}
	for i, u := range handoffs {
		var held, late int
		var longest time.Duration
		for _, s := range all {
			if s.since.After(u.Asked) || s.until.Before(u.Asked) {
				continue
			}
			held++
			took := s.until.Sub(u.Handoff())
			longest = max(longest, took)
			if took > defaultGrace+slack {
				late++
			}
		}
		if late > 0 {
			t.Errorf("upgrade %d: %d of %d silent connections were open %v after the handoff, the longest for %v", i+1, late, held, defaultGrace+slack, longest)
		}
		if want := crowd[silent] + crowd[silentAfter]; held < want*9/10 {
			t.Errorf("upgrade %d: %d silent connections were there, want about %d", i+1, held, want)
		}
	}
	if endings[fin] == 0 {
		t.Error("no silent connection was closed")
	}
}
