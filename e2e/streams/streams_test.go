package streams

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
)

// What lasts longer than a request: WebSockets and event streams through the proxy, and the live page, in HTTP/1.1 and
// HTTP/2, over TLS and without; each is brought to a good end by the drain.

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
	c, _, err := websocket.Dial(ctx, o.Url("ws", b, "/ws"), &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
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
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(webSocketEcho)), "-idle-grace", "200ms"))
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
	b.AwaitExit(pid, 3*time.Second)
	if u := result(); u.Predecessor.Connections.Cut != 0 {
		t.Errorf("report of the drain: got %+v, want nothing cut", u.Predecessor)
	}
	if err := other("on it goes"); err != nil {
		t.Errorf("WebSocket of the successor: %v", err)
	}
}

// farewells are the ways in which WebSockets end, counted by the status of the close frame; -1 is a
// connection that breaks off without one, which a browser shows as 1006.
type farewells struct {
	mu   sync.Mutex
	seen map[websocket.StatusCode]int
}

func (f *farewells) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = make(map[websocket.StatusCode]int)
	}
	f.seen[websocket.CloseStatus(err)]++
}

func (f *farewells) count(status websocket.StatusCode) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[status]
}

func (f *farewells) check(t *testing.T, whose string, status websocket.StatusCode, want int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) != 1 || f.seen[status] != want {
		t.Errorf("%s saw ends %v, want %d with %v", whose, f.seen, want, status)
	}
}

// noting is webSocketEcho that notes how its conversations end.
func noting(ends *farewells) http.HandlerFunc {
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

// Each WebSocket lives through the drain until its grace is over, and then ends with 1001 on both sides.
// Its client finds the successor, and goes on.
func TestWebSocketsOverUpgrades(t *testing.T) {
	t.Run("plaintext", func(t *testing.T) { t.Parallel(); webSocketsOverUpgrades(t, false, 10) })
	t.Run("TLS", func(t *testing.T) { t.Parallel(); webSocketsOverUpgrades(t, true, 5) })
}

func webSocketsOverUpgrades(t *testing.T, secure bool, upgrades int) {
	const clients = 10
	var backends, seen farewells
	way, clientsWay := service.PlainOrSecured(t, secure)
	b := service.Start(t, way, service.Args("-proxy", "/="+backend.Start(t, noting(&backends)), "-websocket-grace", "300ms", "-drain-timeout", "20s"))
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
			if n%2 == 0 { // others write while they read
				time.Sleep(time.Duration(n) * time.Millisecond)
			}
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
		await.Until(t, 20*time.Second, "WebSockets of all clients", func() bool {
			s := b.Status()
			return len(s.Generations) == 1 && s.Generations[0].Connections.Hijacked == clients
		})
		if got := b.Metric("baton_connections", "state", "hijacked"); got != clients {
			t.Errorf("metric: got %v hijacked connections, want %d", got, clients)
		}
		before := echoes.Load()
		u := b.Upgrade()
		p := u.Predecessor
		if !p.Drained || p.Connections.Hijacked+p.Connections.Client != clients || p.RequestsFinished != clients || p.Connections.Cut != 0 || p.DrainSeconds < 0.3 || p.DrainSeconds > 3 {
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
	await.Until(t, 10*time.Second, "ends at the backend", func() bool { return backends.count(websocket.StatusGoingAway) >= clients*upgrades })
	if broken := backends.count(-1); broken > 0 {
		t.Errorf("backend: %d WebSockets broke off, want none", broken)
	}
}

// However its peers behave, a WebSocket does not hold the drain, and none is cut by its deadline.
func TestHundredWebSocketsDoNotHoldTheDrain(t *testing.T) {
	const reading, deaf = 80, 20
	for _, tt := range []struct {
		name     string
		secure   bool
		flags    []string
		from, to time.Duration // for the drain
	}{
		{"at their grace", false, []string{"-websocket-grace", "500ms", "-drain-timeout", "30s"}, 500 * time.Millisecond, 500*time.Millisecond + time.Second + service.Slack},
		{"at their grace over TLS", true, []string{"-websocket-grace", "500ms", "-drain-timeout", "30s"}, 500 * time.Millisecond, 500*time.Millisecond + time.Second + service.Slack},
		// The deaf ones are closed 100 ms before the deadline.
		{"at the deadline", false, []string{"-drain-timeout", "10s"}, 9 * time.Second, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var backends, seen farewells
			way, clientsWay := service.PlainOrSecured(t, tt.secure)
			b := service.Start(t, way, service.Args(append(tt.flags, "-proxy", "/="+backend.Start(t, noting(&backends)))...))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
				t.Errorf("drain took %v, report %+v; want between %v and %v, all closed and none cut", took, p.Connections, tt.from, tt.to)
			}
			all.Wait()
			seen.check(t, "clients", websocket.StatusGoingAway, reading)
			await.Until(t, 10*time.Second, "ends at the backend", func() bool { return backends.count(websocket.StatusGoingAway) == reading+deaf })
		})
	}
}

func TestWebSocketAtTheDrainDeadline(t *testing.T) {
	upgrade := func(b *service.Baton) { b.Upgrade() }
	tests := []struct {
		name   string
		secure bool
		drain  time.Duration
		grace  string
		end    func(b *service.Baton)
	}{
		{"upgrade", false, 2 * time.Second, "0s", upgrade},
		{"upgrade with a longer grace", true, 2 * time.Second, "1h", upgrade},
		{"brief", false, 900 * time.Millisecond, "0s", upgrade}, // less than what a farewell may take
		{"stop", false, 2 * time.Second, "0s", func(b *service.Baton) { b.Signal(syscall.SIGTERM) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			way, clientsWay := service.PlainOrSecured(t, tt.secure)
			b := service.Start(t, way, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(webSocketEcho)), "-idle-grace", "200ms",
				"-drain-timeout", tt.drain.String(), "-websocket-grace", tt.grace))
			_, say := dialWebSocket(clientsWay, t, b)
			pid, began := b.PID(), time.Now()
			tt.end(b)
			var err error
			for err == nil {
				if err = say("until the deadline"); time.Since(began) > 8*time.Second {
					t.Fatalf("WebSocket: alive 8 s after the drain began, with a deadline of %v", tt.drain)
				}
			}
			if took := time.Since(began); took < tt.drain*85/100 {
				t.Errorf("WebSocket ended after %v, want shortly before the deadline of %v", took, tt.drain)
			}
			if got := websocket.CloseStatus(err); got != websocket.StatusGoingAway {
				t.Errorf("WebSocket ended with %v, want a close frame with status 1001", err)
			}
			if p := b.AwaitExit(pid, 3*time.Second); p.Known && p.Outcome() != "exit status 0" {
				t.Errorf("process: got %s, want exit status 0", p.Outcome())
			}
		})
	}
}

// Pages that are being watched do not hold a drain: they are told, end in order, and come back to the successor.
func TestLivePageEndsAtTheDrain(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/2", true: "HTTP/2 over TLS"}[secure], func(t *testing.T) {
			t.Parallel()
			way, clientsWay := service.PlainOrSecured(t, secure)
			b := service.Start(t, way)
			page := begin(clientsWay, t, b)("/events")
			lives := func() bool { return b.Status().Generations[0].RequestsInFlight == 1 }
			await.Until(t, 10*time.Second, "request", lives)
			if secure { // the time that a client has to take an event is no bound for the stream
				await.Throughout(t, 3500*time.Millisecond, "stream, of which nothing is wanted yet", lives)
			}
			result := b.UpgradeMeanwhile()
			await.Until(t, 20*time.Second, "drain", func() bool { return strings.Contains(b.Log(), `"to":"draining"`) })
			began := time.Now()
			if end := <-page; end.err != nil || !bytes.HasSuffix(end.body, []byte("\n\n")) || end.at.Sub(began) > 100*time.Millisecond+service.Slack {
				t.Errorf("got %q, %v, after %v, want its end in order at once", end.body, end.err, end.at.Sub(began))
			}
			if p := result().Predecessor; p.RequestsFinished != 1 || p.Connections.Announced+p.Connections.Client != 1 || p.DrainSeconds > 2+service.Slack.Seconds() {
				t.Errorf("report of the drain: got %+v, want one request finished, and its connection closed in order and soon", p)
			}
		})
	}
	t.Run("HTTP/1.1", livePageEndsAtTheDrain)
}

func livePageEndsAtTheDrain(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Args("-drain-timeout", "10s"))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/events", nil, "Accept: text/event-stream")))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var resp http1.Response
	if err := c.ReadHead(&resp); err != nil {
		t.Fatal(err)
	}
	if resp.Status != 200 || !strings.HasPrefix(resp.Header("Content-Type"), "text/event-stream") {
		t.Fatalf("events: got %d, %s", resp.Status, resp.Header("Content-Type"))
	}
	// The first event is there before anything happens.
	if line, err := c.R.Peek(1); err != nil {
		t.Fatalf("first event: %q, %v", line, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.ReadChunks(&resp) }()
	result := service.UpgradeInBackground(t, b)
	began := time.Now()
	if err := <-ended; err != nil {
		t.Errorf("stream: %v, want an end in order, with the last chunk", err)
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("stream ended %v after the successor served, want at once", took)
	}
	b.AwaitExit(pid, service.DefaultGrace+service.Slack)
	if u := result(); u.Predecessor.Connections.Cut != 0 {
		t.Errorf("report of the drain: got %+v, want nothing cut", u.Predecessor.Connections)
	}
	again := b.Dial()
	again.Send(t, string(http1.Request("GET", "/events", nil, "Accept: text/event-stream")))
	again.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err := again.ReadHead(&resp); err != nil || resp.Status != 200 {
		t.Fatalf("events of the successor: got %d, %v", resp.Status, err)
	}
	for lines := bufio.NewScanner(again.R); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data:") {
			if !strings.Contains(lines.Text(), `"generation":2`) {
				t.Errorf("event of the successor: got %s, want generation 2", lines.Text())
			}
			break
		}
	}
}

// numbers is a backend that sends numbered events, twenty of them a second, and goes on after the last that its client has seen.
func numbers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	n, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	io.WriteString(w, "retry: 50\n\n")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n++
		fmt.Fprintf(w, "id: %d\ndata: {\ndata:  \"number\": %d }\n\n", n, n)
		w.(http.Flusher).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// An event stream of a backend goes on in the drain, and ends between two events. What its client
// asks for next, on whichever connection, the successor gets.
func TestEventStreamThroughTheProxyEndsInOrder(t *testing.T) {
	for _, tt := range []struct {
		name     string
		secure   bool
		flags    []string
		stop     bool
		from, to time.Duration
	}{
		{"at its grace", false, []string{"-stream-grace", "1s", "-drain-timeout", "20s"}, false, time.Second, 1100 * time.Millisecond},
		{"at its grace over TLS", true, []string{"-stream-grace", "1s", "-drain-timeout", "20s"}, false, time.Second, 1100 * time.Millisecond},
		{"at the deadline", false, []string{"-drain-timeout", "3s"}, false, 2700 * time.Millisecond, 2800 * time.Millisecond},
		{"at a stop", false, []string{"-drain-timeout", "3s"}, true, 2700 * time.Millisecond, 2800 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			way, clientsWay := service.PlainOrSecured(t, tt.secure)
			b := service.Start(t, way, service.Args(append(tt.flags, "-proxy", "/="+backend.Start(t, http.HandlerFunc(numbers)))...))
			pid := b.PID()
			c := clientsWay.Dial(t, b)
			c.Send(t, string(http1.Request("GET", "/events", nil, "Accept: text/event-stream")))
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			var resp http1.Response
			if err := c.ReadHead(&resp); err != nil {
				t.Fatal(err)
			}
			if _, err := c.R.Peek(1); err != nil {
				t.Fatal(err)
			}
			var result func() *service.Upgraded
			if tt.stop {
				b.Signal(syscall.SIGTERM)
			} else {
				result = b.UpgradeMeanwhile()
			}
			drains := func() bool { return strings.Contains(b.Log(), `"to":"draining"`) }
			await.Until(t, 20*time.Second, "drain", drains)
			began := time.Now()
			if err := c.ReadChunks(&resp); err != nil {
				t.Fatalf("stream: %v, want an end in order, with the last chunk", err)
			}
			// Each of the two moments is seen a little late, on a machine that is busy.
			if took := time.Since(began); took < tt.from-200*time.Millisecond || took > tt.to+service.Slack {
				t.Errorf("stream ended after %v, want between %v and %v", took, tt.from, tt.to)
			}
			if tt.secure { // it does not move, and else its client would ask the predecessor once more
				if end := c.AwaitClose(service.DefaultGrace / 2); end != http1.Fin {
					t.Errorf("connection over TLS: %v, want it closed", end)
				}
			}
			if !bytes.HasSuffix(resp.Body, []byte(" }\n\n")) {
				t.Errorf("stream ended with %q, want a whole event", service.Tail(string(resp.Body), 3))
			}
			if got, want := bytes.Count(resp.Body, []byte("id: ")), int(tt.from/(50*time.Millisecond))/2; got < want {
				t.Errorf("stream brought %d events, want %d at least", got, want)
			}
			b.AwaitExit(pid, 5*time.Second)
			if !strings.Contains(b.Log(), `"requests_finished":1`) || !strings.Contains(b.Log(), `"cut":0`) {
				t.Error("report of the drain: want one request finished, and nothing cut")
			}
			if tt.stop {
				return
			}
			result()
			if tt.secure {
				c = clientsWay.Dial(t, b)
			}
			c.Send(t, string(http1.Request("GET", "/events", nil, "Last-Event-ID: 700")))
			if err := c.ReadHead(&resp); err != nil || resp.Status != 200 {
				t.Fatalf("the same connection: got %d, %v, want it at the successor", resp.Status, err)
			}
			for lines := bufio.NewScanner(c.R); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "id:") {
					if lines.Text() != "id: 701" {
						t.Errorf("first event: got %s, want 701", lines.Text())
					}
					break
				}
			}
		})
	}
}

// heard is what has come of a response, and when.
type heard struct {
	body []byte
	err  error // nil: it ended in order
	at   time.Time
}

// begin returns a client that makes requests on one connection, as long as it may.
func begin(o service.Over, t testing.TB, b *service.Baton) (begin func(path string, fields ...string) (end <-chan heard)) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: o.Config, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP2(o.Config != nil)
	transport.Protocols.SetUnencryptedHTTP2(o.Config == nil)
	t.Cleanup(transport.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return func(path string, fields ...string) <-chan heard {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, "GET", o.Url("http", b, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(fields); i += 2 {
			r.Header.Set(fields[i], fields[i+1])
		}
		ended := make(chan heard, 1)
		go func() {
			var h heard
			resp, err := transport.RoundTrip(r)
			if h.err = err; err == nil {
				h.body, h.err = io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
					h.err = errors.Join(h.err, fmt.Errorf("got %s %s", resp.Proto, resp.Status))
				}
			}
			h.at = time.Now()
			ended <- h
		}()
		return ended
	}
}

// Streams of one connection of HTTP/2 end each in its time and in order, while others of it go on.
func TestStreamsOfHTTP2(t *testing.T) {
	const grace = 500 * time.Millisecond
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "prior knowledge", true: "TLS"}[secure], func(t *testing.T) {
			t.Parallel()
			held := backend.NewGate(t)
			way, clientsWay := service.PlainOrSecured(t, secure)
			b := service.Start(t, way, service.Args("-stream-grace", grace.String(), "-proxy", "/begun="+backend.Start(t, held), "-proxy", "/numbers="+backend.Start(t, http.HandlerFunc(numbers))))
			pid := b.PID()
			begin := begin(clientsWay, t, b)
			waiting := begin("/begun")
			held.Await(t, 1)
			stream := begin("/numbers")
			await.Until(t, 10*time.Second, "two requests on one connection", func() bool {
				g := b.Status().Generations[0]
				return g.RequestsInFlight == 2 && g.Connections.Active == 1 && g.Connections.New+g.Connections.Idle == 0
			})
			result := b.UpgradeMeanwhile()
			await.Until(t, 20*time.Second, "drain", func() bool { return strings.Contains(b.Log(), `"to":"draining"`) })
			began := time.Now()
			end := <-stream
			if took := end.at.Sub(began); end.err != nil || took < grace-200*time.Millisecond || took > grace+100*time.Millisecond+service.Slack {
				t.Errorf("stream of the backend: %v after %v, want its end in order after %v", end.err, took, grace)
			}
			if !bytes.HasSuffix(end.body, []byte(" }\n\n")) {
				t.Errorf("stream ended with %q, want a whole event", service.Tail(string(end.body), 3))
			}
			next := bytes.Count(end.body, []byte("id: ")) + 1
			again := begin("/numbers", "Last-Event-ID", fmt.Sprint(next-1)) // to the successor, on another connection
			await.Until(t, 10*time.Second, "stream of the successor", func() bool {
				for _, g := range b.Status().Generations {
					if g.PID != pid && g.RequestsInFlight == 1 {
						return true
					}
				}
				return false
			})
			await.Throughout(t, 200*time.Millisecond, "predecessor, which has an answer to give", func() bool { return b.Follow(pid).Alive() })
			held.Open()
			if end := <-waiting; end.err != nil {
				t.Errorf("request under way: %v", end.err)
			}
			if p := result().Predecessor; p.RequestsFinished != 2 || p.Connections.Cut+p.Connections.Error+p.Connections.Timeout != 0 || p.Connections.Announced+p.Connections.Client != 1 {
				t.Errorf("report of the drain: got %+v, want two requests finished, and their connection closed in order", p)
			}
			result = b.UpgradeMeanwhile()
			if end := <-again; end.err != nil || !bytes.HasPrefix(end.body, fmt.Appendf(nil, "retry: 50\n\nid: %d\n", next)) {
				t.Errorf("stream of the successor: got %.40q, %v, want it from event %d on, and its end in order", end.body, end.err, next)
			}
			result()
		})
	}
}

// A backend that streams without an end is not cut before the deadline, and its client sees that the body is not whole.
func TestEndlessStreamIsCutAtTheDeadline(t *testing.T) {
	t.Parallel()
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				io.WriteString(w, "on and on\n")
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, endless), "-drain-timeout", "1s", "-idle-grace", "100ms"))
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/", nil)))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.R.Peek(1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	u := b.Upgrade()
	var resp http1.Response
	if err := c.Receive("GET", &resp); err == nil {
		t.Error("stream that was cut: got an end in order, want the body to be seen as truncated")
	}
	if len(resp.Body) == 0 {
		t.Error("stream: got nothing of its body")
	}
	if took := time.Since(began); took < 900*time.Millisecond || u.Predecessor.Connections.Cut != 1 {
		t.Errorf("cut after %v, report %+v, want 1 cut after the deadline of 1 s", took, u.Predecessor.Connections)
	}
}
