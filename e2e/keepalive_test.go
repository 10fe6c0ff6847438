// Keep-alive connections in a drain: each moves to the successor or, where it cannot, is brought to a good end; and
// nothing takes longer than it must.
package e2e

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
)

// upgradeInBackground asks for an upgrade, and returns once the successor serves.
func upgradeInBackground(t *testing.T, b *Baton) (checked func() *upgraded) {
	t.Helper()
	next := b.Status().Generation + 1
	result := b.UpgradeMeanwhile()
	await(t, 15*time.Second, "the successor", func() bool {
		s, err := b.TryStatus()
		return err == nil && s.Generation == next && s.State == "serving"
	})
	return func() *upgraded {
		t.Helper()
		u := result()
		if u.Code != 0 {
			t.Errorf("upgrade: got exit code %d, %s %s", u.Code, u.Stdout, u.Errors)
		}
		return u
	}
}

// awaitDrain waits until a predecessor has stopped accepting, which it says itself in its status.
func awaitDrain(t *testing.T, b *Baton) {
	t.Helper()
	await(t, 5*time.Second, "the drain", func() bool {
		for _, g := range b.Status().Generations {
			if g.State == "draining" {
				return true
			}
		}
		return false
	})
}

// A connection with a request under way moves when the response is out, whether its header was out before or not.
func TestBusyConnectionsMoveAfterTheirResponse(t *testing.T) {
	t.Parallel()
	const grace = 5 * time.Second // which nobody waits for
	g := newGate(t)
	b := start(t, args("-proxy", "/="+backend(t, g), "-idle-grace", grace.String()))
	predecessor := b.follow(b.PID())
	busy := map[string]*conn{"/hold": b.Dial(), "/begun": b.Dial()}
	for path, c := range busy {
		c.send(t, string(request("GET", path, nil)))
	}
	g.await(t, 2)
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	g.open()
	for path, c := range busy {
		if resp := c.expect(t, "GET", 200); resp.Close || !strings.HasSuffix(string(resp.Body), "world") {
			t.Errorf("%s: got close %v, body %q, want the connection kept, and the whole body", path, resp.Close, resp.Body)
		}
	}
	answered := time.Now()
	if !predecessor.within(5 * time.Second) {
		t.Fatal("predecessor: alive 5 s after its last response")
	}
	if took := predecessor.exited.Sub(answered); took > 450*time.Millisecond {
		t.Errorf("predecessor gone %v after its last response, want at once", took)
	}
	for path, c := range busy {
		c.send(t, string(request("GET", "/", nil)))
		if resp := c.expect(t, "GET", 200); resp.Close || string(resp.Body) != "open" {
			t.Errorf("%s, next request: got close %v, body %q, want the connection kept, open", path, resp.Close, resp.Body)
		}
	}
	if u := result(); u.Predecessor.RequestsFinished != 2 || u.Predecessor.Moved != 2 || u.Predecessor.Connections != (connections{}) {
		t.Errorf("report of the drain: got %+v, want 2 requests finished, 2 connections moved, none closed", u.Predecessor)
	}
}

func TestHeaderNotSentAtTheDrain(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := start(t, args("-proxy", "/="+backend(t, g), "-migrate=false"))
	held, begun := b.Dial(), b.Dial()
	held.send(t, string(request("GET", "/hold", nil)))
	begun.send(t, string(request("GET", "/begun", nil)))
	g.await(t, 2)
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	g.open()
	if resp := held.expect(t, "GET", 200); !resp.Close || string(resp.Body) != "world" {
		t.Errorf("header not out at the drain: got close %v, body %q, want an announced close, world", resp.Close, resp.Body)
	}
	if e := held.awaitClose(time.Second); e != fin {
		t.Errorf("connection after its announced close: got %s, want FIN", e)
	}
	if resp := begun.expect(t, "GET", 200); string(resp.Body) != "hello, world" {
		t.Errorf("header out at the drain: got body %q, want hello, world", resp.Body)
	}
	// Its response could not announce anything, so it is idle now, and a request within the grace is answered.
	begun.send(t, string(request("GET", "/", nil)))
	if resp := begun.expect(t, "GET", 200); !resp.Close {
		t.Error("request within the grace: got the connection kept, want an announced close")
	}
	u := result()
	if u.Predecessor.RequestsFinished < 2 || u.Predecessor.Connections.Announced < 2 || u.Predecessor.Connections.Cut != 0 {
		t.Errorf("report of the drain: got %+v, want 2 requests finished, 2 closes announced, none cut", u.Predecessor)
	}
}

func TestNoDrainNoClose(t *testing.T) {
	t.Parallel()
	b := start(t, files(t))
	c := b.Dial()
	for i := range 50 {
		c.send(t, string(request("GET", "/100.bin", nil)))
		if resp := c.expect(t, "GET", 200); resp.Close {
			t.Fatalf("response %d: got Connection: close, want the connection kept", i+1)
		}
	}
}

func TestIdleConnectionDoesNotHoldTheDrain(t *testing.T) {
	t.Parallel()
	b := start(t, files(t), args("-drain-timeout", "5s", "-migrate=false"))
	idle := b.Dial()
	idle.send(t, string(request("GET", "/100.bin", nil)))
	idle.expect(t, "GET", 200)
	u := b.Upgrade()
	if u.Predecessor.DrainSeconds >= 2 || u.Predecessor.DrainSeconds < 0.9 {
		t.Errorf("drain: got %v s, want the grace of 1 s", u.Predecessor.DrainSeconds)
	}
	if u.Predecessor.Connections.Grace != 1 {
		t.Errorf("connections closed after the grace: got %+v, want 1", u.Predecessor.Connections)
	}
	if e := idle.awaitClose(time.Second); e != fin {
		t.Errorf("idle connection: got %s, want FIN", e)
	}
}

// Within the grace a client that speaks is answered, and told.
func TestIdleConnectionSpeaksInTheGrace(t *testing.T) {
	t.Parallel()
	b := start(t, files(t), args("-idle-grace", "5s", "-migrate=false"))
	idle, fresh := b.Dial(), b.Dial()
	idle.send(t, string(request("GET", "/100.bin", nil)))
	idle.expect(t, "GET", 200)
	// Connected and accepted, but never used.
	await(t, 5*time.Second, "the accept", func() bool { return b.Metric("baton_connections", "state", "new") >= 1 })
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	for name, c := range map[string]*conn{"idle": idle, "fresh": fresh} {
		c.send(t, string(request("GET", "/4000.bin", nil)))
		if resp := c.expect(t, "GET", 200); !resp.Close || len(resp.Body) != 4000 {
			t.Errorf("%s connection: got close %v, %d bytes, want an announced close, 4000", name, resp.Close, len(resp.Body))
		}
		if e := c.awaitClose(time.Second); e != fin {
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
	g := newGate(t)
	b := start(t, args("-proxy", "/="+backend(t, g), "-idle-grace", "500ms", "-migrate=false"))
	pid := b.PID()
	c := b.Dial()
	c.send(t, string(request("GET", "/hold", nil)))
	g.await(t, 1)
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	g.open()
	c.expect(t, "GET", 200)
	answered := time.Now()
	if e := c.awaitClose(time.Second); e != fin {
		t.Errorf("connection: got %s, want FIN", e)
	}
	// 25 ms on an idle machine; these tests share it.
	if took := time.Since(answered); took > 250*time.Millisecond {
		t.Errorf("connection closed %v after its response, want at once", took)
	}
	if p := b.awaitExit(pid, 5*time.Second); p.exited.Sub(answered) > 450*time.Millisecond {
		t.Errorf("predecessor gone %v after its last response, want before a grace of 500 ms", p.exited.Sub(answered))
	}
	result()
}

func TestDrainWithoutConnections(t *testing.T) {
	t.Parallel()
	b := start(t, files(t))
	await(t, 5*time.Second, "no connections", func() bool {
		return b.Metric("baton_connections", "state", "idle")+b.Metric("baton_connections", "state", "active")+b.Metric("baton_connections", "state", "new") == 0
	})
	if u := b.Upgrade(); u.Predecessor.DrainSeconds > 0.3 {
		t.Errorf("drain: got %v s, want next to nothing", u.Predecessor.DrainSeconds)
	}
	began, pid := time.Now(), b.PID()
	b.Signal(syscall.SIGTERM)
	if p := b.awaitExit(pid, 5*time.Second); p.exited.Sub(began) > 700*time.Millisecond {
		t.Errorf("stop: took %v, want next to nothing", p.exited.Sub(began))
	}
}

// A client that announces a body, sends a part of it and closes its side, is not waited for.
func TestBodyNeverFinished(t *testing.T) {
	t.Parallel()
	b := start(t, args("-proxy", "/="+backend(t, http.HandlerFunc(echo))))
	c := b.Dial()
	c.send(t, "POST /echo HTTP/1.1\r\nHost: e2e.test\r\nContent-Length: 100\r\n\r\nhalf")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.Copy(io.Discard, c.r); endingOf(err) == stillOn {
		t.Error("connection: still open after 3 s")
	}
}

// Several requests sent at once are answered in order; the last answer in a drain says close where nothing moves, and
// none is lost before it.
func TestPipelining(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := start(t, args("-proxy", "/="+backend(t, g), "-migrate=false"))
	c := b.Dial()
	c.send(t, strings.Repeat(string(request("GET", "/", nil)), 3))
	for range 3 {
		c.expect(t, "GET", 200)
	}
	c.send(t, string(request("GET", "/hold", nil)))
	g.await(t, 1)
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	g.open()
	if resp := c.expect(t, "GET", 200); !resp.Close {
		t.Error("last response: got the connection kept, want an announced close")
	}
	result()
}

// Requests that take no time and two seconds, across two upgrades: all are answered, by whichever generation.
func TestShortAndLongRequestsAcrossUpgrades(t *testing.T) {
	t.Parallel()
	url := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			select {
			case <-time.After(2 * time.Second):
			case <-r.Context().Done():
			}
		}
		io.WriteString(w, "ok")
	}))
	b := start(t, args("-proxy", "/="+url))
	l := load{network: b.Network, address: b.Address, exchanges: []exchange{newExchange("GET", "/long", nil, 200, []byte("ok"))}, pause: 100 * time.Millisecond}
	l.clients = [habits]int{backToBack: 4, pausing: 8, perRequest: 4}
	long, stopLong := startLoad(t, l)
	l.exchanges = []exchange{newExchange("GET", "/short", nil, 200, []byte("ok"))}
	short, stopShort := startLoad(t, l)
	for range 2 {
		before := long.Requests()
		await(t, 10*time.Second, "long requests", func() bool { return long.Requests() > before })
		b.Upgrade()
	}
	if stopShort().Failures()+stopLong().Failures() != 0 {
		t.Errorf("short: %v\nlong: %v", short, long)
	}
	checkKept(t, short, l.clients)
	checkKept(t, long, l.clients)
}

// Streams that are under way stay with the predecessor; new requests reach the successor; then the streams end whole.
func TestStreamsThroughAnUpgrade(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := start(t, args("-proxy", "/="+backend(t, g)))
	var streams []*conn
	for range 5 {
		c := b.Dial()
		c.send(t, string(request("GET", "/begun", nil)))
		streams = append(streams, c)
	}
	g.await(t, 5)
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	for range 5 {
		if resp := b.Get("/"); string(resp.Body) != "open" {
			t.Errorf("new request: got %q, want open", resp.Body)
		}
	}
	if s := b.Status(); len(s.Generations) != 2 || s.Generations[0].RequestsInFlight != 5 {
		t.Errorf("status: got %+v, want a predecessor with 5 requests in flight", s.Generations)
	}
	g.open()
	for i, c := range streams {
		resp := c.expect(t, "GET", 200)
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
	b := start(t, args("-proxy", "/="+backend(t, http.HandlerFunc(echo))))
	pid := b.PID()
	c := b.Dial()
	c.send(t, string(request("GET", fmt.Sprintf("/fixed/%d", size), nil)))
	if _, err := c.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	b.Signal(syscall.SIGTERM)
	await(t, 5*time.Second, "refusal of new connections", refused(b))
	resp := c.expect(t, "GET", 200)
	if string(resp.Body) != string(pattern(size)) {
		t.Errorf("body: got %d bytes, want %d as sent", len(resp.Body), size)
	}
	if p := b.awaitExit(pid, 5*time.Second); p.outcome() != "exit status 0" {
		t.Errorf("the service: got %s", p.outcome())
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
	b := start(t, files(t), args("-idle-grace", "1s", "-drain-timeout", "5s", fmt.Sprintf("-migrate=%v", migrate)))
	half, slow, lost := b.Dial(), b.Dial(), b.Dial()
	whole := string(request("GET", "/100.bin", nil))
	half.send(t, whole[:len(whole)-2]) // all but the last line
	slow.send(t, whole[:8])
	lost.send(t, whole[:8])
	await(t, 5*time.Second, "the bytes to be read", func() bool { return b.Metric("baton_connections", "state", "new") >= 3 })
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	half.send(t, whole[len(whole)-2:])
	slow.send(t, whole[8:])
	for name, c := range map[string]*conn{"header without its end": half, "half a request line": slow} {
		if resp := c.expect(t, "GET", 200); resp.Close != !migrate {
			t.Errorf("%s, finished in the drain: got close %v, want %v", name, resp.Close, !migrate)
		}
	}
	u := result()
	if u.Predecessor.DrainSeconds > 5.5 {
		t.Errorf("drain: got %v s, want the deadline of 5 s at most", u.Predecessor.DrainSeconds)
	}
	// Never finished: an answer or an end, but no open connection.
	lost.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := io.Copy(io.Discard, lost.r); endingOf(err) == stillOn {
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
			b := start(t, files(t), args(tt.flags...))
			c := b.Dial()
			began := time.Now()
			ended, stop := make(chan ending, 1), make(chan struct{})
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
				_, err := io.Copy(io.Discard, c.r)
				ended <- endingOf(err)
			})
			if tt.drain {
				b.Upgrade()
			}
			if <-ended == stillOn {
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
	g := newGate(t)
	b := start(t, args("-proxy", "/="+backend(t, g)))
	held := b.Dial()
	held.send(t, string(request("GET", "/hold", nil)))
	g.await(t, 1)
	var ok, no int
	signalled := false
	for no < 50 {
		if ok == 20 && !signalled {
			signalled = true
			b.Signal(syscall.SIGTERM)
		}
		resp, err := fetch(b.Network, b.Address, "GET", "/")
		switch {
		case err == nil && resp.Status == 200:
			if no > 0 {
				t.Fatalf("an answer after %d refusals", no)
			}
			ok++
		case err != nil:
			c, dialled := dial(b.Network, b.Address, time.Second)
			if dialled == nil {
				c.Close()
				t.Fatalf("request: %v, want an answer or a refusal", err)
			}
			no++
		default:
			t.Fatalf("status: got %d, want 200", resp.Status)
		}
	}
	g.open()
	held.expect(t, "GET", 200)
}

// A full accept queue at the moment of the handoff: everybody in it is served.
func TestFullAcceptQueue(t *testing.T) {
	t.Parallel()
	b := start(t, files(t))
	l := load{network: b.Network, address: b.Address, grace: b.grace(), exchanges: fileExchanges()}
	l.clients = [habits]int{perRequest: 150, perRequestEnd: 150}
	counts, stop := startLoad(t, l)
	for range 3 {
		before := counts.Requests()
		await(t, 20*time.Second, "requests", func() bool { return counts.Requests() > before+300 })
		b.Upgrade()
	}
	if stop().Failures() != 0 {
		t.Error(counts)
	}
}

// The crowd that finds every hole: hundreds of connections that pause at random, and send what must not be sent twice.
func TestPausingPosts(t *testing.T) {
	t.Parallel()
	b := start(t, proxied(t), args("-idle-grace", "500ms"))
	l := load{network: b.Network, address: b.Address, pause: 50 * time.Millisecond, exchanges: []exchange{
		newExchange("POST", "/echo", pattern(300), 200, pattern(300)),
	}}
	l.clients[pausing] = 200
	counts, stop := startLoad(t, l)
	for range 5 {
		before := counts.Requests()
		await(t, 20*time.Second, "requests", func() bool { return counts.Requests() > before+1000 })
		b.Upgrade()
	}
	if stop(); counts.Failures() != 0 {
		t.Error(counts)
	}
	checkKept(t, counts, l.clients)
}
