package upgrade

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

func TestHeaderNotSentAtTheDrain(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-migrate=false"))
	held, begun := b.Dial(), b.Dial()
	held.Send(t, string(http1.Request("GET", "/hold", nil)))
	begun.Send(t, string(http1.Request("GET", "/begun", nil)))
	g.Await(t, 2)
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	g.Open()
	if resp := held.Expect(t, "GET", 200); !resp.Close || string(resp.Body) != "world" {
		t.Errorf("header not out at the drain: got close %v, body %q, want an announced close, world", resp.Close, resp.Body)
	}
	if e := held.AwaitClose(await.Hang); e != http1.Fin {
		t.Errorf("connection after its announced close: got %s, want FIN", e)
	}
	if resp := begun.Expect(t, "GET", 200); string(resp.Body) != "hello, world" {
		t.Errorf("header out at the drain: got body %q, want hello, world", resp.Body)
	}
	// Its response could not announce anything, so it is idle now, and a request within the grace is answered.
	begun.Send(t, string(http1.Request("GET", "/", nil)))
	if resp := begun.Expect(t, "GET", 200); !resp.Close {
		t.Error("request within the grace: got the connection kept, want an announced close")
	}
	u := result()
	if u.Predecessor.RequestsFinished < 2 || u.Predecessor.Connections.Announced < 2 || u.Predecessor.Connections.Cut != 0 {
		t.Errorf("report of the drain: got %+v, want 2 requests finished, 2 closes announced, none closed forcibly", u.Predecessor)
	}
}

func TestNoDrainNoClose(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t))
	c := b.Dial()
	for i := range 50 {
		c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		if resp := c.Expect(t, "GET", 200); resp.Close {
			t.Fatalf("response %d: got Connection: close, want the connection kept", i+1)
		}
	}
}

func TestIdleConnectionDoesNotHoldTheDrain(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-drain-timeout", "1h", "-migrate=false"))
	idle := b.Dial()
	idle.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	idle.Expect(t, "GET", 200)
	u := b.Upgrade()
	if u.Predecessor.DrainSeconds < 0.9 {
		t.Errorf("drain: got %v s, want the grace of 1 s", u.Predecessor.DrainSeconds)
	}
	if u.Predecessor.Connections.Grace != 1 {
		t.Errorf("connections closed after the grace: got %+v, want 1", u.Predecessor.Connections)
	}
	if e := idle.AwaitClose(await.Hang); e != http1.Fin {
		t.Errorf("idle connection: got %s, want FIN", e)
	}
}

// Within the grace a client that speaks is answered, and sent Connection: close.
func TestIdleConnectionSpeaksInTheGrace(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "45s", "-drain-timeout", "1h", "-migrate=false"))
	idle, fresh := b.Dial(), b.Dial()
	idle.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	idle.Expect(t, "GET", 200)
	// Connected and accepted, but never used.
	await.Until(t, "the accept", func() bool { return b.Metric("baton_connections", "state", "new") >= 1 })
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	for name, c := range map[string]*http1.Conn{"idle": idle, "fresh": fresh} {
		c.Send(t, string(http1.Request("GET", "/4000.bin", nil)))
		if resp := c.Expect(t, "GET", 200); !resp.Close || len(resp.Body) != 4000 {
			t.Errorf("%s connection: got close %v, %d bytes, want an announced close, 4000", name, resp.Close, len(resp.Body))
		}
		if e := c.AwaitClose(await.Hang); e != http1.Fin {
			t.Errorf("%s connection after its announced close: got %s, want FIN", name, e)
		}
	}
	if u := result(); u.Predecessor.DrainSeconds > 40 {
		t.Errorf("drain: got %v s, want it to end with its last connection, before the grace of 45 s", u.Predecessor.DrainSeconds)
	}
}

// Where nothing moves, a request that ends within the drain takes its connection with it at once.
func TestNoConnectionLeftAfterTheResponse(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", "45s", "-drain-timeout", "1h", "-migrate=false"))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	g.Open()
	c.Expect(t, "GET", 200)
	answered := time.Now()
	if e := c.AwaitClose(await.Hang); e != http1.Fin {
		t.Errorf("connection: got %s, want FIN", e)
	}
	if p := b.AwaitExit(pid); p.Exited.Sub(answered) > 40*time.Second {
		t.Errorf("predecessor gone %v after its last response, want at once, and not after the grace of 45 s", p.Exited.Sub(answered))
	}
	result()
}

func TestDrainWithoutConnections(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "45s"))
	await.Until(t, "no connections", func() bool {
		return b.Metric("baton_connections", "state", "idle")+b.Metric("baton_connections", "state", "active")+b.Metric("baton_connections", "state", "new") == 0
	})
	if u := b.Upgrade(); u.Predecessor.DrainSeconds > 40 {
		t.Errorf("drain: got %v s, want next to nothing", u.Predecessor.DrainSeconds)
	}
	began, pid := time.Now(), b.PID()
	b.Signal(syscall.SIGTERM)
	if p := b.AwaitExit(pid); p.Exited.Sub(began) > 40*time.Second {
		t.Errorf("stop: took %v, want next to nothing", p.Exited.Sub(began))
	}
}

// A client that announces a body, sends a part of it and closes its side, is not waited for.
func TestBodyNeverFinished(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(backend.Echo))))
	c := b.Dial()
	c.Send(t, "POST /echo HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 100\r\n\r\nhalf")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(await.Hang))
	if _, err := io.Copy(io.Discard, c.R); http1.EndingOf(err) == http1.StillOn {
		t.Error("connection: still open")
	}
}

// A large answer that is under way arrives to its last byte, though the process is asked to stop.
func TestStopWithinABody(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	const size = 8 << 20 // more than the kernel buffers
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(backend.Echo))))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", fmt.Sprintf("/fixed/%d", size), nil)))
	if _, err := c.R.Peek(1); err != nil {
		t.Fatal(err)
	}
	b.Signal(syscall.SIGTERM)
	await.Until(t, "refusal of new connections", service.Refused(b))
	resp := c.Expect(t, "GET", 200)
	if string(resp.Body) != string(exchange.Pattern(size)) {
		t.Errorf("body: got %d bytes, want %d as sent", len(resp.Body), size)
	}
	if p := b.AwaitExit(pid); p.Outcome() != "exit status 0" {
		t.Errorf("the service: got %s", p.Outcome())
	}
}
