// The main promise for what does not move to the successor: connections over TLS and of HTTP/2 are told to go,
// and nothing is lost with them.
package e2e

import (
	"testing"
	"time"
)

// everything serves files, and an echo backend below /echo/.
func everything(t testing.TB) option {
	handler, echoes := files(t), proxied(t)
	return func(s *setup) {
		handler(s)
		echoes(s)
		s.args[len(s.args)-1] = "/echo" + s.args[len(s.args)-1]
	}
}

func everyExchange() []exchange { return append(fileExchanges(), echoExchanges("/echo")...) }

func TestUpgradesUnderLoadOfEveryProtocol(t *testing.T) {
	t.Parallel()
	// Silent connections of HTTP/1.1 over TLS stay for the whole grace, and so are not among the clients.
	const grace = 20 * time.Second
	serve, secure := secured(t)
	b := start(t, everything(t), serve, listen("HOST:PORT", "tls:HOST:PORT"), patient(), args("-idle-grace", grace.String()))
	plain := load{network: "tcp", address: b.Address, exchanges: everyExchange(), clients: [habits]int{
		backToBack: 1, pausing: 8, perRequest: 1, perRequestEnd: 1, silent: 8, silentAfter: 8, streams: 2, streamsPausing: 8, streamsSilent: 16}}
	over := plain
	_, over.address = split(b.setup.listen[1])
	over.tls = secure.config
	over.clients[silent], over.clients[silentAfter] = 0, 0
	if !race { // with the race detector their handshakes are too much for two processors
		over.clients[backToBack], over.clients[pausing] = crowd[backToBack], crowd[pausing]
		over.clients[perRequest], over.clients[perRequestEnd] = crowd[perRequest], crowd[perRequestEnd]
	}
	plainCounts, stopPlain := startLoad(t, plain)
	overCounts, stopOver := startLoad(t, over)
	awaitCrowd(t, plainCounts, plain.clients)
	awaitCrowd(t, overCounts, over.clients)
	moved := 0
	all := upgradeAgainAndAgain(t, b, plainCounts, 20, 0, grace*9/10, overCounts)
	told := clientsOf(plain.clients, http2Habits...) + clientsOf(over.clients, append(http2Habits, backToBack, pausing)...)
	for i, u := range all {
		moved += u.Predecessor.Moved
		if want := clientsOf(plain.clients, keeping...); u.Predecessor.Moved < want {
			t.Errorf("upgrade %d: got %d connections moved, want %d or more", i+1, u.Predecessor.Moved, want)
		}
		if c := u.Predecessor.Connections; c.Cut+c.Grace+c.Timeout+c.Error > 0 || c.Announced < told {
			t.Errorf("upgrade %d: got connections closed %+v, want none in disorder, and %d told or more", i+1, c, told)
		}
	}
	stopPlain()
	stopOver()
	t.Log("plaintext: ", plainCounts)
	t.Log("TLS: ", overCounts)

	checkKept(t, plainCounts, plain.clients)
	checkMigrated(t, b, moved)
	for _, counts := range []*tally{plainCounts, overCounts} {
		checkNothingLost(t, counts)
		checkWarned(t, counts, len(all))
	}
	for _, h := range []habit{backToBack, pausing} {
		if got, want := overCounts.reconnects[h].Load(), int64(len(all)*over.clients[h]); got < want || overCounts.idleClosed[h].Load() != 0 {
			t.Errorf("%v clients over TLS: got %d reconnects after an announcement, %d connections closed while idle, want %d or more, and none",
				h, got, overCounts.idleClosed[h].Load(), want)
		}
	}
}

// checkWarned checks that every connection of HTTP/2 was told to go in each upgrade, and before a last stream was
// named, so that none had to be refused; and that those who said nothing had the time to hear it.
func checkWarned(t *testing.T, counts *tally, upgrades int) {
	t.Helper()
	if n := counts.Refused(); n != 0 {
		t.Errorf("%d streams refused, want none", n)
	}
	if n := counts.oneStep.Load(); n != 0 {
		t.Errorf("%d connections were told of a last stream without a warning", n)
	}
	for _, h := range http2Habits {
		if got, want := counts.reconnects[h].Load(), int64(upgrades*counts.clients[h]); got < want {
			t.Errorf("%v clients: got %d reconnects after a GOAWAY, want one by each in each upgrade: %d or more", h, got, want)
		}
	}
	ended := 0
	for _, s := range counts.Silences() {
		if s.habit != streamsSilent || s.ending == stillOn {
			continue
		}
		ended++
		if heard := s.until.Sub(s.told); heard < 500*time.Millisecond {
			t.Errorf("a silent connection was closed %v after the GOAWAY, want about a second", heard)
		}
	}
	if want := upgrades * counts.clients[streamsSilent]; ended < want {
		t.Errorf("silent connections that the server has ended: got %d, want %d or more", ended, want)
	}
}

// Silent connections over TLS are closed in order after the grace, as those that do not move are without it.
func TestSilentConnectionsOverTLS(t *testing.T) {
	t.Parallel()
	serve, secure := secured(t)
	b := start(t, files(t), serve)
	crowd := [habits]int{pausing: 8, silent: 20, silentAfter: 20}
	counts, stop := startLoad(t, load{network: b.Network, address: b.Address, tls: secure.config,
		grace: b.grace(), exchanges: fileExchanges(), clients: crowd})
	awaitCrowd(t, counts, crowd)
	const upgrades = 3
	want := clientsOf(crowd, silent, silentAfter)
	for i := range upgrades {
		await(t, 20*time.Second, "all connections", func() bool {
			c := b.Status().Generations[0].Connections
			return counts.requests[silentAfter].Load() >= int64((i+1)*crowd[silentAfter]) && c.New >= crowd[silent] && c.New+c.Idle+c.Active >= clientsOf(crowd, silent, silentAfter, pausing)
		})
		u := b.Upgrade()
		if c := u.Predecessor.Connections; c.Cut+c.Timeout+c.Error > 0 || c.Grace < want || u.Predecessor.Moved != 0 {
			t.Errorf("upgrade %d: got %d connections moved, closed %+v, want none moved, none in disorder, and %d after the grace",
				i+1, u.Predecessor.Moved, c, want)
		}
		if took := u.Predecessor.DrainSeconds; took < defaultGrace.Seconds() || took > (defaultGrace+2*slack).Seconds() {
			t.Errorf("upgrade %d: drained in %.1f s, want the grace and little more", i+1, took)
		}
	}
	await(t, 20*time.Second, "ends of silent connections", func() bool { return len(counts.Silences()) >= upgrades*want })
	stop()
	t.Log(counts)
	checkNothingLost(t, counts)
	endings := make(map[ending]int)
	for _, s := range counts.Silences() {
		endings[s.ending]++
	}
	if endings[fin] < upgrades*want || endings[fin]+endings[stillOn] != len(counts.Silences()) {
		t.Errorf("silent connections: got endings %v, want %d by FIN or more, and the others still open at the end", endings, upgrades*want)
	}
}
