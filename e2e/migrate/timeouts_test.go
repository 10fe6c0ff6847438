package migrate

import (
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The timeouts of connections that move: they go on where they were, and hold in the generation that has the connection.

// lasts checks how long after a moment a connection ended. A busy machine may be late.
func lasts(c *http1.Conn, t *testing.T, what string, since time.Time, least, most time.Duration) {
	t.Helper()
	busy := await.Measure(t)
	e := c.AwaitClose(most + await.Hang)
	// What an answer to half a request looks like is not the matter here.
	for e == http1.MoreData {
		e = c.AwaitClose(most + await.Hang)
	}
	took := time.Since(since)
	most += busy.Slower(time.Second)
	if e == http1.StillOn || took < least || took > most {
		t.Errorf("%s: got %s after %v, want the end after %v to %v", what, e, took.Round(time.Millisecond), least, most)
	}
}

// A connection's silence does not begin anew because it moves.
func TestIdleTimeoutOfAMovedConnection(t *testing.T) {
	tier.Slow(t, "waits for timeouts")
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			timeout := await.Unhurried(3 * time.Second)
			b := service.Start(t, on(network), service.Files(t), service.Args("-idle-timeout", timeout.String()))
			quiet, speaks := b.Dial(), b.Dial()
			begun := time.Now()
			for _, c := range []*http1.Conn{quiet, speaks} {
				c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
				c.Expect(t, "GET", 200)
			}
			answered := time.Now()
			for i := range 2 { // after a quarter of the timeout, and half of it
				time.Sleep(time.Until(answered.Add(time.Duration(i+1) * timeout / 4)))
				if u := b.Upgrade(); u.Predecessor.Moved != 2 {
					t.Fatalf("connections moved: got %d, want 2", u.Predecessor.Moved)
				}
			}
			again := time.Now()
			speaks.Send(t, string(http1.Request("GET", "/100.bin", nil)))
			if resp := speaks.Expect(t, "GET", 200); resp.Close {
				t.Error("request on a moved connection: got Connection: close, want it kept")
			}
			answeredAgain := time.Now()
			lasts(quiet, t, "idle connection", begun, timeout, answered.Sub(begun)+timeout)
			lasts(speaks, t, "connection that spoke after it had moved", again, timeout, answeredAgain.Sub(again)+timeout)
			// The client may see the end before the server has counted it.
			await.Until(t, "two connections closed for a timeout", func() bool {
				return b.Metric("baton_connections_closed_total", "reason", "timeout") == 2
			})
		})
	}
}

// on makes the public listener one of a network.
func on(network string) service.Option {
	if network == "unix" {
		return service.Listen("unix:DIR/public.sock")
	}
	return service.Listen()
}

func TestHeaderTimeoutOfAMovedConnection(t *testing.T) {
	tier.Slow(t, "waits for timeouts")
	t.Parallel()
	timeout := await.Unhurried(2 * time.Second)
	head := string(http1.Request("GET", "/100.bin", nil))
	// after uses the connection once it has moved, and returns since when the timeout runs; nil: since the dial.
	tests := []struct {
		name   string
		before func(t *testing.T, c *http1.Conn)
		after  func(t *testing.T, c *http1.Conn) time.Time
	}{
		{name: "never spoke"},
		{name: "never spoke, then half a header", after: func(t *testing.T, c *http1.Conn) time.Time {
			return said(t, c, head[:len(head)/2])
		}},
		{name: "idle for long, then one byte", before: answered, after: func(t *testing.T, c *http1.Conn) time.Time {
			time.Sleep(timeout * 3 / 2)
			return said(t, c, head[:1])
		}},
		{name: "idle for long, then half a header", before: answered, after: func(t *testing.T, c *http1.Conn) time.Time {
			time.Sleep(timeout * 3 / 2)
			return said(t, c, head[:len(head)/2])
		}},
		{name: "a request, then half of the next", before: answered, after: func(t *testing.T, c *http1.Conn) time.Time {
			answered(t, c)
			return said(t, c, head[:len(head)/2])
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Args("-read-header-timeout", timeout.String(), "-idle-timeout", "1m"))
			since := time.Now()
			c := b.Dial()
			await.Until(t, "the accept", func() bool { return b.Connections() == 1 })
			if tt.before != nil {
				tt.before(t, c)
			}
			if tt.after == nil {
				time.Sleep(timeout / 2) // so late that a timeout which begins anew shows
			}
			if u := b.Upgrade(); u.Predecessor.Moved != 1 {
				t.Fatalf("connections moved: got %d, want 1", u.Predecessor.Moved)
			}
			if tt.after != nil {
				since = tt.after(t, c)
			}
			lasts(c, t, "connection", since, timeout, timeout)
		})
	}
}

// answered makes a request that is answered, and keeps the connection.
func answered(t *testing.T, c *http1.Conn) {
	t.Helper()
	c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	if resp := c.Expect(t, "GET", 200); resp.Close {
		t.Error("response: got Connection: close, want the connection kept")
	}
}

// said sends a part of a request, and returns since when it may have been there.
func said(t *testing.T, c *http1.Conn, part string) time.Time {
	t.Helper()
	since := time.Now()
	c.Send(t, part)
	return since
}

// A header that is sent in time, but in pieces, is as good on a moved connection as on any.
func TestSlowHeaderOnAMovedConnection(t *testing.T) {
	tier.Slow(t, "waits for timeouts")
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-read-header-timeout", "3s"))
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	c.Expect(t, "GET", 200)
	if u := b.Upgrade(); u.Predecessor.Moved != 1 {
		t.Fatalf("connections moved: got %d, want 1", u.Predecessor.Moved)
	}
	for _, char := range http1.Request("GET", "/4000.bin", nil) {
		c.Send(t, string(char))
		time.Sleep(5 * time.Millisecond)
	}
	if resp := c.Expect(t, "GET", 200); resp.Close || len(resp.Body) != 4000 {
		t.Errorf("response: got close %v, %d bytes, want the connection kept, 4000", resp.Close, len(resp.Body))
	}
}

// A request on a moved connection is under way for as long as its new generation's drain allows.
func TestDrainTimeoutOfAMovedConnection(t *testing.T) {
	tier.Slow(t, "waits for timeouts")
	t.Parallel()
	const timeout = time.Second
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-drain-timeout", timeout.String()))
	c, other := b.Dial(), b.Dial()
	for _, c := range []*http1.Conn{c, other} {
		c.Send(t, string(http1.Request("GET", "/", nil)))
		c.Expect(t, "GET", 200)
	}
	if u := b.Upgrade(); u.Predecessor.Moved != 2 {
		t.Fatalf("connections moved: got %d, want 2", u.Predecessor.Moved)
	}
	time.Sleep(timeout) // the drain of the generation that accepted it is over, and its deadline is past
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	began := time.Now()
	ended := make(chan http1.Ending, 1)
	go func() { ended <- c.AwaitClose(await.Hang) }()
	u := b.Upgrade()
	if u.Predecessor.Connections.Cut != 1 || u.Predecessor.Moved != 1 {
		t.Errorf("drain of the second generation: got %+v, want 1 connection closed forcibly, 1 moved", u.Predecessor)
	}
	if e := <-ended; e == http1.StillOn || time.Since(began) < timeout {
		t.Errorf("connection with a request that hangs: got %s after %v, want the end after %v", e, time.Since(began), timeout)
	}
	b.AwaitExit(u.Predecessor.PID)
	other.Send(t, string(http1.Request("GET", "/", nil)))
	if resp := other.Expect(t, "GET", 200); resp.Close {
		t.Error("the other connection: got Connection: close, want it kept")
	}
}
