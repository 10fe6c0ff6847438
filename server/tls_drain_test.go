package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/upgrade"
)

func TestTLSDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = 300 * time.Millisecond
		g := newGate()
		g.after = "slow"
		s := serveTLSOn(t, memory(), server.Options{IdleGrace: grace, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				g.ServeHTTP(w, r)
				return
			}
			io.WriteString(w, "hello")
		})})
		mute, fresh, used, speaker, busy := s.dial(), s.dialTLS("http/1.1"), s.dialTLS("http/1.1"), s.dialTLS("http/1.1"), s.dialTLS("http/1.1")
		used.get("/")
		speaker.get("/")
		busy.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
		<-g.entered
		await(t, "the connections", func() bool {
			return s.Load().Connections == upgrade.Connections{New: 2, Idle: 2, Active: 1}
		})
		begin := time.Now()
		drained := s.drainBy(patience, upgrade.Handoff{Kept: all, Migrate: func(context.Context, []upgrade.Connection) []bool {
			t.Error("a connection over TLS was offered to a successor that takes sockets only")
			return nil
		}})
		s.awaitDraining()
		if resp, body := speaker.get("/"); !resp.Close || body != "hello" {
			t.Errorf("within the grace: got close %t and %q, want the announcement", resp.Close, body)
		}
		speaker.closedCleanly()
		for _, c := range []*client{mute, fresh, used} {
			c.closedCleanly()
			if took := time.Since(begin); took < grace || took > grace+time.Second {
				t.Errorf("idle connection closed after %v, want %v", took, grace)
			}
		}
		close(g.open)
		if resp, body := busy.answer(); !resp.Close || body != "slow" {
			t.Errorf("busy: got close %t and %q, want the announcement", resp.Close, body)
		}
		busy.closedCleanly()
		if d := <-drained; d.Migrated != 0 || d.Requests != 2 || d.Connections != (upgrade.Closed{ConnectionClose: 2, IdleGrace: 3}) {
			t.Errorf("got %+v, want 2 requests finished, 2 sent Connection: close and 3 after the grace", d)
		}
	})
}

// On the same server, those without TLS migrate if the successor has that listener only.
func TestTLSStaysWhilePlaintextMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		certificate := selfsigned.New(t, time.Now().Add(time.Hour), "example.com")
		over := memory()
		m := &movers{
			first:  newServed(t, memory(), server.Options{Handler: names("first"), IdleGrace: 100 * time.Millisecond}),
			second: serveOn(t, memory(), server.Options{Handler: names("second")}),
		}
		m.first.AddTLS(over, &tls.Config{Certificates: []tls.Certificate{certificate.TLS(t)}})
		m.first.Serve()
		secured := &servedTLS{&served{Server: m.first.Server, t: t, listener: over, addr: over.Addr()}, certificate}

		moves := m.first.dial()
		moves.isFrom("first")
		http1 := secured.dialTLS("http/1.1")
		http1.isFrom("first")
		http2 := secured.dialHTTP2("h2")
		http2.isFrom("first")
		known := m.first.dialHTTP2()
		known.isFrom("first")
		await(t, "the connections", func() bool { return m.first.Load().Connections == upgrade.Connections{Idle: 4} })
		drained := m.handOff(patience)
		moves.movesOn()
		http1.closedCleanly()
		http2.closes()
		if d := <-drained; d.Migrated != 2 || d.Connections != (upgrade.Closed{IdleGrace: 1, ConnectionClose: 1}) {
			t.Errorf("got %+v, want 2 migrated, one closed after the grace, and one sent a GOAWAY", d)
		}
		known.request(3, "/")
		known.gets(3, "second")
		known.Close()
		m.end()
	})
}

// Clients that never retry, around the beginning of a drain and the end of the grace.
func TestTLSClientsThatNeverRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const clients, grace = 40, 400 * time.Millisecond
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace})
		var failed, announced atomic.Int64
		var asking sync.WaitGroup
		started := make(chan struct{}, clients)
		for i := range clients {
			c := s.dialTLS("http/1.1")
			asking.Go(func() {
				for n := 0; ; n++ {
					if n == 3 {
						started <- struct{}{}
					}
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					resp, err := http.ReadResponse(c.in, nil)
					if err != nil {
						failed.Add(1)
						return
					}
					io.Copy(io.Discard, resp.Body)
					if resp.Close {
						announced.Add(1)
						return
					}
					time.Sleep(time.Duration(i+1) * time.Millisecond) // clients differ
				}
			})
		}
		for range clients {
			<-started
		}
		d := <-s.drain(patience, all)
		asking.Wait()
		if failed.Load() != 0 || announced.Load() != clients || d.Connections != (upgrade.Closed{ConnectionClose: clients}) {
			t.Errorf("%d requests failed, %d clients sent Connection: close, %+v; want all %d sent it", failed.Load(), announced.Load(), d, clients)
		}
	})
}

// The handoff comes while handshakes are under way.
func TestHandshakesUnderWayAreFinished(t *testing.T) {
	tier.Slow(t, "holds handshakes at each message")
	const clients = 200
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				grace := map[string]time.Duration{"http/1.1": time.Second, "h2": time.Minute}[protocol]
				s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace, ReadHeaderTimeout: time.Minute})
				paused, proceed := make(chan struct{}, clients), make(chan struct{})
				var asking sync.WaitGroup
				var answered atomic.Int64
				for range clients {
					c := s.dial()
					c.SetDeadline(time.Now().Add(time.Minute))
					config := s.signed.Client()
					config.NextProtos = []string{protocol}
					over := tls.Client(&pausing{c.Conn, paused, proceed, 0}, config)
					asking.Go(func() {
						if err := over.Handshake(); err != nil {
							t.Errorf("handshake: %v", err)
							paused <- struct{}{}
							return
						}
						if protocol == "h2" {
							h := newHTTP2Client(t, over)
							h.answers = true
							h.request(1, "/")
							if body, err := h.body(1); err != nil || body != "hello" {
								t.Errorf("got %q, %v", body, err)
								return
							}
							answered.Add(1)
							return
						}
						io.WriteString(over, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
						resp, err := http.ReadResponse(bufio.NewReader(over), nil)
						if err != nil || !resp.Close {
							t.Errorf("got %v, %v, want an answer with the announcement", resp, err)
							return
						}
						answered.Add(1)
					})
				}
				for range clients {
					<-paused
				}
				drained := s.drain(time.Minute, all)
				s.awaitDraining()
				time.Sleep(1200 * time.Millisecond) // the grace is no matter
				if got := s.Load().Connections; got != (upgrade.Connections{New: clients}) {
					t.Errorf("got %+v, want all %d", got, clients)
				}
				close(proceed)
				asking.Wait()
				d := <-drained
				if answered.Load() != clients || d.Connections.ConnectionClose+d.Connections.Client != clients {
					t.Errorf("%d of %d answered, %+v", answered.Load(), clients, d)
				}
			})
		})
	}
}

// What has begun to arrive in a record is not destroyed by the grace.
func TestGraceSparesBegunRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 20 * time.Millisecond, ReadHeaderTimeout: patience})
		for _, used := range []bool{false, true} {
			for _, split := range []int{1, 4, 5, 6, 30} {
				c := s.dial()
				cut := &splitting{Conn: c.Conn}
				over := (&client{t, cut, nil}).shake(s.signed.Client())
				if used {
					over.get("/")
				}
				cut.split = split
				over.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				defer func() {
					time.Sleep(50 * time.Millisecond)
					if _, err := c.Conn.Write(cut.rest); err != nil {
						t.Errorf("send the rest: %v", err)
					}
					if resp, body := over.answer(); !resp.Close || body != "hello" {
						t.Errorf("split at %d: got close %t and %q", split, resp.Close, body)
					}
				}()
			}
		}
		quiet := s.dial()
		await(t, "all connections", func() bool { return s.Accepted() == 11 })
		s.drain(2*patience, all)
		quiet.closedCleanly() // the grace is over
	})
}

// The deadline aborts without a close_notify, which would make half an answer a
// whole one, and without waiting for a client that does not read.
func TestTLSCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})})
		for range 3 {
			s.dialTLS("http/1.1").send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		await(t, "the requests", func() bool { return s.Load().Requests == 3 })
		time.Sleep(50 * time.Millisecond) // the sockets are full
		begin := time.Now()
		if d := <-s.drain(100*time.Millisecond, all); d.Connections != (upgrade.Closed{DrainTimeout: 3}) {
			t.Errorf("got %+v, want 3 closed forcibly", d)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %v, want 100 ms and a moment", took)
		}
		await(t, "the handlers' end", func() bool { return s.Load().Requests == 0 })
	})
}

// The end of a connection is said within TLS: a client could take a FIN alone for
// an attack.
func TestTLSSaysGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 200 * time.Millisecond})
		dial := func() (*client, *counting) {
			counted := &counting{Conn: s.dial().Conn}
			c := (&client{t, counted, nil}).shake(s.signed.Client())
			c.get("/")
			return c, counted
		}
		c, counted := dial()
		drained := s.drain(patience, all)
		before := counted.n
		c.closedCleanly()
		if counted.n == before {
			t.Error("closed without an alert")
		}
		<-drained
	})
}

// A client whose handshake ends when the grace of its silence before is almost over
// has a whole one for its request.
func TestGraceAfterHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace})
		c := s.dial()
		await(t, "the connection", func() bool { return s.Load().Connections.New == 1 })
		drained := s.drain(patience, all)
		time.Sleep(grace * 7 / 10)
		over := c.shake(s.signed.Client())
		time.Sleep(grace * 7 / 10)
		if resp, body := over.get("/"); !resp.Close || body != "hello" {
			t.Errorf("got close %t and %q", resp.Close, body)
		}
		if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v, want one sent Connection: close", d.Connections)
		}
	})
}
