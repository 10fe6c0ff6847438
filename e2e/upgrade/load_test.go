package upgrade

import (
	"slices"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The main promise: through upgrades under load, clients that never retry lose nothing, not even their connections.

// world is one combination of listener and handler that the promise has to hold for.
type world struct {
	name      string
	listen    []string
	handler   func(testing.TB) service.Option
	exchanges []exchange.Exchange
	upgrades  int
}

func worlds() []world {
	return []world{
		{"tcp+files", nil, service.Files, exchange.Files(), 20},
		{"tcp+proxy", nil, service.Proxied, exchange.Echo(""), 10},
		{"unix+files", []string{"unix:DIR/public.sock"}, service.Files, exchange.Files(), 10},
		{"unix+proxy", []string{"unix:DIR/public.sock"}, service.Proxied, exchange.Echo(""), 10},
	}
}

// crowd is the load of the main promise.
var crowd = [load.Habits]int{load.BackToBack: 8, load.Pausing: 64, load.PerRequest: 2, load.PerRequestEnd: 2, load.Silent: 100, load.SilentAfter: 100}

func TestUpgradesUnderLoad(t *testing.T) {
	for _, w := range worlds() {
		t.Run(w.name, func(t *testing.T) {
			if w.listen != nil {
				tier.Slow(t, "the same on another network")
			}
			upgrades := *tier.Soak // with -run UnderLoad$ -soak=1000, 1,000 in each world
			if upgrades == 0 {
				upgrades = tier.Times(t, "upgrades", 2, w.upgrades*2/5, w.upgrades)
			}
			upgradeUnderLoad(t, w, upgrades)
		})
	}
}

// upgradeUnderLoad checks that each client ends on the connection that it began with, and has lost no request.
func upgradeUnderLoad(t *testing.T, w world, upgrades int) {
	const grace = time.Minute // for which nobody waits
	b := service.Start(t, service.Listen(w.listen...), w.handler(t), service.Patient(), service.Args("-idle-grace", grace.String()))
	counts, stop := load.Start(t, load.Load{Network: b.Network, Address: b.Address, Exchanges: w.exchanges, Clients: crowd, LastWords: true}.Paced())
	load.AwaitCrowd(t, counts, crowd)
	moved := 0
	all := upgradeAgainAndAgain(t, b, counts, upgrades, 0, grace*9/10)
	for i, u := range all {
		moved += u.Predecessor.Moved
		c := u.Predecessor.Connections
		if want := load.ClientsOf(crowd, load.Keeping...); c.Announced+c.Grace+c.Cut+c.Timeout+c.Error > 0 || u.Predecessor.Moved < want {
			t.Errorf("upgrade %d: got %d connections moved, closed %+v, want %d moved or more, none closed but by clients",
				i+1, u.Predecessor.Moved, c, want)
		}
	}
	stop()
	t.Log(counts)

	load.CheckNothingLost(t, counts)
	load.CheckKept(t, counts, crowd)
	// Each of the idle ones has said something at the very end.
	if n := counts.Answered[load.Silent].Load(); n != int64(crowd[load.Silent]) {
		t.Errorf("idle connections that answer at last: got %d, want %d", n, crowd[load.Silent])
	}
	service.CheckMigrated(t, b, moved)
}

// The promise without migration: no request is lost, and idle connections are closed in order.
func TestUpgradesUnderLoadWithoutMigration(t *testing.T) {
	tier.Slow(t, "waits for the grace of connections")
	upgrades := tier.Times(t, "upgrades", 0, 3, 6)
	w := worlds()[1]
	crowd := crowd
	crowd[load.Silent], crowd[load.SilentAfter] = 25, 25
	b := service.Start(t, service.Listen(w.listen...), w.handler(t), service.Args("-migrate=false"))
	counts, stop := load.Start(t, load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: w.exchanges, Clients: crowd, Pause: 50 * time.Millisecond}.Paced())
	load.AwaitCrowd(t, counts, crowd)
	all := upgradeAgainAndAgain(t, b, counts, upgrades, 500*time.Millisecond, service.DefaultGrace+service.Slack)
	stop()
	t.Log(counts)

	for i, u := range all {
		if u.Predecessor.Connections.Cut != 0 || u.Predecessor.Moved != 0 {
			t.Errorf("upgrade %d: got %+v, want nothing closed forcibly, nothing moved", i+1, u.Predecessor)
		}
	}
	load.CheckNothingLost(t, counts)
	// Somebody who speaks every 50 ms is never idle for the whole grace.
	for _, h := range []load.Habit{load.BackToBack, load.Pausing} {
		if n := counts.IdleClosed[h].Load(); n != 0 {
			t.Errorf("%v clients: %d connections closed while idle, want none", h, n)
		}
	}
	checkSilences(t, counts.Silences(), all, crowd[load.Silent]+crowd[load.SilentAfter])
}

// upgradeAgainAndAgain upgrades from one version to another and back, and checks each upgrade: the right one serves, and
// the predecessor is gone in time. Between two of them there is a distance, and requests of each load are answered.
func upgradeAgainAndAgain(t *testing.T, b *service.Baton, counts *load.Tally, upgrades int, distance, gone time.Duration, beside ...*load.Tally) (all []*service.Upgraded) {
	t.Helper()
	versions := []string{"v2", "v1"}
	deploy := b.Releases(versions...) // built before the clock runs
	began := time.Now()
	const work = 40 // requests between two upgrades
	var readies, ends, commands []time.Duration
	loads := append([]*load.Tally{counts}, beside...)
	refused := make([][]int64, len(loads)) // in each upgrade
	for i := range upgrades {
		var before, refusedBefore []int64
		for _, counts := range loads {
			before, refusedBefore = append(before, counts.Requests()), append(refusedBefore, counts.Refused())
		}
		tick := time.After(distance)
		deploy(versions[i%2])
		<-tick // the distance between upgrades belongs to the case
		for j, counts := range loads {
			silent := int64(load.ClientsOf(counts.Clients, load.Silent, load.SilentAfter))
			if !await.Holds(await.Hang, func() bool { return counts.Requests() >= before[j]+work && counts.Listening.Load() >= silent }) {
				t.Fatalf("before upgrade %d: %d requests and %d idle connections within %v, want %d and %d at least\n%v",
					i+1, counts.Requests()-before[j], counts.Listening.Load(), await.Hang, work, silent, counts)
			}
		}
		predecessor := b.Follow(b.PID())
		u := b.Upgrade()
		if want := i + 2; u.Generation != want || u.PID != b.PID() || u.Version != versions[i%2] {
			t.Fatalf("upgrade %d: got generation %d, pid %d, version %s, PID file %d", i+1, u.Generation, u.PID, u.Version, b.PID())
		}
		if !predecessor.Within(await.Hang) {
			t.Fatalf("upgrade %d: predecessor alive %v after its drain", i+1, await.Hang)
		}
		took := predecessor.Exited.Sub(u.Handoff())
		if took > gone {
			t.Errorf("upgrade %d: predecessor gone %v after the handoff, want %v at most", i+1, took, gone)
		}
		readies = append(readies, u.Handoff().Sub(u.Asked))
		ends = append(ends, took)
		commands = append(commands, u.Returned.Sub(u.Asked))
		for j, counts := range loads {
			refused[j] = append(refused[j], counts.Refused()-refusedBefore[j])
		}
		all = append(all, u)
	}
	for j, counts := range loads {
		if load.ClientsOf(counts.Clients, load.HTTP2Habits...) > 0 {
			t.Logf("streams refused in each upgrade: %v", refused[j])
		}
	}
	t.Logf("%d upgrades in %v; in the middle ready after %v, predecessor gone %v later, all told after %v; gone after %v at most", upgrades,
		time.Since(began).Round(time.Second), load.Median(readies), load.Median(ends), load.Median(commands), slices.Max(ends))
	return all
}

// checkSilences checks that each of the idle connections that were there at a handoff was closed in order, in time.
func checkSilences(t *testing.T, all []load.Silence, handoffs []*service.Upgraded, want int) {
	t.Helper()
	endings := make(map[http1.Ending]int)
	for _, s := range all {
		endings[s.Ending]++
	}
	if wrong := len(all) - endings[http1.Fin] - endings[http1.StillOn]; wrong > 0 {
		t.Errorf("idle connections: got endings %v, want FIN only, or still open at the end", endings)
	}
	for i, u := range handoffs {
		var held, late int
		var longest time.Duration
		for _, s := range all {
			if s.Since.After(u.Asked) || s.Until.Before(u.Asked) {
				continue
			}
			held++
			took := s.Until.Sub(u.Handoff())
			longest = max(longest, took)
			if took > service.DefaultGrace+service.Slack {
				late++
			}
		}
		if late > 0 {
			t.Errorf("upgrade %d: %d of %d idle connections were open %v after the handoff, the longest for %v", i+1, late, held, service.DefaultGrace+service.Slack, longest)
		}
		if held < want {
			t.Errorf("upgrade %d: %d idle connections were there, want %d at least", i+1, held, want)
		}
	}
	if endings[http1.Fin] == 0 {
		t.Error("no idle connection was closed")
	}
}
