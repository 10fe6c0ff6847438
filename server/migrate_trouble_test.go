package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// everything is what a successor takes that takes all.
func everything(conns []upgrade.Connection) []bool {
	taken := make([]bool, len(conns))
	for i := range taken {
		taken[i] = true
	}
	return taken
}

// heldMove begins a handoff of one silent connection, and returns when the
// successor is about to answer for it.
func heldMove(t *testing.T, m *movers) (c *client, drained <-chan upgrade.Drained, release func()) {
	t.Helper()
	held, open := make(chan struct{}), make(chan struct{})
	m.gate = func(_ context.Context, conns []upgrade.Connection) []bool {
		close(held)
		<-open
		return everything(conns)
	}
	c = m.first.dial()
	c.isFrom("first")
	drained = m.handOff(patience)
	<-held
	return c, drained, func() { close(open) }
}

func TestBytesThatArriveWhileMovingAreTheSuccessors(t *testing.T) {
	for at := 1; at <= len(request); at++ {
		m := newMovers(t, names("first"))
		c, drained, release := heldMove(t, m)
		c.send(request[:at])
		release()
		if d := <-drained; d.Moved != 1 {
			t.Errorf("got %+v, want one moved", d)
		}
		c.send(request[at:])
		if resp, body := c.answer(); body != "second" || resp.Close {
			t.Errorf("split after %q: got %q, close %t, want second", request[:at], body, resp.Close)
		}
		m.end()
	}
}

func TestBytesThatArriveWhileRefusedAreServed(t *testing.T) {
	m := newMovers(t, names("first"))
	held, open := make(chan struct{}), make(chan struct{})
	m.gate = func(_ context.Context, conns []upgrade.Connection) []bool {
		close(held)
		<-open
		return nil
	}
	c := m.first.dial()
	c.isFrom("first")
	drained := m.handOff(patience)
	<-held
	c.send(request)
	close(open)
	if resp, body := c.answer(); body != "first" || !resp.Close {
		t.Errorf("got %q, close %t, want first with the announcement", body, resp.Close)
	}
	if d := <-drained; d.Moved != 0 || d.Connections != (upgrade.Closed{Announced: 1}) {
		t.Errorf("got %+v, want one told to close", d)
	}
	m.end()
}

func TestClientThatEndsWhileMoving(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn){
		"closes":      func(c *net.TCPConn) { c.Close() },
		"half-closes": func(c *net.TCPConn) { c.CloseWrite() },
		"resets":      func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t, names("first"))
			c, drained, release := heldMove(t, m)
			end(c.Conn.(*net.TCPConn))
			release()
			if d := <-drained; d.Moved != 1 {
				t.Errorf("got %+v, want one moved", d)
			}
			await(t, "the end in the successor", func() bool { return m.second.Closed()[server.ByClient] == 1 })
			m.end()
		})
	}
}

// A half-closed client still gets the answer to what it has sent.
func TestRequestAndHalfCloseWhileMoving(t *testing.T) {
	m := newMovers(t, names("first"))
	c, drained, release := heldMove(t, m)
	c.send(request)
	c.Conn.(*net.TCPConn).CloseWrite()
	release()
	<-drained
	if _, body := c.answer(); body != "second" {
		t.Errorf("got %q, want second", body)
	}
	c.closedCleanly()
	m.end()
}

// A successor that hangs costs what it was given and nothing else.
func TestSuccessorThatHangsDoesNotHoldUpOthers(t *testing.T) {
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
		if d.Moved != int(given.Load()) || d.Connections.Cut != 0 {
			t.Errorf("got %+v, want the %d moved that the successor had, and none closed forcibly", d, given.Load())
		}
		asking.Wait() // also those that have moved are answered
		m.end()
	})
}

// A successor that is busy for longer than anything is offered to it, and longer than the grace,
// costs no connection: those that it does not have are served, and migrate when it answers again.
func TestConnectionsWaitForABusySuccessor(t *testing.T) {
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
		if d := <-drained; d.Moved != len(clients) || d.Connections != (upgrade.Closed{}) {
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

// What is under way at the deadline counts as Move reports it.
func TestDeadlineWhileMoving(t *testing.T) {
	m := newMovers(t, names("first"))
	m.gate = func(ctx context.Context, conns []upgrade.Connection) []bool {
		<-ctx.Done()
		return everything(conns)
	}
	c := m.first.dial()
	c.isFrom("first")
	d := <-m.handOff(200 * time.Millisecond)
	if d.Moved != 1 || d.Connections != (upgrade.Closed{}) {
		t.Errorf("got %+v, want one moved", d)
	}
	c.isFrom("second")
	m.end()
}

// And it holds if Move knows of none.
func TestDeadlineThatMoveIgnores(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello)})
	open, returned := make(chan struct{}), make(chan struct{})
	c := s.dial()
	c.get("/")
	begin := time.Now()
	d := <-s.drainBy(200*time.Millisecond, upgrade.Handoff{Kept: all, Move: func(_ context.Context, conns []upgrade.Connection) []bool {
		defer close(returned)
		<-open
		return everything(conns)
	}})
	if took := time.Since(begin); took > slack {
		t.Errorf("the drain took %v, want 200 ms and a moment", took)
	}
	if d.Moved != 0 || d.Connections != (upgrade.Closed{Cut: 1}) {
		t.Errorf("got %+v, want one cut", d)
	}
	c.closedCleanly()
	await(t, "the end of its goroutine", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), ".(*mover).offer(")
	})
	close(open)
	<-returned
	time.Sleep(10 * time.Millisecond) // in which its answer could be taken for good
	if _, out := s.Migrated(); out != 0 {
		t.Error("what was cut counts as moved")
	}
}

// After the deadline nothing is offered any more: Move would take it for given.
func TestNothingIsOfferedAfterTheDeadline(t *testing.T) {
	for range 20 {
		m := newMovers(t, names("first"))
		m.gate = func(ctx context.Context, conns []upgrade.Connection) []bool {
			if ctx.Err() != nil {
				t.Error("offered after the end")
			}
			return everything(conns)
		}
		for range 20 {
			m.first.dial().isFrom("first")
		}
		<-m.handOff(0)
		m.end()
	}
}

// A connection that is taken over in a drain is its handler's.
func TestHijackedInADrainDoesNotMove(t *testing.T) {
	g := newGate()
	m := newMovers(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.entered <- struct{}{}
		<-g.open
		nc, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		line, _ := buf.ReadString('\n')
		io.WriteString(nc, line)
	}))
	c := m.first.dial()
	c.send(request)
	<-g.entered
	drained := m.handOff(patience)
	m.first.awaitDraining()
	close(g.open)
	c.send("mine\n")
	if line, _ := c.in.ReadString('\n'); line != "mine\n" {
		t.Errorf("got %q, want mine", line)
	}
	if d := <-drained; d.Moved != 0 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
		t.Errorf("got %+v, want one closed by its handler", d)
	}
	m.end()
}

// Requests of all kinds leave a connection behind that can move, and can be the
// first on one that has.
func TestKindsOfRequests(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 6<<10) // more than any buffer
	for name, kind := range map[string]struct{ request, method string }{
		"HTTP/1.0 kept alive": {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET"},
		"HEAD":                {"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD"},
		"large body":          {fmt.Sprintf("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(big), big), "POST"},
		"chunked body":        {fmt.Sprintf("POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big), "POST"},
		"body nobody reads":   {fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(big), big), "POST"},
		"expected body":       {"POST /read HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab", "POST"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			handler := func(name string, wait bool) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if wait {
						g.entered <- struct{}{}
						<-g.open
					}
					n := int64(-1)
					if r.URL.Path == "/read" {
						n, _ = io.Copy(io.Discard, r.Body)
					}
					w.Header().Set("Got", fmt.Sprint(name, " ", n))
					w.Header().Set("Content-Length", "1")
					io.WriteString(w, "x")
				})
			}
			first := serve(t, server.Options{Handler: handler("first", true)})
			second := serve(t, server.Options{Handler: handler("second", false)})
			c := first.dial()
			ask := func(from string) {
				t.Helper()
				resp, err := http.ReadResponse(c.in, &http.Request{Method: kind.method})
				for err == nil && resp.StatusCode == http.StatusContinue {
					resp, err = http.ReadResponse(c.in, &http.Request{Method: kind.method})
				}
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				if got := resp.Header.Get("Got"); !strings.HasPrefix(got, from) || strings.HasSuffix(got, " 0") || resp.Close {
					t.Errorf("got %q, close %t, want an answer from the %s and an open connection", got, resp.Close, from)
				}
			}
			go io.WriteString(c, kind.request)
			<-g.entered
			m := &movers{first: first, second: second}
			drained := m.handOff(patience)
			first.awaitDraining()
			close(g.open)
			ask("first")
			if d := <-drained; d.Moved != 1 || d.Connections != (upgrade.Closed{}) {
				t.Errorf("got %+v, want one moved", d)
			}
			for range 2 {
				go io.WriteString(c, kind.request)
				ask("second")
			}
			m.end()
		})
	}
}

// watchOpening is a connection that is watched once it is opened.
type watchOpening struct {
	unopened
	listener *watchListener
}

func (w watchOpening) Open() (net.Conn, error) {
	nc, err := w.unopened.Open()
	if err != nil {
		return nil, err
	}
	return &watchConn{nc.(*net.TCPConn), w.listener}, nil
}

// shortOf is a connection that can be opened only when there are descriptors again.
type shortOf struct {
	unopened
	failures *atomic.Int32
}

func (s shortOf) Open() (net.Conn, error) {
	if s.failures.Add(-1) >= 0 {
		return nil, &os.SyscallError{Syscall: "dup", Err: syscall.EMFILE}
	}
	return s.unopened.Open()
}

// A request that comes when no descriptor is left is answered when there is one again.
func TestOpenIsTriedAgain(t *testing.T) {
	m := newMovers(t, names("first"))
	var failures atomic.Int32
	failures.Store(3)
	m.each = func(c *upgrade.Connection) { c.Conn = shortOf{c.Conn.(unopened), &failures} }
	c := m.first.dial()
	c.isFrom("first")
	<-m.handOff(patience)
	c.isFrom("second")
	if n := failures.Load(); n != -1 {
		t.Errorf("opened %d times, want 4 times", 3-n)
	}
	m.end()
}

// Files still go from the page cache to the socket.
func TestSendfileIsKeptOnAdoptedConnections(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMovers(t, names("first"))
	<-m.second.drain(patience, none)
	m.second = serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, path)
	})})
	watch := &watchListener{}
	m.each = func(c *upgrade.Connection) { c.Conn = watchOpening{c.Conn.(unopened), watch} }
	c := m.first.dial()
	c.isFrom("first")
	<-m.handOff(patience)
	if _, body := c.get("/"); body != string(content) {
		t.Error("the body is not the file")
	}
	if !watch.gotFile.Load() {
		t.Error("the socket's ReadFrom was not given the file")
	}
	m.end()
}

// What comes to a generation that has handed over itself goes on to the next.
func TestAdoptedInADrainMovesOn(t *testing.T) {
	m := newMovers(t, names("first"))
	g := newGate() // keeps the drain going
	busy := serve(t, server.Options{Handler: g})
	c := busy.dial()
	c.send(request)
	<-g.entered
	<-m.first.drain(patience, none)
	m.first = busy
	drained := m.handOff(patience)
	m.first.awaitDraining()
	late := adopter(t, listen(t), server.Options{Handler: names("first")})
	defer func() { <-late.drain(patience, none) }()
	nc := late.dial()
	far, err := late.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	m.first.Adopt(upgrade.Connection{Conn: far, Listener: m.first.listener, Spoke: true, Left: patience})
	nc.isFrom("second")
	close(g.open)
	c.answer()
	if d := <-drained; d.Moved != 2 {
		t.Errorf("got %+v, want 2 moved", d)
	}
	m.end()
}

// Clients that send what they like, as they like, through a line of generations:
// every answer comes whole and in order, on the one connection.
func TestNothingIsLostOnTheWay(t *testing.T) {
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
		moved += (<-m.handOff(patience)).Moved
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
		if d.Moved != conns || d.Connections != (upgrade.Closed{}) || d.Seconds < 2*pause.Seconds() {
			t.Errorf("got %+v, want all moved, in some time", d)
		}
		m.end()
	})
}

func TestManySilentConnections(t *testing.T) {
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
	if d := <-m.handOff(patience); d.Moved != conns || d.Connections != (upgrade.Closed{}) {
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
				if d := <-m.handOff(2 * pause); d.Moved != conns || d.Seconds < pause.Seconds() || d.Seconds > pause.Seconds()+.1 { // Shutdown polls
					t.Errorf("got %+v, want all %d moved when the successor has recovered", d, conns)
				}
				m.end()
			})
		})
	}
}
