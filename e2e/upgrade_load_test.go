// The main promise: through upgrades under load, clients that never retry lose nothing, not even their connections.
package e2e

import (
	"cmp"
	"os"
	"slices"
	"testing"
	"time"
)

const (
	// defaultGrace is how long a silent connection that cannot move lives in a drain unless -idle-grace says otherwise.
	defaultGrace = time.Second
	// slack is what a predecessor may take over the time that it needs, on a machine under full load.
	slack = time.Second
)

// world is one combination of listener and handler that the promise has to hold for.
type world struct {
	name      string
	listen    []string
	handler   func(testing.TB) option
	exchanges []exchange
	upgrades  int
}

func worlds() []world {
	return []world{
		{"tcp+files", nil, files, fileExchanges(), 100},
		{"tcp+proxy", nil, proxied, echoExchanges(""), 10},
		{"unix+files", []string{"unix:DIR/public.sock"}, files, fileExchanges(), 10},
		{"unix+proxy", []string{"unix:DIR/public.sock"}, proxied, echoExchanges(""), 10},
	}
}

// crowd is the load of the main promise.
var crowd = [habits]int{backToBack: 8, pausing: 64, perRequest: 2, perRequestEnd: 2, silent: 100, silentAfter: 100}

// keeping are the habits of clients that keep their connection for as long as they may.
var keeping = []habit{backToBack, pausing, silent, silentAfter}

// http2Habits are those of clients of HTTP/2, who are told to go.
var http2Habits = []habit{streams, streamsPausing, streamsSilent}

// patient lets silent connections live longer than any test.
func patient() option { return args("-idle-timeout", "1h", "-read-header-timeout", "1h") }

func TestUpgradesUnderLoad(t *testing.T) {
	for _, w := range worlds() {
		t.Run(w.name, func(t *testing.T) { upgradeUnderLoad(t, w, w.upgrades) })
	}
}

func TestSoak(t *testing.T) {
	upgrades := *soak
	if upgrades == 0 && os.Getenv("BATON_STRICT") == "1" {
		upgrades = 2 // enough to see that it works
	} else if upgrades == 0 {
		t.Skip("long: go test ./e2e -run Soak -soak=1000 makes 1,000 upgrades under load in each world")
	}
	for _, w := range worlds() {
		t.Run(w.name, func(t *testing.T) { upgradeUnderLoad(t, w, upgrades) })
	}
}

// upgradeUnderLoad checks that each client ends on the connection that it began with, and has lost no request.
func upgradeUnderLoad(t *testing.T, w world, upgrades int) {
	const grace = 20 * time.Second // for which nobody waits
	b := start(t, listen(w.listen...), w.handler(t), patient(), args("-idle-grace", grace.String()))
	counts, stop := startLoad(t, load{network: b.Network, address: b.Address, exchanges: w.exchanges, clients: crowd, lastWords: true})
	awaitCrowd(t, counts, crowd)
	moved := 0
	all := upgradeAgainAndAgain(t, b, counts, upgrades, 0, grace/4)
	for i, u := range all {
		moved += u.Predecessor.Moved
		c := u.Predecessor.Connections
		if want := clientsOf(crowd, keeping...); c.Announced+c.Grace+c.Cut+c.Timeout+c.Error > 0 || u.Predecessor.Moved < want {
			t.Errorf("upgrade %d: got %d connections moved, closed %+v, want %d moved or more, none closed but by clients",
				i+1, u.Predecessor.Moved, c, want)
		}
	}
	stop()
	t.Log(counts)

	checkNothingLost(t, counts)
	checkKept(t, counts, crowd)
	// Each of the silent ones has said something at the very end.
	if n := counts.requests[silent].Load(); n != int64(crowd[silent]) {
		t.Errorf("silent connections that answer at last: got %d, want %d", n, crowd[silent])
	}
	checkMigrated(t, b, moved)
}

// The promise without migration: no request is lost, and silent connections are closed in order.
func TestUpgradesUnderLoadWithoutMigration(t *testing.T) {
	w := worlds()[1]
	crowd := crowd
	crowd[silent], crowd[silentAfter] = 25, 25
	b := start(t, listen(w.listen...), w.handler(t), args("-migrate=false"))
	counts, stop := startLoad(t, load{network: b.Network, address: b.Address, grace: b.grace(), exchanges: w.exchanges, clients: crowd})
	awaitCrowd(t, counts, crowd)
	all := upgradeAgainAndAgain(t, b, counts, 10, 500*time.Millisecond, defaultGrace+slack)
	stop()
	t.Log(counts)

	for i, u := range all {
		if u.Predecessor.Connections.Cut != 0 || u.Predecessor.Moved != 0 {
			t.Errorf("upgrade %d: got %+v, want nothing cut, nothing moved", i+1, u.Predecessor)
		}
	}
	checkNothingLost(t, counts)
	// Somebody who speaks every 20 ms is never idle for the whole grace.
	for _, h := range []habit{backToBack, pausing} {
		if n := counts.idleClosed[h].Load(); n != 0 {
			t.Errorf("%v clients: %d connections closed while idle, want none", h, n)
		}
	}
	checkSilences(t, counts.Silences(), all, crowd[silent]+crowd[silentAfter])
}

// clientsOf counts the clients of some habits.
func clientsOf(clients [habits]int, some ...habit) (n int) {
	for _, h := range some {
		n += clients[h]
	}
	return n
}

// awaitCrowd waits until every client has its connection, and all but the silent ones have been answered.
func awaitCrowd(t *testing.T, counts *tally, clients [habits]int) {
	t.Helper()
	await(t, 20*time.Second, "requests of every client", func() bool {
		return counts.requests[pausing].Load() > int64(clients[pausing]) &&
			counts.requests[silentAfter].Load() == int64(clients[silentAfter]) &&
			counts.connections[silent].Load() == int64(clients[silent]) &&
			counts.requests[streams].Load() >= int64(clients[streams]) &&
			counts.requests[streamsPausing].Load() >= int64(clients[streamsPausing]) &&
			counts.connections[streamsSilent].Load() == int64(clients[streamsSilent])
	})
}

// upgradeAgainAndAgain upgrades from one version to another and back, and checks each upgrade: the right one serves, and
// the predecessor is gone in time. Between two of them there is a distance, and requests of each load are answered.
func upgradeAgainAndAgain(t *testing.T, b *Baton, counts *tally, upgrades int, distance, gone time.Duration, beside ...*tally) (all []*upgraded) {
	t.Helper()
	versions := []string{"v2", "v1"}
	deploy := b.releases(versions...) // built before the clock runs
	began := time.Now()
	const work = 40 // requests between two upgrades
	var readies, ends, commands []time.Duration
	loads := append([]*tally{counts}, beside...)
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
			if !holds(10*time.Second, func() bool { return counts.Requests() >= before[j]+work }) {
				t.Fatalf("before upgrade %d: %d requests in 10 s, want %d at least\n%v", i+1, counts.Requests()-before[j], work, counts)
			}
		}
		predecessor := b.follow(b.PID())
		u := b.Upgrade()
		if want := i + 2; u.Generation != want || u.PID != b.PID() || u.Version != versions[i%2] {
			t.Fatalf("upgrade %d: got generation %d, pid %d, version %s, PID file %d", i+1, u.Generation, u.PID, u.Version, b.PID())
		}
		if !predecessor.within(5 * time.Second) {
			t.Fatalf("upgrade %d: predecessor alive 5 s after its drain", i+1)
		}
		took := predecessor.exited.Sub(u.Handoff())
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
		if clientsOf(counts.clients, http2Habits...) > 0 {
			t.Logf("streams refused in each upgrade: %v", refused[j])
		}
	}
	t.Logf("%d upgrades in %v; in the middle ready after %v, predecessor gone %v later, all told after %v; gone after %v at most", upgrades,
		time.Since(began).Round(time.Second), middle(readies), middle(ends), middle(commands), slices.Max(ends))
	return all
}

// middle returns the median.
func middle[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// checkNothingLost checks that every client that speaks was answered, always.
func checkNothingLost(t *testing.T, counts *tally) {
	t.Helper()
	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	for h := range habits {
		if h != silent && counts.clients[h] > 0 && counts.requests[h].Load() == 0 {
			t.Errorf("%v clients: no requests", h)
		}
	}
}

// checkKept checks that each client that keeps its connection has the one that it began with.
func checkKept(t *testing.T, counts *tally, clients [habits]int) {
	t.Helper()
	for _, h := range keeping {
		if n := counts.connections[h].Load(); n != int64(clients[h]) {
			t.Errorf("%v clients: got %d connections used by %d, want one by each", h, n, clients[h])
		}
		if n := counts.idleClosed[h].Load() + counts.reconnects[h].Load(); n != 0 {
			t.Errorf("%v clients: got %d connections closed by the server, want none", h, n)
		}
	}
}

// checkMigrated checks that all generations together count as many connections that left one as came to another.
func checkMigrated(t *testing.T, b *Baton, moved int) {
	t.Helper()
	out, in := b.Metric("baton_connections_migrated_total", "direction", "out"), b.Metric("baton_connections_migrated_total", "direction", "in")
	if out != float64(moved) || in != out {
		t.Errorf("baton_connections_migrated_total: got %v out, %v in, want %d each, as reported", out, in, moved)
	}
}

// checkSilences checks that each of the silent connections that were there at a handoff was closed in order, in time.
func checkSilences(t *testing.T, all []silence, handoffs []*upgraded, want int) {
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
		if held < want*9/10 {
			t.Errorf("upgrade %d: %d silent connections were there, want about %d", i+1, held, want)
		}
	}
	if endings[fin] == 0 {
		t.Error("no silent connection was closed")
	}
}
