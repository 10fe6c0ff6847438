package upgrade

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Keep-alive connections in a drain: each moves to the successor or, where it cannot, is closed gracefully; and
// nothing takes longer than it must.

// A connection with a request under way moves when the response is out, whether its header was out before or not.
func TestBusyConnectionsMoveAfterTheirResponse(t *testing.T) {
	t.Parallel()
	const grace = 45 * time.Second // which nobody waits for
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
	if !predecessor.Within(await.Hang) {
		t.Fatal("predecessor: alive long after its last response")
	}
	if took := predecessor.Exited.Sub(answered); took > 40*time.Second {
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
	tier.Slow(t, "makes long requests")
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
	l := load.Load{Network: b.Network, Address: b.Address, Exchanges: []exchange.Exchange{exchange.New("GET", "/long", nil, 200, []byte("ok"))}}.Paced()
	l.Clients = [load.Habits]int{load.BackToBack: 4, load.Pausing: 8, load.PerRequest: 4}
	long, stopLong := load.Start(t, l)
	l.Exchanges = []exchange.Exchange{exchange.New("GET", "/short", nil, 200, []byte("ok"))}
	short, stopShort := load.Start(t, l)
	for range 2 {
		before := long.Requests()
		await.Until(t, "long requests", func() bool { return long.Requests() > before })
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
	if u := result(); u.Predecessor.RequestsFinished != 5 || u.Predecessor.Moved < 5 {
		t.Errorf("requests finished in the drain: got %d, connections moved after it: %d, want 5, and 5 at least", u.Predecessor.RequestsFinished, u.Predecessor.Moved)
	}
}

// The crowd that finds every hole: hundreds of connections that pause at random, and send what must not be sent twice.
func TestPausingPosts(t *testing.T) {
	tier.Slow(t, "makes slow requests")
	t.Parallel()
	b := service.Start(t, service.Proxied(t), service.Args("-idle-grace", "500ms"))
	l := load.Load{Network: b.Network, Address: b.Address, Pause: 100 * time.Millisecond, Exchanges: []exchange.Exchange{
		exchange.New("POST", "/echo", exchange.Pattern(300), 200, exchange.Pattern(300)),
	}}
	l.Clients[load.Pausing] = 200
	counts, stop := load.Start(t, l)
	for range tier.Times(t, "upgrades", 0, 3, 5) {
		before := counts.Requests()
		await.Until(t, "requests", func() bool { return counts.Requests() > before+500 })
		b.Upgrade()
	}
	if stop(); counts.Failures() != 0 {
		t.Error(counts)
	}
	load.CheckKept(t, counts, l.Clients)
}
