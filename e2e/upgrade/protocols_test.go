package upgrade

import (
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The main promise for what does not move to the successor: connections over TLS and of HTTP/2 are sent
// `Connection: close` or GOAWAY, and nothing is lost with them.

// everything serves files, and an echo backend below /echo/.
func everything(t testing.TB) service.Option {
	handler, echoes := service.Files(t), service.Proxied(t)
	return func(s *service.Setup) {
		handler(s)
		echoes(s)
		s.Args[len(s.Args)-1] = "/echo" + s.Args[len(s.Args)-1]
	}
}

func everyExchange() []exchange.Exchange { return append(exchange.Files(), exchange.Echo("/echo")...) }

// Without migration connections of HTTP/2 end with two GOAWAYs, and those over TLS with an answer: nothing is lost, and
// nothing refused. package migrate has the same load with migration.
func TestUpgradesUnderLoadOfEveryProtocolWithoutMigration(t *testing.T) {
	tier.Slow(t, "waits for connections that are sent a GOAWAY")
	t.Parallel()
	// Idle connections of HTTP/1.1 stay for the whole grace, and so are not among the clients.
	const grace = 20 * time.Second
	serve, secure := service.Secured(t)
	b := service.Start(t, everything(t), serve, service.Listen("HOST:PORT", "tls:HOST:PORT"), service.Patient(), service.Args("-migrate=false", "-idle-grace", grace.String()))
	plain := load.Load{Network: "tcp", Address: b.Address, Exchanges: everyExchange(), Clients: [load.Habits]int{
		load.PerRequest: 1, load.PerRequestEnd: 1, load.Streams: 2, load.StreamsPausing: 4, load.StreamsSilent: 8}}.Paced()
	over := plain
	_, over.Address = service.SplitAddress(b.Setup.Listen[1])
	over.TLS = secure.Config
	over.Clients[load.BackToBack], over.Clients[load.Pausing] = 2, 4
	plainCounts, stopPlain := load.Start(t, plain)
	overCounts, stopOver := load.Start(t, over)
	load.AwaitCrowd(t, plainCounts, plain.Clients)
	load.AwaitCrowd(t, overCounts, over.Clients)
	all := upgradeAgainAndAgain(t, b, plainCounts, tier.Times(t, "upgrades", 0, 2, 5), 0, grace*9/10, overCounts)
	told := load.ClientsOf(plain.Clients, load.HTTP2Habits...) + load.ClientsOf(over.Clients, append(load.HTTP2Habits, load.BackToBack, load.Pausing)...)
	for i, u := range all {
		if c := u.Predecessor.Connections; u.Predecessor.Moved > 0 || c.Cut+c.Grace+c.Timeout+c.Error > 0 || c.Announced < told {
			t.Errorf("upgrade %d: %d connections migrated, got %+v closed, want none, none in disorder, and %d told or more", i+1, u.Predecessor.Moved, c, told)
		}
	}
	stopPlain()
	stopOver()
	t.Log("plaintext: ", plainCounts)
	t.Log("TLS: ", overCounts)

	for _, counts := range []*load.Tally{plainCounts, overCounts} {
		load.CheckNothingLost(t, counts)
		checkWarned(t, counts, len(all))
	}
	for _, h := range []load.Habit{load.BackToBack, load.Pausing} {
		if got, want := overCounts.Reconnects[h].Load(), int64(len(all)*over.Clients[h]); got < want || overCounts.IdleClosed[h].Load() != 0 {
			t.Errorf("%v clients over TLS: got %d reconnects after an announcement, %d connections closed while idle, want %d or more, and none",
				h, got, overCounts.IdleClosed[h].Load(), want)
		}
	}
}

// checkWarned checks that every connection of HTTP/2 was sent GOAWAY in each upgrade, and before a last stream was
// named, so that none had to be refused; and that those who said nothing had the time to hear it.
func checkWarned(t *testing.T, counts *load.Tally, upgrades int) {
	t.Helper()
	if n := counts.Refused(); n != 0 {
		t.Errorf("%d streams refused, want none", n)
	}
	if n := counts.OneStep.Load(); n != 0 {
		t.Errorf("%d connections were sent a last stream without a warning", n)
	}
	for _, h := range load.HTTP2Habits {
		if got, want := counts.Reconnects[h].Load(), int64(upgrades*counts.Clients[h]); got < want {
			t.Errorf("%v clients: got %d reconnects after a GOAWAY, want one by each in each upgrade: %d or more", h, got, want)
		}
	}
	ended := 0
	for _, s := range counts.Silences() {
		if s.Habit != load.StreamsSilent || s.Ending == http1.StillOn {
			continue
		}
		ended++
		if heard := s.Until.Sub(s.Told); heard < 500*time.Millisecond {
			t.Errorf("an idle connection was closed %v after the GOAWAY, want about a second", heard)
		}
	}
	if want := upgrades * counts.Clients[load.StreamsSilent]; ended < want {
		t.Errorf("idle connections that the server has ended: got %d, want %d or more", ended, want)
	}
}

// Without migration idle connections over TLS are closed in order after the grace, as those without it.
func TestSilentConnectionsOverTLSWithoutMigration(t *testing.T) {
	tier.Slow(t, "waits for the grace of connections")
	t.Parallel()
	serve, secure := service.Secured(t)
	b := service.Start(t, service.Files(t), serve, service.Args("-migrate=false"))
	crowd := [load.Habits]int{load.Pausing: 8, load.Silent: 20, load.SilentAfter: 20}
	counts, stop := load.Start(t, load.Load{Network: b.Network, Address: b.Address, TLS: secure.Config,
		Grace: b.Grace(), Exchanges: exchange.Files(), Clients: crowd})
	load.AwaitCrowd(t, counts, crowd)
	const upgrades = 3
	want := load.ClientsOf(crowd, load.Silent, load.SilentAfter)
	for i := range upgrades {
		await.Until(t, "all connections", func() bool {
			c := b.Status().Generations[0].Connections
			return counts.Answered[load.SilentAfter].Load() >= int64((i+1)*crowd[load.SilentAfter]) && c.New >= crowd[load.Silent] && c.New+c.Idle+c.Active >= load.ClientsOf(crowd, load.Silent, load.SilentAfter, load.Pausing)
		})
		u := b.Upgrade()
		if c := u.Predecessor.Connections; c.Cut+c.Timeout+c.Error > 0 || c.Grace < want || u.Predecessor.Moved != 0 {
			t.Errorf("upgrade %d: got %d connections moved, closed %+v, want none moved, none in disorder, and %d after the grace",
				i+1, u.Predecessor.Moved, c, want)
		}
		if took := u.Predecessor.DrainSeconds; took < service.DefaultGrace.Seconds() || took > (service.DefaultGrace+2*service.Slack).Seconds() {
			t.Errorf("upgrade %d: drained in %.1f s, want the grace and little more", i+1, took)
		}
	}
	await.Until(t, "ends of idle connections", func() bool { return len(counts.Silences()) >= upgrades*want })
	stop()
	t.Log(counts)
	load.CheckNothingLost(t, counts)
	endings := make(map[http1.Ending]int)
	for _, s := range counts.Silences() {
		endings[s.Ending]++
	}
	if endings[http1.Fin] < upgrades*want || endings[http1.Fin]+endings[http1.StillOn] != len(counts.Silences()) {
		t.Errorf("idle connections: got endings %v, want %d by FIN or more, and the others still open at the end", endings, upgrades*want)
	}
}
