package upgrade

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
)

// Keep-alive connections in a drain: each moves to the successor or, where it cannot, is brought to a good end; and
// nothing takes longer than it must.

// A connection with a request under way moves when the response is out, whether its header was out before or not.
func TestBusyConnectionsMoveAfterTheirResponse(t *testing.T) {
	t.Parallel()
	const grace = 5 * time.Second // which nobody waits for
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", grace.String()))
	predecessor := b.Follow(b.PID())
	busy := map[string]*http1.Conn{"/hold": b.Dial(), "/begun": b.Dial()}
	for path, c := range busy {
		c.Send(t, string(http1.Request("GET", path, nil)))
	}
	g.Await(t, 2)
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	g.Open()
	for path, c := range busy {
		if resp := c.Expect(t, "GET", 200); resp.Close || !strings.HasSuffix(string(resp.Body), "world") {
			t.Errorf("%s: got close %v, body %q, want the connection kept, and the whole body", path, resp.Close, resp.Body)
		}
	}
	answered := time.Now()
	if !predecessor.Within(5 * time.Second) {
		t.Fatal("predecessor: alive 5 s after its last response")
	}
	if took := predecessor.Exited.Sub(answered); took > 450*time.Millisecond {
		t.Errorf("predecessor gone %v after its last response, want at once", took)
	}
	for path, c := range busy {
		c.Send(t, string(http1.Request("GET", "/", nil)))
		if resp := c.Expect(t, "GET", 200); resp.Close || string(resp.Body) != "open" {
			t.Errorf("%s, next request: got close %v, body %q, want the connection kept, open", path, resp.Close, resp.Body)
		}
	}
	if u := result(); u.Predecessor.RequestsFinished != 2 || u.Predecessor.Moved != 2 || u.Predecessor.Connections != (service.Connections{}) {
		t.Errorf("report of the drain: got %+v, want 2 requests finished, 2 connections moved, none closed", u.Predecessor)
	}
}

func TestHeaderNotSentAtTheDrain(t *testing.T) {
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
	if e := held.AwaitClose(time.Second); e != http1.Fin {
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
		t.Errorf("report of the drain: got %+v, want 2 requests finished, 2 closes announced, none cut", u.Predecessor)
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
	b := service.Start(t, service.Files(t), service.Args("-drain-timeout", "5s", "-migrate=false"))
	idle := b.Dial()
	idle.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	idle.Expect(t, "GET", 200)
	u := b.Upgrade()
	if u.Predecessor.DrainSeconds >= 2 || u.Predecessor.DrainSeconds < 0.9 {
		t.Errorf("drain: got %v s, want the grace of 1 s", u.Predecessor.DrainSeconds)
	}
	if u.Predecessor.Connections.Grace != 1 {
		t.Errorf("connections closed after the grace: got %+v, want 1", u.Predecessor.Connections)
	}
	if e := idle.AwaitClose(time.Second); e != http1.Fin {
		t.Errorf("idle connection: got %s, want FIN", e)
	}
}

// Within the grace a client that speaks is answered, and told.
func TestIdleConnectionSpeaksInTheGrace(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "5s", "-migrate=false"))
	idle, fresh := b.Dial(), b.Dial()
	idle.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	idle.Expect(t, "GET", 200)
	// Connected and accepted, but never used.
	await.Until(t, 5*time.Second, "the accept", func() bool { return b.Metric("baton_connections", "state", "new") >= 1 })
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	for name, c := range map[string]*http1.Conn{"idle": idle, "fresh": fresh} {
		c.Send(t, string(http1.Request("GET", "/4000.bin", nil)))
		if resp := c.Expect(t, "GET", 200); !resp.Close || len(resp.Body) != 4000 {
			t.Errorf("%s connection: got close %v, %d bytes, want an announced close, 4000", name, resp.Close, len(resp.Body))
		}
		if e := c.AwaitClose(time.Second); e != http1.Fin {
			t.Errorf("%s connection after its announced close: got %s, want FIN", name, e)
		}
	}
	if u := result(); u.Predecessor.DrainSeconds > 3 {
		t.Errorf("drain: got %v s, want it to end with its last connection, before the grace of 5 s", u.Predecessor.DrainSeconds)
	}
}

// Where nothing moves, a request that ends within the drain takes its connection with it at once.
func TestNoConnectionLeftAfterTheResponse(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", "500ms", "-migrate=false"))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	g.Open()
	c.Expect(t, "GET", 200)
	answered := time.Now()
	if e := c.AwaitClose(time.Second); e != http1.Fin {
		t.Errorf("connection: got %s, want FIN", e)
	}
	// 25 ms on an idle machine; these tests share it.
	if took := time.Since(answered); took > 250*time.Millisecond {
		t.Errorf("connection closed %v after its response, want at once", took)
	}
	if p := b.AwaitExit(pid, 5*time.Second); p.Exited.Sub(answered) > 450*time.Millisecond {
		t.Errorf("predecessor gone %v after its last response, want before a grace of 500 ms", p.Exited.Sub(answered))
	}
	result()
}

func TestDrainWithoutConnections(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t))
	await.Until(t, 5*time.Second, "no connections", func() bool {
		return b.Metric("baton_connections", "state", "idle")+b.Metric("baton_connections", "state", "active")+b.Metric("baton_connections", "state", "new") == 0
	})
	if u := b.Upgrade(); u.Predecessor.DrainSeconds > 0.3 {
		t.Errorf("drain: got %v s, want next to nothing", u.Predecessor.DrainSeconds)
	}
	began, pid := time.Now(), b.PID()
	b.Signal(syscall.SIGTERM)
	if p := b.AwaitExit(pid, 5*time.Second); p.Exited.Sub(began) > 700*time.Millisecond {
		t.Errorf("stop: took %v, want next to nothing", p.Exited.Sub(began))
	}
}

// A client that announces a body, sends a part of it and closes its side, is not waited for.
func TestBodyNeverFinished(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(backend.Echo))))
	c := b.Dial()
	c.Send(t, "POST /echo HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 100\r\n\r\nhalf")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.Copy(io.Discard, c.R); http1.EndingOf(err) == http1.StillOn {
		t.Error("connection: still open after 3 s")
	}
}

// Several requests sent at once are answered in order; the last answer in a drain says close where nothing moves, and
// none is lost before it.
func TestPipelining(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-migrate=false"))
	c := b.Dial()
	c.Send(t, strings.Repeat(string(http1.Request("GET", "/", nil)), 3))
	for range 3 {
		c.Expect(t, "GET", 200)
	}
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	g.Open()
	if resp := c.Expect(t, "GET", 200); !resp.Close {
		t.Error("last response: got the connection kept, want an announced close")
	}
	result()
}

// Requests that take no time and two seconds, across two upgrades: all are answered, by whichever generation.
func TestShortAndLongRequestsAcrossUpgrades(t *testing.T) {
	t.Parallel()
	url := backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			select {
			case <-time.After(2 * time.Second):
			case <-r.Context().Done():
			}
		}
		io.WriteString(w, "ok")
	}))
	b := service.Start(t, service.Args("-proxy", "/="+url))
	l := load.Load{Network: b.Network, Address: b.Address, Exchanges: []exchange.Exchange{exchange.New("GET", "/long", nil, 200, []byte("ok"))}, Pause: 100 * time.Millisecond}
	l.Clients = [load.Habits]int{load.BackToBack: 4, load.Pausing: 8, load.PerRequest: 4}
	long, stopLong := load.Start(t, l)
	l.Exchanges = []exchange.Exchange{exchange.New("GET", "/short", nil, 200, []byte("ok"))}
	short, stopShort := load.Start(t, l)
	for range 2 {
		before := long.Requests()
		await.Until(t, 10*time.Second, "long requests", func() bool { return long.Requests() > before })
		b.Upgrade()
	}
	if stopShort().Failures()+stopLong().Failures() != 0 {
		t.Errorf("short: %v\nlong: %v", short, long)
	}
	load.CheckKept(t, short, l.Clients)
	load.CheckKept(t, long, l.Clients)
}

// Streams that are under way stay with the predecessor; new requests reach the successor; then the streams end whole.
func TestStreamsThroughAnUpgrade(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g)))
	var streams []*http1.Conn
	for range 5 {
		c := b.Dial()
		c.Send(t, string(http1.Request("GET", "/begun", nil)))
		streams = append(streams, c)
	}
	g.Await(t, 5)
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	for range 5 {
		if resp := b.Get("/"); string(resp.Body) != "open" {
			t.Errorf("new request: got %q, want open", resp.Body)
		}
	}
	if s := b.Status(); len(s.Generations) != 2 || s.Generations[0].RequestsInFlight != 5 {
		t.Errorf("status: got %+v, want a predecessor with 5 requests in flight", s.Generations)
	}
	g.Open()
	for i, c := range streams {
		resp := c.Expect(t, "GET", 200)
		if string(resp.Body) != "hello, world" || resp.Header("Transfer-Encoding") != "chunked" {
			t.Errorf("stream %d: got %q, want hello, world, in chunks with their end", i+1, resp.Body)
		}
	}
	if u := result(); u.Predecessor.RequestsFinished != 5 || u.Predecessor.Moved != 5 {
		t.Errorf("requests finished in the drain: got %d, connections moved after it: %d, want 5 of each", u.Predecessor.RequestsFinished, u.Predecessor.Moved)
	}
}

// A large answer that is under way arrives to its last byte, though the process is asked to stop.
func TestStopWithinABody(t *testing.T) {
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
	await.Until(t, 5*time.Second, "refusal of new connections", service.Refused(b))
	resp := c.Expect(t, "GET", 200)
	if string(resp.Body) != string(exchange.Pattern(size)) {
		t.Errorf("body: got %d bytes, want %d as sent", len(resp.Body), size)
	}
	if p := b.AwaitExit(pid, 5*time.Second); p.Outcome() != "exit status 0" {
		t.Errorf("the service: got %s", p.Outcome())
	}
}

// Partial requests at the start of a drain.
func TestHalfARequestInTheDrain(t *testing.T) {
	for _, migrate := range []bool{true, false} {
		t.Run(fmt.Sprintf("migrate=%v", migrate), func(t *testing.T) { halfARequest(t, migrate) })
	}
}

func halfARequest(t *testing.T, migrate bool) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "1s", "-drain-timeout", "5s", fmt.Sprintf("-migrate=%v", migrate)))
	half, slow, lost := b.Dial(), b.Dial(), b.Dial()
	whole := string(http1.Request("GET", "/100.bin", nil))
	half.Send(t, whole[:len(whole)-2]) // all but the last line
	slow.Send(t, whole[:8])
	lost.Send(t, whole[:8])
	await.Until(t, 5*time.Second, "the bytes to be read", func() bool { return b.Metric("baton_connections", "state", "new") >= 3 })
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	half.Send(t, whole[len(whole)-2:])
	slow.Send(t, whole[8:])
	for name, c := range map[string]*http1.Conn{"header without its end": half, "half a request line": slow} {
		if resp := c.Expect(t, "GET", 200); resp.Close != !migrate {
			t.Errorf("%s, finished in the drain: got close %v, want %v", name, resp.Close, !migrate)
		}
	}
	u := result()
	if u.Predecessor.DrainSeconds > 5.5 {
		t.Errorf("drain: got %v s, want the deadline of 5 s at most", u.Predecessor.DrainSeconds)
	}
	// Never finished: an answer or an end, but no open connection.
	lost.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := io.Copy(io.Discard, lost.R); http1.EndingOf(err) == http1.StillOn {
		t.Error("request that is never finished: connection still open after the drain")
	}
}

// One byte at a time: the header timeout ends it, or the drain deadline if that comes first.
func TestSlowHeader(t *testing.T) {
	tests := []struct {
		name  string
		flags []string
		drain bool
	}{
		{"header timeout", []string{"-read-header-timeout", "1s"}, false},
		{"drain deadline", []string{"-read-header-timeout", "1m", "-drain-timeout", "1s", "-idle-grace", "200ms"}, true},
		{"header timeout in the drain", []string{"-read-header-timeout", "1s", "-drain-timeout", "1m", "-idle-grace", "200ms"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Args(tt.flags...))
			c := b.Dial()
			began := time.Now()
			ended, stop := make(chan http1.Ending, 1), make(chan struct{})
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(stop)
			wg.Go(func() {
				drip := time.NewTicker(100 * time.Millisecond)
				defer drip.Stop()
				for _, char := range []byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1000)) {
					if _, err := c.Write([]byte{char}); err != nil {
						return
					}
					select {
					case <-drip.C:
					case <-stop:
						return
					}
				}
			})
			wg.Go(func() {
				c.SetReadDeadline(time.Now().Add(10 * time.Second))
				_, err := io.Copy(io.Discard, c.R)
				ended <- http1.EndingOf(err)
			})
			if tt.drain {
				b.Upgrade()
			}
			if <-ended == http1.StillOn {
				t.Error("connection: still open after 10 s")
			}
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("connection closed after %v, want about 1 s", took)
			}
		})
	}
}

// A stop refuses after it has begun to refuse: successes, then refusals, never mixed.
func TestSuccessesThenRefusals(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g)))
	held := b.Dial()
	held.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	var ok, no int
	signalled := false
	for no < 50 {
		if ok == 20 && !signalled {
			signalled = true
			b.Signal(syscall.SIGTERM)
		}
		resp, err := http1.Fetch(b.Network, b.Address, "GET", "/")
		switch {
		case err == nil && resp.Status == 200:
			if no > 0 {
				t.Fatalf("an answer after %d refusals", no)
			}
			ok++
		case err != nil:
			c, dialled := http1.Dial(b.Network, b.Address, time.Second)
			if dialled == nil {
				c.Close()
				t.Fatalf("request: %v, want an answer or a refusal", err)
			}
			no++
		default:
			t.Fatalf("status: got %d, want 200", resp.Status)
		}
	}
	g.Open()
	held.Expect(t, "GET", 200)
}

// A full accept queue at the moment of the handoff: everybody in it is served.
func TestFullAcceptQueue(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t))
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files()}
	l.Clients = [load.Habits]int{load.PerRequest: 150, load.PerRequestEnd: 150}
	counts, stop := load.Start(t, l)
	for range 3 {
		before := counts.Requests()
		await.Until(t, 20*time.Second, "requests", func() bool { return counts.Requests() > before+300 })
		b.Upgrade()
	}
	if stop().Failures() != 0 {
		t.Error(counts)
	}
}

// The crowd that finds every hole: hundreds of connections that pause at random, and send what must not be sent twice.
func TestPausingPosts(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Proxied(t), service.Args("-idle-grace", "500ms"))
	l := load.Load{Network: b.Network, Address: b.Address, Pause: 50 * time.Millisecond, Exchanges: []exchange.Exchange{
		exchange.New("POST", "/echo", exchange.Pattern(300), 200, exchange.Pattern(300)),
	}}
	l.Clients[load.Pausing] = 200
	counts, stop := load.Start(t, l)
	for range 5 {
		before := counts.Requests()
		await.Until(t, 20*time.Second, "requests", func() bool { return counts.Requests() > before+1000 })
		b.Upgrade()
	}
	if stop(); counts.Failures() != 0 {
		t.Error(counts)
	}
	load.CheckKept(t, counts, l.Clients)
}
