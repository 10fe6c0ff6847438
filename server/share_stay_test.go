package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// share begins to share the connections of the first.
func (m *movers) share(share float64) {
	m.first.Share(upgrade.Handoff{Kept: all, Migrate: m.move, States: !m.stateless}, share)
}

// With little traffic the first connection counts.
func TestFirstConnectionIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first")}, server.Options{})
		m.share(0.1)
		m.first.dial().isFrom("second")
		for range 9 {
			m.first.dial().isFrom("first")
		}
		for range 90 {
			m.first.dial().get("/")
		}
		synctest.Wait()
		if _, out := m.first.Migrated(); out < 9 || out > 11 {
			t.Errorf("%d of 100 connections have migrated, want about 10", out)
		}
		m.share(0)
		m.first.dial().isFrom("first")
		m.first.Reclaim()
		<-m.first.drain(patience, all)
		m.end()
	})
}

// A connection that the successor returns or refuses is not offered again in the same session.
func TestReturnedConnectionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first"), IdleGrace: time.Minute}, server.Options{})
		refused := m.first.dial()
		refused.isFrom("first")
		m.gate = func(context.Context, []upgrade.Connection) []bool { return nil }
		m.share(1)
		synctest.Wait()
		m.first.Reclaim()
		returned := m.first.dial()
		returned.isFrom("first")
		m.share(1)
		synctest.Wait()
		m.gate = nil
		for _, c := range []*client{refused, returned} {
			c.isFrom("first") // offered once
		}
		m.share(1)
		synctest.Wait()
		back := &movers{first: m.second, second: m.first}
		if d := <-back.handOff(patience); d.Migrated != 2 {
			t.Errorf("got %+v, want both returned", d)
		}
		offered := m.offered.Load()
		for range 3 {
			refused.isFrom("first")
			returned.isFrom("first")
		}
		if n := m.offered.Load(); n != offered {
			t.Errorf("%d were offered again", n-offered)
		}
		m.second = serveOn(t, memory(), server.Options{Handler: names("second")})
		if d := <-m.handOff(patience); d.Migrated != 4 { // since Share was called after Reclaim
			t.Errorf("got %+v", d)
		}
		refused.isFrom("second")
		m.end()
	})
}

// A connection of HTTP/2 that is always busy is neither ended nor held up for long.
func TestBusyHTTP2IsNotEndedInAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c, g := busyHTTP2(t, 100*time.Millisecond)
		m.share(1)
		var held time.Duration
		stream := uint32(7)
		for range 100 {
			c.request(stream, "/slow") // another one that stays
			time.Sleep(300 * time.Millisecond)
			<-g.entered
			name, took := c.ask(stream + 2)
			if held += took; name != "first" {
				t.Errorf("got %s, while a stream is open", name)
			}
			stream += 4
		}
		if held > 300*time.Millisecond {
			t.Errorf("requests were held for %v", held)
		}
		if len(c.goAways) > 0 || len(c.pings) > 0 {
			t.Errorf("got GOAWAY for the streams %d, and %d PINGs", c.goAways, len(c.pings))
		}
		close(g.open)
		c.gets(5, "slow")
		time.Sleep(time.Second)
		if name, _ := c.ask(stream); name != "second" {
			t.Errorf("at rest: got %s, want the successor", name)
		}
		<-m.handOff(patience)
		m.end()
	})
}

// What cannot migrate goes on as usual when all is shared: TLS 1.2, and clients that pipeline.
func TestWhatCannotMigrateGoesOn(t *testing.T) {
	t.Parallel()
	first := serveTLS(t, server.Options{Handler: names("first")})
	second := serveTLS(t, server.Options{Handler: names("second")})
	config := first.signed.Client()
	config.NextProtos, config.MaxVersion = nil, tls.VersionTLS12
	old := first.dial().shake(config)
	old.isFrom("first")
	first.Share(handoff(second.served), 1)
	for range 100 {
		old.isFrom("first")
	}
	first.Reclaim()
	old.isFrom("first")
	<-first.drain(patience, all)
	<-second.drain(patience, all)
}

// A tunnel stays until the drain, and migrates then.
func TestTunnelStaysInAShare(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"plaintext": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			m, first, _, dial := newChats(t, secure)
			c := dial()
			c.send(chatRequest + "a\n")
			c.expectLine("first 1 a")
			m.share(1)
			for i := range 50 {
				c.send("b\n")
				c.expectLine("first " + strconv.Itoa(i+2) + " b")
			}
			m.first.Reclaim()
			m.share(0.5)
			c.send("b\n")
			c.expectLine("first 52 b")
			drained := m.handOff(patience)
			<-first.ended
			c.send("c\n")
			c.expectLine("second 53 c")
			if d := <-drained; d.Connections != (upgrade.Closed{}) {
				t.Errorf("got %+v, want nothing closed", d)
			}
		})
	}
}

// The admin server accepts in a trial, and pauses when the successor has taken over. Whoever asks
// has an answer at any time.
func TestPairShares(t *testing.T) {
	t.Parallel()
	generation := func(name string) *server.Pair {
		return &server.Pair{Public: server.New(server.Options{Handler: names(name)}), Admin: server.New(server.Options{Handler: names(name), IdleGrace: -1})}
	}
	p, next := generation("first"), generation("second")
	var addrs []net.Addr
	listeners := make(map[net.Listener]net.Listener) // of the successor, by those of the first
	for _, s := range [][2]*server.Server{{p.Public, next.Public}, {p.Admin, next.Admin}} {
		ln := listen(t)
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		twin, err := net.FileListener(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		s[0].Add(ln)
		s[1].Add(twin)
		addrs, listeners[ln] = append(addrs, ln.Addr()), twin
		listeners[twin] = ln
	}
	to := func(p *server.Pair) upgrade.Handoff {
		return upgrade.Handoff{Kept: all, States: true, Migrate: func(_ context.Context, conns []upgrade.Connection) []bool {
			for _, c := range conns {
				c.Conn, c.Listener = dup(t, c.Conn), listeners[c.Listener]
				p.Adopt(c)()
			}
			return everything(conns)
		}}
	}
	dial := func(addr net.Addr) *client {
		nc, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(hang))
		return &client{t, nc, bufio.NewReader(nc)}
	}
	p.Serve()
	public, admin := dial(addrs[0]), dial(addrs[1])
	public.isFrom("first")
	admin.isFrom("first")

	p.Share(to(next), 0.5) // a trial
	public.movesOn()
	admin.isFrom("first")
	dial(addrs[1]).isFrom("first")
	if o := next.Outcomes(); o.Started == 0 || o != next.Public.Outcomes() {
		t.Errorf("got %+v of the successor, want the requests of its public server", o)
	}

	next.Serve() // and the watch
	p.Share(to(next), 1)
	for _, addr := range addrs {
		dial(addr).isFrom("second")
	}
	admin.movesOn()

	p.Reclaim()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	next.Drain(ctx, to(p))
	for _, c := range []*client{public, admin, dial(addrs[0]), dial(addrs[1])} {
		c.isFrom("first")
	}
	p.Drain(ctx, upgrade.Handoff{Kept: all})
}
