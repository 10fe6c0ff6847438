package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
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

// heldMove begins a handoff of one idle connection, and returns when the
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
	tier.Slow(t, "moves connections at one moment after another")
	t.Parallel()
	for at := 1; at <= len(request); at++ {
		m := newMovers(t, names("first"))
		c, drained, release := heldMove(t, m)
		c.send(request[:at])
		release()
		if d := <-drained; d.Migrated != 1 {
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
	if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
		t.Errorf("got %+v, want one sent Connection: close", d)
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
			if d := <-drained; d.Migrated != 1 {
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

// What is under way at the deadline counts as Migrate reports it.
func TestDeadlineWhileMoving(t *testing.T) {
	t.Parallel()
	m := newMovers(t, names("first"))
	m.gate = func(ctx context.Context, conns []upgrade.Connection) []bool {
		<-ctx.Done()
		return everything(conns)
	}
	c := m.first.dial()
	c.isFrom("first")
	d := <-m.handOff(200 * time.Millisecond)
	if d.Migrated != 1 || d.Connections != (upgrade.Closed{}) {
		t.Errorf("got %+v, want one moved", d)
	}
	c.isFrom("second")
	m.end()
}

// And it holds if Migrate knows of none.
func TestDeadlineThatMoveIgnores(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello)})
	open, returned := make(chan struct{}), make(chan struct{})
	c := s.dial()
	c.get("/")
	begin := time.Now()
	d := <-s.drainBy(200*time.Millisecond, upgrade.Handoff{Kept: all, Migrate: func(_ context.Context, conns []upgrade.Connection) []bool {
		defer close(returned)
		<-open
		return everything(conns)
	}})
	if took := time.Since(begin); took > slack {
		t.Errorf("the drain took %v, want 200 ms and a moment", took)
	}
	if d.Migrated != 0 || d.Connections != (upgrade.Closed{DrainTimeout: 1}) {
		t.Errorf("got %+v, want one closed forcibly", d)
	}
	c.closedCleanly()
	await(t, "the end of its goroutine", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), ".(*migrator).offer(")
	})
	close(open)
	<-returned
	time.Sleep(10 * time.Millisecond) // in which its answer could be taken for good
	if _, out := s.Migrated(); out != 0 {
		t.Error("what was cut counts as moved")
	}
}

// After the deadline nothing is offered any more: Migrate would take it for given.
func TestNothingIsOfferedAfterTheDeadline(t *testing.T) {
	t.Parallel()
	for range 10 {
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
	if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
		t.Errorf("got %+v, want one closed by its handler", d)
	}
	m.end()
}

// Requests of all kinds leave a connection behind that can move, and can be the
// first on one that has.
func TestKindsOfRequests(t *testing.T) {
	t.Parallel()
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
			t.Parallel()
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
			if d := <-drained; d.Migrated != 1 || d.Connections != (upgrade.Closed{}) {
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
