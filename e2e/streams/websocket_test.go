package streams

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// What lasts longer than a request: WebSockets and event streams through the proxy, and the live page, in HTTP/1.1 and
// HTTP/2, over TLS and without; the drain closes each gracefully.

// webSocketEcho is a backend that says what it hears.
func webSocketEcho(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/ws" {
		http.NotFound(w, r)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// webSocket connects with /ws.
func webSocket(o service.Over, ctx context.Context, b *service.Baton) (*websocket.Conn, error) {
	transport := &http.Transport{TLSClientConfig: o.Config}
	c, _, err := websocket.Dial(ctx, o.URL("ws", b, "/ws"), &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	return c, err
}

// dialWebSocket connects, and returns a way to say something and hear it again.
func dialWebSocket(o service.Over, t *testing.T, b *service.Baton) (c *websocket.Conn, say func(string) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := webSocket(o, ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	say = func(s string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Write(ctx, websocket.MessageText, []byte(s)); err != nil {
			return err
		}
		_, heard, err := c.Read(ctx)
		if err == nil && string(heard) != s {
			t.Errorf("message: got %q, want %q", heard, s)
		}
		return err
	}
	if err := say("first"); err != nil {
		t.Fatal(err)
	}
	return c, say
}

func TestWebSocketThroughAnUpgrade(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Args("-migrate=false", "-proxy", "/="+backend.Start(t, http.HandlerFunc(webSocketEcho)), "-idle-grace", "200ms"))
	c, say := dialWebSocket(service.Over{}, t, b)
	pid := b.PID()
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	// Well beyond the grace: a conversation is not an idle connection.
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		if err := say("still there?"); err != nil {
			t.Fatalf("message in the drain: %v", err)
		}
	}
	if !b.Follow(pid).Alive() {
		t.Error("predecessor: gone under its WebSocket")
	}
	_, other := dialWebSocket(service.Over{}, t, b)
	if err := other("to the successor"); err != nil {
		t.Errorf("new WebSocket: %v", err)
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v, want the close frame answered", err)
	}
	b.AwaitExit(pid)
	if u := result(); u.Predecessor.Connections.Cut != 0 {
		t.Errorf("report of the drain: got %+v, want nothing closed forcibly", u.Predecessor)
	}
	if err := other("on it goes"); err != nil {
		t.Errorf("WebSocket of the successor: %v", err)
	}
}

// endings are the ways in which WebSockets end, counted by the status of the close frame; -1 is a
// connection that breaks off without one, which a browser shows as 1006.
type endings struct {
	mu   sync.Mutex
	seen map[websocket.StatusCode]int
}

func (f *endings) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = make(map[websocket.StatusCode]int)
	}
	f.seen[websocket.CloseStatus(err)]++
}

func (f *endings) count(status websocket.StatusCode) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[status]
}

func (f *endings) check(t *testing.T, whose string, status websocket.StatusCode, want int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) != 1 || f.seen[status] != want {
		t.Errorf("%s saw ends %v, want %d with %v", whose, f.seen, want, status)
	}
}

// noting is webSocketEcho that notes how its conversations end.
func noting(ends *endings) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			kind, message, err := c.Read(r.Context())
			if err == nil {
				err = c.Write(r.Context(), kind, message)
			}
			if err != nil {
				if websocket.CloseStatus(err) < 0 { // the write failed because the other side has closed
					if _, _, closed := c.Read(r.Context()); websocket.CloseStatus(closed) >= 0 {
						err = closed
					}
				}
				ends.add(err)
				return
			}
		}
	}
}

// Each WebSocket that does not migrate lives through the drain until its grace is over, and then ends with 1001 on both sides.
// Its client finds the successor, and goes on.
func TestWebSocketsOverUpgrades(t *testing.T) {
	tier.Slow(t, "keeps WebSockets through upgrades")
	t.Parallel()
	t.Run("plaintext", func(t *testing.T) {
		t.Parallel()
		webSocketsOverUpgrades(t, false, tier.Times(t, "upgrades", 0, 4, 10))
	})
	t.Run("TLS", func(t *testing.T) { t.Parallel(); webSocketsOverUpgrades(t, true, tier.Times(t, "upgrades", 0, 3, 5)) })
}

func webSocketsOverUpgrades(t *testing.T, secure bool, upgrades int) {
	const clients = 10
	var backends, seen endings
	way, clientsWay := service.PlainOrSecured(t, secure)
	b := service.Start(t, way, service.Args("-proxy", "/="+backend.Start(t, noting(&backends)), "-websocket-grace", "300ms", "-drain-timeout", "20s", "-migrate=false"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	stop := make(chan struct{})
	var (
		all    sync.WaitGroup
		echoes atomic.Int64
		ends   = make(chan struct{}, clients*(upgrades+1))
	)
	converse := func(c *websocket.Conn, n int) error {
		message := exchange.Pattern(1 + n*n*n%70_000)
		for {
			select {
			case <-stop:
				return c.Close(websocket.StatusNormalClosure, "")
			default:
			}
			time.Sleep(time.Duration(2+n%2*n) * time.Millisecond) // or the load takes all of the machine
			wrote := make(chan error, 1)
			go func() { wrote <- c.Write(ctx, websocket.MessageBinary, message) }()
			_, heard, err := c.Read(ctx)
			if err != nil {
				<-wrote
				return err
			}
			if err := <-wrote; err != nil {
				return err
			}
			if !bytes.Equal(heard, message) {
				t.Errorf("message of %d bytes: got %d others", len(message), len(heard))
			}
			echoes.Add(1)
		}
	}
	for n := range clients {
		all.Go(func() {
			for {
				c, err := webSocket(clientsWay, ctx, b)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				c.SetReadLimit(1 << 20)
				err = converse(c, 7*n+1)
				c.CloseNow()
				if err == nil {
					return
				}
				seen.add(err)
				ends <- struct{}{}
			}
		})
	}
	for i := range upgrades {
		await.Until(t, "WebSockets of all clients", func() bool {
			s := b.Status()
			return len(s.Generations) == 1 && s.Generations[0].Connections.Hijacked == clients
		})
		if got := b.Metric("baton_connections", "state", "hijacked"); got != clients {
			t.Errorf("metric: got %v hijacked connections, want %d", got, clients)
		}
		before := echoes.Load()
		u := b.Upgrade()
		p := u.Predecessor
		if !p.Drained || p.Connections.Hijacked+p.Connections.Client != clients || p.RequestsFinished != clients || p.Connections.Cut != 0 || p.DrainSeconds < 0.3 || p.DrainSeconds > 3+service.Slack.Seconds() {
			t.Errorf("upgrade %d: report %+v, want %d finished and closed at the end of a grace of 300 ms", i+1, p, clients)
		}
		for range clients {
			<-ends
		}
		if echoes.Load() == before {
			t.Errorf("upgrade %d: not one message echoed in its drain", i+1)
		}
	}
	close(stop)
	all.Wait()
	seen.check(t, "clients", websocket.StatusGoingAway, clients*upgrades)
	await.Until(t, "ends at the backend", func() bool { return backends.count(websocket.StatusGoingAway) >= clients*upgrades })
	if broken := backends.count(-1); broken > 0 {
		t.Errorf("backend: %d WebSockets broke off, want none", broken)
	}
}

// However its peers behave, a WebSocket does not hold the drain, and none is cut by its deadline.
func TestHundredWebSocketsDoNotHoldTheDrain(t *testing.T) {
	tier.Slow(t, "makes a hundred WebSockets")
	t.Parallel()
	const reading, deaf = 80, 20
	for _, tt := range []struct {
		name     string
		secure   bool
		flags    []string
		from, to time.Duration // for the drain
	}{
		{"at their grace", false, []string{"-websocket-grace", "500ms", "-drain-timeout", "30s", "-migrate=false"}, 500 * time.Millisecond, 500*time.Millisecond + time.Second + service.Slack},
		{"at their grace over TLS", true, []string{"-websocket-grace", "500ms", "-drain-timeout", "30s", "-migrate=false"}, 500 * time.Millisecond, 500*time.Millisecond + time.Second + service.Slack},
		// The deaf ones are closed 100 ms before the deadline.
		{"at the deadline", false, []string{"-drain-timeout", "10s", "-migrate=false"}, 9 * time.Second, 10*time.Second + service.Slack},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var backends, seen endings
			way, clientsWay := service.PlainOrSecured(t, tt.secure)
			b := service.Start(t, way, service.Args(append(tt.flags, "-proxy", "/="+backend.Start(t, noting(&backends)))...))
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			var all sync.WaitGroup
			for i := range reading + deaf {
				c, err := webSocket(clientsWay, ctx, b)
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				if i < reading {
					all.Go(func() { _, _, err := c.Read(ctx); seen.add(err) })
				}
			}
			p := b.Upgrade().Predecessor
			took := time.Duration(p.DrainSeconds * float64(time.Second))
			if took < tt.from || took > tt.to || p.Connections.Hijacked+p.Connections.Client != reading+deaf || p.Connections.Cut != 0 {
				t.Errorf("drain took %v, report %+v; want between %v and %v, all closed and none closed forcibly", took, p.Connections, tt.from, tt.to)
			}
			all.Wait()
			seen.check(t, "clients", websocket.StatusGoingAway, reading)
			await.Until(t, "ends at the backend", func() bool { return backends.count(websocket.StatusGoingAway) == reading+deaf })
		})
	}
}

func TestWebSocketAtTheDrainDeadline(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	second := await.Unhurried(time.Second)
	upgrade := func(b *service.Baton) { b.Upgrade() }
	tests := []struct {
		name   string
		secure bool
		drain  time.Duration
		grace  string
		end    func(b *service.Baton)
	}{
		{"upgrade", false, 2 * second, "0s", upgrade},
		{"upgrade with a longer grace", true, 2 * second, "1h", upgrade},
		{"brief", false, second * 9 / 10, "0s", upgrade}, // less than what the drain hook may take
		{"stop", false, 2 * second, "0s", func(b *service.Baton) { b.Signal(syscall.SIGTERM) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			way, clientsWay := service.PlainOrSecured(t, tt.secure)
			b := service.Start(t, way, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(webSocketEcho)), "-idle-grace", "200ms",
				"-drain-timeout", tt.drain.String(), "-websocket-grace", tt.grace, "-migrate=false"))
			_, say := dialWebSocket(clientsWay, t, b)
			pid, began := b.PID(), time.Now()
			tt.end(b)
			var err error
			for err == nil {
				time.Sleep(2 * time.Millisecond) // or the conversation takes all of the machine
				if err = say("until the deadline"); time.Since(began) > await.Hang {
					t.Fatalf("WebSocket: alive %v after the drain began, with a deadline of %v", await.Hang, tt.drain)
				}
			}
			if took := time.Since(began); took < tt.drain*85/100 {
				t.Errorf("WebSocket ended after %v, want shortly before the deadline of %v", took, tt.drain)
			}
			if got := websocket.CloseStatus(err); got != websocket.StatusGoingAway {
				t.Errorf("WebSocket ended with %v, want a close frame with status 1001", err)
			}
			if p := b.AwaitExit(pid); p.Known && p.Outcome() != "exit status 0" {
				t.Errorf("process: got %s, want exit status 0", p.Outcome())
			}
		})
	}
}
