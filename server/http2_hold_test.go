package server_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

// busyHTTP2 is a connection with a stream that is open until the gate is.
func busyHTTP2(t *testing.T, grace time.Duration) (m *movers, c *http2Client, g *gate) {
	g = newGate()
	g.after = "slow"
	m = memoryMovers(t, server.Options{Handler: slowOr(g, "first"), IdleGrace: grace}, server.Options{})
	m.first.Check(t.Context())
	c = m.first.dialHTTP2()
	c.rests("first")
	c.request(5, "/slow")
	<-g.entered
	return m, c, g
}

// ask makes a request, and returns who answers it, and when.
func (c *http2Client) ask(stream uint32) (name string, took time.Duration) {
	c.t.Helper()
	begin := time.Now()
	c.request(stream, "/")
	name, err := c.body(stream)
	if err != nil {
		c.t.Fatalf("stream %d: %v", stream, err)
	}
	return name, time.Since(begin)
}

// A request that comes while others complete migrates with the connection.
func TestHTTP2RequestsAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c, g := busyHTTP2(t, patience)
		drained := m.handOff(patience)
		m.first.awaitDraining()
		c.request(7, "/")
		c.open(9, "POST", "/", false)
		c.WriteData(9, false, make([]byte, 100))
		c.WritePing(false, [8]byte{1}) // passes
		c.await("the answer to a PING", func() bool { return c.acks == 1 })
		c.WriteData(9, true, make([]byte, 100))
		time.Sleep(40 * time.Millisecond)
		close(g.open)
		c.gets(5, "slow")
		c.gets(7, "second")
		c.gets(9, "second")
		if d := <-drained; d.Migrated != 1 || d.Requests != 1 {
			t.Errorf("got %+v, want the slow request finished and the connection migrated", d)
		}
		if name, _ := c.ask(11); name != "second" {
			t.Errorf("the next request: got %q", name)
		}
		m.end()
	})
}

// A client that says good-bye after its last request has the answer to that.
func TestHTTP2GoodByeAfterAHeldRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c, g := busyHTTP2(t, patience)
		drained := m.handOff(patience)
		m.first.awaitDraining()
		c.request(7, "/")
		synctest.Wait() // it is held
		c.WriteGoAway(0, http2.ErrCodeNo, nil)
		c.gets(7, "first")
		close(g.open)
		c.gets(5, "slow")
		c.closes()
		if got := c.goAways; len(got) != 1 || got[0] != 7 {
			t.Errorf("got GOAWAY for %d, want one for 7", got)
		}
		<-drained
		m.end()
	})
}

// A stream that stays open delays the requests of one moment, and no others.
func TestHTTP2LongStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c, g := busyHTTP2(t, 20*time.Second)
		drained := m.handOff(time.Minute)
		m.first.awaitDraining()
		stream, delayed := uint32(7), 0
		for begin := time.Now(); time.Since(begin) < 10*time.Second; stream += 2 {
			switch name, took := c.ask(stream); {
			case name != "first":
				t.Fatalf("stream %d is answered by %q", stream, name)
			case took == 50*time.Millisecond:
				delayed++
			case took != 0:
				t.Errorf("stream %d took %v, want 0 or 50 ms", stream, took)
			}
			time.Sleep(90 * time.Millisecond)
		}
		if delayed != 1 {
			t.Errorf("%d requests were delayed, want one", delayed)
		}
		close(g.open)
		c.gets(5, "slow")
		if d := <-drained; d.Migrated != 1 {
			t.Errorf("got %+v, want the connection migrated", d)
		}
		if name, took := c.ask(stream); name != "second" || took != 0 {
			t.Errorf("then got %q after %v", name, took)
		}
		m.end()
	})
}

// Once the idle grace is over, the client is sent the GOAWAYs.
func TestHTTP2ThatDoesNotComeToRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = 300 * time.Millisecond
		m, c, g := busyHTTP2(t, grace)
		begin := time.Now()
		drained := m.handOff(time.Minute)
		c.toldOnce()
		if took := time.Since(begin); took != grace {
			t.Errorf("told after %v, want the grace", took)
		}
		if name, took := c.ask(7); name != "first" || took != 0 {
			t.Errorf("a request after that: got %q after %v", name, took)
		}
		c.pong()
		c.toldTwice(7)
		close(g.open)
		c.gets(5, "slow")
		c.closes()
		if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v, want none migrated", d)
		}
		m.end()
	})
}

// More than may travel with a connection waits in the socket, and nothing of it is lost.
func TestHTTP2HoldIsBounded(t *testing.T) {
	for _, completes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m, c, g := busyHTTP2(t, patience)
			count := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, r.Body)
				if n != 160<<10 {
					t.Errorf("got %d bytes", n)
				}
				names("second").ServeHTTP(w, r)
			})
			<-m.second.drain(patience, all)
			m.second = serveOn(t, memory(), server.Options{Handler: count})
			drained := m.handOff(patience)
			m.first.awaitDraining()
			c.open(7, "POST", "/", false)
			for i := range 10 {
				c.WriteData(7, i == 9, make([]byte, 16<<10))
			}
			synctest.Wait()
			want := "first"
			if completes {
				close(g.open)
				want = "second"
			}
			c.gets(7, want)
			if !completes {
				close(g.open)
			}
			c.gets(5, "slow")
			if d := <-drained; d.Migrated != 1 {
				t.Errorf("got %+v, want the connection migrated", d)
			}
			m.end()
		})
	}
}

// What is held is served here, if the successor does not take the connection.
func TestHTTP2RefusedAfterAHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c, g := busyHTTP2(t, patience)
		m.gate = func(_ context.Context, conns []upgrade.Connection) []bool {
			time.Sleep(time.Second)
			return make([]bool, len(conns))
		}
		drained := m.handOff(time.Minute)
		m.first.awaitDraining()
		c.request(7, "/")
		close(g.open)
		c.gets(5, "slow")
		c.gets(7, "first")
		c.toldOnce()
		c.pong()
		c.toldTwice(7)
		c.closes()
		if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v, want none migrated", d)
		}
		m.end()
	})
}

// What is held when the idle grace ends is answered, however short that is.
func TestHTTP2HoldInAShortGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c, g := busyHTTP2(t, 20*time.Millisecond)
		drained := m.handOff(patience)
		m.first.awaitDraining()
		time.Sleep(10 * time.Millisecond)
		c.request(7, "/")
		c.gets(7, "first")
		c.toldTwice(7)
		close(g.open)
		c.gets(5, "slow")
		c.closes()
		<-drained
		m.end()
	})
}
