package server_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

func TestSilentConnectionsMoveAtOnce(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			m := newMovers(t, names("first"))
			if network == "unix" {
				ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
				if err != nil {
					t.Fatal(err)
				}
				<-m.first.drain(patience, all)
				m.first = serveOn(t, ln, server.Options{Handler: names("first")})
			}
			fresh, used := m.first.dial(), m.first.dial()
			used.isFrom("first")
			await(t, "both connections", func() bool { return m.first.Load().Connections == upgrade.Connections{New: 1, Idle: 1} })
			d := <-m.handOff(patience)
			if d.Migrated != 2 || d.Connections != (upgrade.Closed{}) {
				t.Errorf("got %+v, want 2 moved and none closed", d)
			}
			if got := m.second.Load().Connections; got != (upgrade.Connections{New: 1, Idle: 1}) {
				t.Errorf("the successor has %+v, want 1 new and 1 idle", got)
			}
			if in, out := m.second.Migrated(); in != 2 || out != 0 || m.second.Accepted() != 0 {
				t.Errorf("the successor counts %d in, %d out, %d accepted, want 2, 0, 0", in, out, m.second.Accepted())
			}
			if in, out := m.first.Migrated(); in != 0 || out != 2 {
				t.Errorf("the predecessor counts %d in, %d out, want 0, 2", in, out)
			}
			for range 2 {
				fresh.isFrom("second")
				used.isFrom("second")
			}
			if d := m.end(); d.Connections != (upgrade.Closed{IdleGrace: 2}) {
				t.Errorf("the successor's drain: got %+v, want 2 closed after the grace", d)
			}
		})
	}
}

func TestBusyConnectionMovesAfterItsResponse(t *testing.T) {
	t.Parallel()
	g := newGate()
	g.after = "first"
	m := newMovers(t, g)
	c := m.first.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-g.entered
	drained := m.handOff(patience)
	m.first.awaitDraining()
	close(g.open)
	if resp, body := c.answer(); resp.Close || body != "first" {
		t.Errorf("got close %t and %q, want first without an announcement", resp.Close, body)
	}
	c.movesOn()
	if d := <-drained; d.Migrated != 1 || d.Requests == 0 || d.Connections != (upgrade.Closed{}) {
		t.Errorf("got %+v, want the request finished and the connection moved", d)
	}
	m.end()
}

func TestRefusedConnectionIsDrained(t *testing.T) {
	g := newGate()
	g.after = "first"
	m := newMovers(t, slowOr(g, "first"))
	m.gate = func(_ context.Context, conns []upgrade.Connection) []bool { return make([]bool, len(conns)) }
	busy, speaker, silent := m.first.dial(), m.first.dial(), m.first.dial()
	busy.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-g.entered
	speaker.isFrom("first")
	await(t, "three connections", func() bool { return m.first.Accepted() == 3 })
	begin := time.Now()
	drained := m.handOff(patience)
	await(t, "the offer", func() bool { return m.offered.Load() == 2 })
	if resp, body := speaker.get("/"); !resp.Close || body != "first" {
		t.Errorf("within the grace: got close %t and %q, want first with the announcement", resp.Close, body)
	}
	speaker.closedCleanly()
	silent.closedCleanly()
	if took := time.Since(begin); took < 100*time.Millisecond {
		t.Errorf("an idle connection was closed after %v, want the grace", took)
	}
	close(g.open)
	if resp, body := busy.answer(); resp.Close || body != "first" {
		t.Errorf("busy: got close %t and %q, want first and no announcement yet", resp.Close, body)
	}
	await(t, "the last offer", func() bool { return m.offered.Load() == 3 })
	if resp, body := busy.get("/"); !resp.Close || body != "first" {
		t.Errorf("once refused: got close %t and %q, want first with the announcement", resp.Close, body)
	}
	if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{ConnectionClose: 2, IdleGrace: 1}) {
		t.Errorf("got %+v, want none moved, 2 sent Connection: close and 1 after the grace", d)
	}
	if n := m.offered.Load(); n != 3 {
		t.Errorf("%d offers, want one for each connection", n)
	}
	m.end()
}

// The time to be idle goes on, and does not begin anew.
func TestMigratedConnectionHasTheTimeThatIsLeft(t *testing.T) {
	const idle, header = 700 * time.Millisecond, 500 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first"), IdleTimeout: idle, ReadHeaderTimeout: header},
			server.Options{IdleTimeout: 2 * idle, ReadHeaderTimeout: 2 * header})
		m.first.Check(t.Context()) // in which time may pass
		begin := time.Now()
		fresh, used := m.first.dial(), m.first.dial()
		used.isFrom("first")
		time.Sleep(200 * time.Millisecond) // of what they have
		if d := <-m.handOff(patience); d.Migrated != 2 {
			t.Errorf("got %+v, want 2 moved", d)
		}
		for _, moved := range []struct {
			*client
			timeout time.Duration
		}{{fresh, header}, {used, idle}} {
			moved.closedCleanly()
			if took := time.Since(begin); took != moved.timeout {
				t.Errorf("closed after %v, want %v", took, moved.timeout)
			}
		}
		if d := m.end(); m.second.Closed()[server.TimedOut] != 2 {
			t.Errorf("got %+v, want 2 timeouts", d)
		}
	})
}

// One that stays has the time to be idle that it had.
func TestTimeoutsOfRefusedConnections(t *testing.T) {
	const idle, header = 400 * time.Millisecond, 200 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first"), IdleGrace: patience, IdleTimeout: idle, ReadHeaderTimeout: header}, server.Options{})
		m.gate = func(_ context.Context, conns []upgrade.Connection) []bool { return nil }
		m.first.Check(t.Context())
		begin := time.Now()
		fresh, used := m.first.dial(), m.first.dial()
		used.isFrom("first")
		drained := m.handOff(patience)
		for _, refused := range []struct {
			*client
			timeout time.Duration
		}{{fresh, header}, {used, idle}} {
			refused.closedCleanly()
			if took := time.Since(begin); took != refused.timeout {
				t.Errorf("closed after %v, want %v", took, refused.timeout)
			}
		}
		if d := <-drained; d.Connections != (upgrade.Closed{Timeout: 2}) {
			t.Errorf("got %+v, want 2 timeouts", d)
		}
		m.end()
	})
}

// What cannot move is drained as before.
func TestWithoutAWayNothingMoves(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*server.Options, *upgrade.Handoff){
		"no successor takes any":        func(_ *server.Options, h *upgrade.Handoff) { h.Migrate = nil },
		"it has not the listener":       func(_ *server.Options, h *upgrade.Handoff) { h.Kept = none },
		"turned off":                    func(o *server.Options, _ *upgrade.Handoff) { o.DisableMigration = true },
		"net/http is not what it seems": nil,
	} {
		t.Run(name, func(t *testing.T) {
			var logged bytes.Buffer
			opts := server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 100 * time.Millisecond,
				Logger: slog.New(slog.NewTextHandler(&logged, nil))}
			h := upgrade.Handoff{Kept: all, Migrate: func(context.Context, []upgrade.Connection) []bool {
				t.Error("a connection was offered")
				return nil
			}}
			if set != nil {
				set(&opts, &h)
			}
			s := newServed(t, listen(t), opts)
			if set == nil {
				s.BreakSafePoint()
			}
			s.Serve()
			for range 2 {
				if err := s.Check(t.Context()); err != nil {
					t.Errorf("check: %v", err)
				}
			}
			if got, want := strings.Count(logged.String(), "level=WARN"), map[bool]int{true: 1}[set == nil]; got != want {
				t.Errorf("got %d warnings, want %d: %s", got, want, &logged)
			}
			c := s.dial()
			await(t, "the connection", func() bool { return s.Accepted() == 1 })
			if d := <-s.drainBy(patience, h); d.Migrated != 0 || d.Connections != (upgrade.Closed{IdleGrace: 1}) {
				t.Errorf("got %+v, want one closed after the grace", d)
			}
			c.closedCleanly()
		})
	}
}

// Where net/http may hold a byte of the next request, nothing moves.
func TestPipelinedBytesDoNotMove(t *testing.T) {
	t.Parallel()
	const second = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	g := newGate()
	g.after = "first"
	m := newMovers(t, g)
	var clients []*client
	for i := 1; i <= len(second); i++ {
		c := m.first.dial()
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n" + second[:i])
		<-g.entered
		clients = append(clients, c)
	}
	drained := m.handOff(patience)
	m.first.awaitDraining()
	close(g.open)
	for i, c := range clients {
		if resp, body := c.answer(); resp.Close || body != "first" {
			t.Fatalf("got close %t and %q, want first", resp.Close, body)
		}
		c.send(second[i+1:])
		if resp, body := c.answer(); resp.Close || body != "first" {
			t.Errorf("split after %q: got close %t and %q, want first", second[:i+1], resp.Close, body)
		}
		c.movesOn()
	}
	if d := <-drained; d.Migrated != len(clients) {
		t.Errorf("got %+v, want all %d moved", d, len(clients))
	}
	m.end()
}

// One that was not at rest once migrates later, however long the next answer takes.
func TestClientThatPipelinesOnceMigrates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(250 * time.Millisecond) // more than the grace
			io.WriteString(w, "first")
		})}, server.Options{})
		c := m.first.dial()
		c.send(strings.Repeat(request, 2))
		synctest.Wait()
		drained := m.handOff(patience)
		for range 2 {
			if resp, body := c.answer(); resp.Close || body != "first" {
				t.Errorf("got close %t and %q, want first", resp.Close, body)
			}
		}
		synctest.Wait() // a request that follows at once may come ahead as well
		c.isFrom("second")
		if d := <-drained; d.Migrated != 1 {
			t.Errorf("got %+v, want one moved", d)
		}
		m.end()
	})
}

// One that is never at rest is sent Connection: close when the grace has passed.
func TestClientThatPipelinesIsAnnounced(t *testing.T) {
	const each = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(each)
			io.WriteString(w, "first")
		})}, server.Options{})
		c := m.first.dial()
		c.send(strings.Repeat(request, 50))
		c.answer()
		begin := time.Now()
		drained := m.handOff(patience)
		for announced := false; !announced; {
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			resp, body := c.answer()
			if body != "first" {
				t.Fatalf("got %q", body)
			}
			announced = resp.Close
			// What the client has sent by then is answered first.
			took := time.Since(begin)
			if announced && took < 100*time.Millisecond || took > 100*time.Millisecond+55*each {
				t.Fatalf("after %v: got Connection: close %t, want it after the grace", took, announced)
			}
		}
		if d := <-drained; d.Migrated != 0 || d.Connections.ConnectionClose != 1 {
			t.Errorf("got %+v, want one sent Connection: close", d)
		}
		m.end()
	})
}
