package server_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// A successor that hangs costs what it was given and nothing else.
func TestSuccessorThatHangsDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.after = "first"
		m := memoryMovers(t, server.Options{Handler: slowOr(g, "first")}, server.Options{})
		var given atomic.Int64
		m.gate = func(ctx context.Context, conns []upgrade.Connection) []bool {
			given.Add(int64(len(conns)))
			<-ctx.Done()
			return everything(conns)
		}
		var silent, busy []*client
		for range 500 {
			silent = append(silent, m.first.dial())
		}
		for range 10 {
			c := m.first.dial()
			c.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
			<-g.entered
			busy = append(busy, c)
		}
		synctest.Wait()
		begin := time.Now()
		drained := m.handOff(patience)
		synctest.Wait()
		close(g.open)
		for _, c := range busy {
			if _, body := c.answer(); body != "first" {
				t.Errorf("got %q, want first", body)
			}
		}
		// Those that the successor has not got are read again in time. One that has been
		// answered may still be given to it.
		var asking sync.WaitGroup
		var first atomic.Int64
		for _, c := range append(silent, busy...) {
			asking.Go(func() {
				io.WriteString(c, request)
				if resp, err := http.ReadResponse(c.in, nil); err == nil {
					body, _ := io.ReadAll(resp.Body)
					if string(body) == "first" {
						first.Add(1)
					}
				}
			})
		}
		time.Sleep(2500*time.Millisecond - time.Since(begin)) // the time after which a successor hangs, and a look
		synctest.Wait()
		if n := int(first.Load() + given.Load()); n < len(silent)+len(busy) {
			t.Errorf("%d answers, and %d given away, of %d", first.Load(), given.Load(), len(silent)+len(busy))
		}
		if n := given.Load(); n > 256 {
			t.Errorf("%d of 510 connections were given to a successor that answers nothing, want few", n)
		}
		d := <-drained
		if d.Migrated != int(given.Load()) || d.Connections.DrainTimeout != 0 {
			t.Errorf("got %+v, want the %d moved that the successor had, and none closed forcibly", d, given.Load())
		}
		asking.Wait() // also those that have moved are answered
		m.end()
	})
}

// Clients that send what they like, as they like, through a line of generations:
// every answer comes whole and in order, on the one connection.
func TestNothingIsLostOnTheWay(t *testing.T) {
	tier.Slow(t, "moves connections at one moment after another")
	const generations, clients, requests = 6, 60, 150
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if len(body)%3 == 0 {
			time.Sleep(time.Millisecond)
		}
		fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	})
	line := []*served{serve(t, server.Options{Handler: echo, IdleGrace: patience})}
	var talking sync.WaitGroup
	for id := range clients {
		c := line[0].dial()
		talking.Go(func() {
			random := rand.New(rand.NewPCG(uint64(id), 0))
			var want []string
			for n := 0; n < requests; {
				var text strings.Builder
				for range 1 + random.IntN(3)*random.IntN(2) { // now and then some at once
					body := strings.Repeat("x", random.IntN(20)*random.IntN(2))
					fmt.Fprintf(&text, "POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", n, len(body), body)
					want = append(want, fmt.Sprintf("/%d %s", n, body))
					n++
				}
				for rest := text.String(); rest != ""; {
					at := 1 + random.IntN(len(rest))
					if _, err := io.WriteString(c, rest[:at]); err != nil {
						t.Errorf("client %d: %v", id, err)
						return
					}
					if rest = rest[at:]; random.IntN(3) == 0 {
						time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
					}
				}
				for len(want) > 0 {
					resp, err := http.ReadResponse(c.in, nil)
					if err != nil {
						t.Errorf("client %d: %v instead of the answer %s", id, err, want[0])
						return
					}
					body, err := io.ReadAll(resp.Body)
					if err != nil || string(body) != want[0] || resp.Close {
						t.Errorf("client %d: got %q, %v, close %t, want %q", id, body, err, resp.Close, want[0])
						return
					}
					want = want[1:]
				}
				time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
			}
		})
	}
	await(t, "the clients", func() bool { return line[0].Accepted() == clients })
	moved := 0
	for range generations {
		time.Sleep(50 * time.Millisecond) // in which they talk
		next := serve(t, server.Options{Handler: echo, IdleGrace: patience})
		m := &movers{first: line[len(line)-1], second: next}
		moved += (<-m.handOff(patience)).Migrated
		line = append(line, next)
	}
	talking.Wait()
	if moved != generations*clients {
		t.Errorf("%d moves, want each of %d clients in each of %d handoffs", moved, clients, generations)
	}
	last := line[len(line)-1]
	await(t, "the last idle", func() bool { return last.Load().Connections.Idle == clients })
	<-last.drain(10*time.Millisecond, none)
}

// Idle connections wait for a slow successor, and not for the grace.
func TestSlowSuccessorGetsAll(t *testing.T) {
	const conns, pause = 600, 150 * time.Millisecond // more than the grace
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first")}, server.Options{})
		for range conns {
			m.first.dial()
		}
		synctest.Wait()
		m.gate = func(_ context.Context, conns []upgrade.Connection) []bool {
			if n := m.first.Woken(); n > 256 {
				t.Errorf("%d idle connections are read by nobody, want few at once", n)
			}
			time.Sleep(pause)
			return everything(conns)
		}
		d := <-m.handOff(2 * patience)
		if d.Migrated != conns || d.Connections != (upgrade.Closed{}) || d.Seconds < 2*pause.Seconds() {
			t.Errorf("got %+v, want all moved, in some time", d)
		}
		m.end()
	})
}

func TestManySilentConnections(t *testing.T) {
	tier.Slow(t, "makes many connections")
	const conns = 1000
	m := newMovers(t, names("first"))
	var clients []*client
	for i := range conns {
		c := m.first.dial()
		if i%2 == 0 {
			c.isFrom("first")
		}
		clients = append(clients, c)
	}
	await(t, "all connections", func() bool { return m.first.Accepted() == conns })
	if d := <-m.handOff(patience); d.Migrated != conns || d.Connections != (upgrade.Closed{}) {
		t.Errorf("got %+v, want all moved", d)
	}
	for _, c := range clients {
		c.isFrom("second")
	}
	m.end()
}

// A successor that hangs for a moment, and then goes on, gets what became idle meanwhile:
// nothing is forgotten between the two.
func TestSuccessorThatRecovers(t *testing.T) {
	t.Parallel()
	const conns = 400
	for _, pause := range []time.Duration{1900 * time.Millisecond, 2050 * time.Millisecond, 2600 * time.Millisecond, 6 * time.Second} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memoryMovers(t, server.Options{Handler: names("first"), IdleGrace: time.Minute}, server.Options{})
				for range conns {
					m.first.dial()
				}
				synctest.Wait()
				begin := time.Now()
				m.gate = func(_ context.Context, conns []upgrade.Connection) []bool {
					time.Sleep(time.Until(begin.Add(pause)))
					return everything(conns)
				}
				if d := <-m.handOff(2 * pause); d.Migrated != conns || d.Seconds < pause.Seconds() || d.Seconds > pause.Seconds()+.1 { // Shutdown polls
					t.Errorf("got %+v, want all %d moved when the successor has recovered", d, conns)
				}
				m.end()
			})
		})
	}
}

// A successor that is busy for longer than anything is offered to it, and longer than the grace,
// costs no connection: those that it does not have are served, and migrate when it answers again.
func TestConnectionsWaitForABusySuccessor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memoryMovers(t, server.Options{Handler: names("first"), IdleGrace: time.Second}, server.Options{})
		ready := time.Now().Add(10 * time.Second)
		m.gate = func(_ context.Context, conns []upgrade.Connection) []bool {
			time.Sleep(time.Until(ready))
			return everything(conns)
		}
		const held = 256 // more than are offered at once
		var clients []*client
		for range 2 * held {
			c := m.first.dial()
			c.isFrom("first")
			clients = append(clients, c)
		}
		drained := m.handOff(time.Minute)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		given := int(m.offered.Load())
		if given == 0 || given > held {
			t.Fatalf("%d of %d connections were offered, want some", given, len(clients))
		}
		answered := 0
		for _, c := range clients {
			c.send(request)
		}
		if d := <-drained; d.Migrated != len(clients) || d.Connections != (upgrade.Closed{}) {
			t.Errorf("got %+v, want all moved and none closed", d)
		}
		for _, c := range clients {
			resp, body := c.answer()
			if resp.Close {
				t.Errorf("%s announces the end of the connection", body)
			}
			if body == "first" {
				answered++
			}
		}
		if answered != len(clients)-given {
			t.Errorf("the predecessor has answered %d requests, want those of the %d connections that were not offered", answered, len(clients)-given)
		}
		m.end()
	})
}
