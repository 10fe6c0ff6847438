package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/middleware"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// line is a line of generations, each of which has a proxy.
type line struct {
	t        *testing.T
	logged   *testserver.Log
	target   string
	options  Options // of the first generation and what it hands on
	serving  *server.Server
	listener net.Listener
}

func newLine(t *testing.T, backend http.Handler, options Options) *line {
	l := &line{t: t, target: testserver.Serve(t, backend).URL, options: options}
	l.serving, l.listener = l.generation(func(options Options) http.Handler { return start(t, options) })
	return l
}

// generation starts a server.
func (l *line) generation(handler func(Options) http.Handler) (*server.Server, net.Listener) {
	l.t.Helper()
	logged, logger := testserver.Capture()
	options := l.options
	options.Rules, options.Logger, options.OnDrain, options.Tunnels = rules(l.t, "/="+l.target), logger, server.OnDrain, server.Tunnels("test")
	resume := Resume(options)
	l.logged = logged
	srv := server.New(server.Options{Handler: middleware.Log(handler(options), logger), Logger: logger, IdleGrace: time.Millisecond,
		Resume: func(_ server.Tunnels, state []byte) http.Handler {
			if h := resume(state); h != nil {
				return middleware.Log(h, logger)
			}
			return nil
		}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	srv.Add(ln)
	srv.Serve()
	return srv, ln
}

// upgrade replaces the generation that serves by one without rules.
func (l *line) upgrade() upgrade.Drained {
	l.t.Helper()
	old, before := l.serving, l.logged
	next, ln := l.generation(func(Options) http.Handler { return http.NotFoundHandler() })
	l.serving, l.listener = next, ln
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d := old.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return true }, States: true,
		Migrate: func(_ context.Context, conns []upgrade.Connection) []bool {
			taken := make([]bool, len(conns))
			for i, c := range conns {
				c.Conn, c.Listener = dup(l.t, c.Conn), ln
				if c.Peer != nil {
					c.Peer = dup(l.t, c.Peer)
				}
				if begin := next.Adopt(c); begin != nil {
					taken[i] = true
					begin()
				}
			}
			return taken
		}})
	testserver.Equal(l.t, "lines of a predecessor", len(before.With("request")), 0)
	return d
}

// stop drains the generation that serves.
func (l *line) stop(within time.Duration) upgrade.Drained {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return l.serving.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return false }})
}

func dup(t *testing.T, nc net.Conn) net.Conn {
	f, err := nc.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Error(err)
		return nil
	}
	defer f.Close()
	copied, err := net.FileConn(f)
	if err != nil {
		t.Error(err)
	}
	return copied
}

// digIn makes a tunnel through a line. greeting is what the backend sends along with its 101, and early what the client
// sends along with its request.
func digIn(t *testing.T, protocol, greeting, early string) (l *line, client, backend net.Conn) {
	t.Helper()
	return digInWith(t, Options{}, protocol, greeting, early)
}

func digInWith(t *testing.T, options Options, protocol, greeting, early string) (l *line, client, backend net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	l = newLine(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n"+greeting)
		accepted <- conn
	}), options)
	conn, err := net.Dial("tcp", l.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: h\r\nX-Request-Id: it\r\nUser-Agent: me\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n"+early)
	reader := bufio.NewReaderSize(conn, 16)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != 101 {
		t.Fatalf("got %v, %v", response, err)
	}
	backend = <-accepted
	t.Cleanup(func() { backend.Close() })
	for _, c := range []net.Conn{conn, backend} {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return l, buffered{conn, reader}, backend
}

func expectMigrated(t *testing.T, l *line) {
	t.Helper()
	if d := l.upgrade(); d.Migrated != 1 || d.Requests != 0 || d.Connections != (upgrade.Closed{}) {
		t.Fatalf("drain: got %+v, want 1 migrated and nothing else", d)
	}
}

func TestTunnelMigrates(t *testing.T) {
	began := time.Now()
	l, client, backend := digIn(t, "tunnel", "hello", "early")
	there := time.Now()
	expectMigrated(t, l)
	expect(t, "to the client", client, []byte("hello"))
	expect(t, "to the backend", backend, []byte("early"))
	for i := range 3 {
		client.Write([]byte("up"))
		backend.Write([]byte("down"))
		expectMigrated(t, l)
		expect(t, fmt.Sprint("to the client, ", i), client, []byte("down"))
		expect(t, fmt.Sprint("to the backend, ", i), backend, []byte("up"))
	}
	least := time.Since(there)
	backend.Close()
	expectEnd(t, "client", client)
	client.Close()
	got := l.logged.Await(t, "request")
	for name, want := range map[string]any{"method": "GET", "path": "/x", "status": 101.0, "bytes": 17.0, "request_id": "it",
		"user_agent": "me", "protocol": "HTTP/1.1", "remote": client.LocalAddr().String()} {
		testserver.Equal(t, name, got[name], want)
	}
	if seconds := got["seconds"].(float64); seconds < least.Seconds() || seconds > time.Since(began).Seconds() {
		t.Errorf("seconds: got %v, want that of all generations, %v", seconds, least)
	}
	l.stop(time.Minute)
}

// Peers that do not read, so that a pipe is blocked in a write, hold nobody, and miss nothing.
func TestTunnelOfSlowPeersMigrates(t *testing.T) {
	l, client, backend := digIn(t, "tunnel", "", "")
	random := bytes.Repeat([]byte("0123456789abcdef-"), 1<<20)
	var writing sync.WaitGroup
	for _, from := range []net.Conn{client, backend} {
		writing.Go(func() {
			if _, err := from.Write(random); err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
	for range 3 {
		expectMigrated(t, l)
	}
	var reading sync.WaitGroup
	for name, to := range map[string]net.Conn{"client": client, "backend": backend} {
		reading.Go(func() {
			got := make([]byte, len(random))
			if n, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, random) {
				t.Errorf("%s: got %d bytes, %v, as sent: %t", name, n, err, bytes.Equal(got, random))
			}
		})
	}
	for range 3 {
		expectMigrated(t, l)
	}
	reading.Wait()
	writing.Wait()
	client.Close()
	expectEnd(t, "backend", backend)
	backend.Close()
	l.logged.Await(t, "request")
	l.stop(time.Minute)
}

// A direction that has ended stays so; the other goes on.
func TestTunnelMigratesHalfClosed(t *testing.T) {
	l, client, backend := digIn(t, "tunnel", "", "")
	client.Write([]byte("last"))
	client.(buffered).Conn.(*net.TCPConn).CloseWrite()
	expect(t, "to the backend", backend, []byte("last"))
	expectEnd(t, "backend", backend)
	for range 2 {
		expectMigrated(t, l)
		backend.Write([]byte("more"))
		expect(t, "to the client", client, []byte("more"))
	}
	backend.Close()
	expectEnd(t, "client", client)
	l.logged.Await(t, "request")
	l.stop(time.Minute)
}

// The place of a close frame is known to a generation that has seen the end of a frame only.
func TestTunnelLeavesAfterMigration(t *testing.T) {
	t.Parallel()
	down, up := frame(0x81, false, 300), frame(0x02, true, 70000)
	last := frame(0x80, true, 3)
	l, client, backend := digInWith(t, Options{WebSocketGrace: 200 * time.Millisecond, closeTimeout: time.Minute},
		"websocket", string(down[:1]), string(up[:7]))
	expectMigrated(t, l)
	expect(t, "begin of a frame", client, down[:1])
	expect(t, "begin of a frame", backend, up[:7])
	expectMigrated(t, l)
	d := &raw{client: client, backend: backend}
	stopped := make(chan upgrade.Drained, 1)
	go func() { stopped <- l.stop(time.Minute) }()
	time.Sleep(100 * time.Millisecond) // whether it has begun by then or not, the outcome is the same
	client.Write(up[7:])
	expect(t, "end of a frame", backend, up[7:])
	backend.Write(down[1:])
	expect(t, "end of a frame", client, down[1:])
	expect(t, "to the client", client, bye)
	client.Write(last)
	expect(t, "end of the message", backend, last)
	d.expectGoodBye(t)
	client.Write(maskedBye)
	backend.Write(bye)
	expectEnd(t, "client", client)
	expectEnd(t, "backend", backend)
	if got := <-stopped; got.Requests != 1 || got.Connections != (upgrade.Closed{Hijacked: 1}) {
		t.Errorf("drain: got %+v, want 1 closed by its handler", got)
	}
	l.logged.Await(t, "request")
}

// tunnelsOf refuse a number of times.
type tunnelsOf struct {
	Tunnels
	attempts chan []byte
}

func (tt tunnelsOf) Migrating(context.Context) <-chan struct{} {
	now := make(chan struct{})
	close(now)
	return now
}

func (tt tunnelsOf) Migrate(_ context.Context, peer net.Conn, state []byte) bool {
	if _, ok := peer.(*net.TCPConn); !ok {
		panic(fmt.Sprintf("peer: %T", peer))
	}
	select {
	case tt.attempts <- slices.Clone(state):
	default: // nobody waits for this one
	}
	return false
}

// A tunnel that is refused goes on, at once and each time.
func TestTunnelIsRefused(t *testing.T) {
	t.Parallel()
	tunnels := tunnelsOf{attempts: make(chan []byte)}
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buf, _ := http.NewResponseController(w).Hijack()
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\n")
		io.Copy(conn, buf)
	}), Options{Tunnels: tunnels})
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\n")
	reader := bufio.NewReader(conn)
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 101 {
		t.Fatalf("got %v, %v", response, err)
	}
	for i := range 3 {
		message := bytes.Repeat([]byte{byte(i)}, 100)
		conn.Write(message[:50])
		if state := <-tunnels.attempts; Resume(Options{})(state) == nil {
			t.Errorf("state %s is not understood", state)
		}
		conn.Write(message[50:])
		expect(t, "echo", buffered{conn, reader}, message)
	}
}

// interrupted is a connection whose Writes take nothing, and end while its tunnel is halted.
type interrupted struct {
	net.Conn
	write func()
}

func (i interrupted) Write([]byte) (int, error) {
	i.write()
	return 0, os.ErrDeadlineExceeded
}

// A tunnel that was halted may go on before the pipe of which a write has ended looks. It has not failed.
func TestTunnelGoesOnWhileAWriteEnds(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	for name, patience := range map[string]time.Duration{"client": 0, "backend": time.Minute} {
		tun := &tunnel{client: &end{Conn: far}}
		tun.backend = &end{patience: patience, Conn: interrupted{near, func() { tun.halt(); tun.resume() }}}
		var p pipe
		p.connect(tun, tun.client, tun.backend)
		p.Held = []byte("held")
		if err := p.run(); !errors.Is(err, errHalted) || string(p.Held) != "held" {
			t.Errorf("%s: got %v with %q held, want a pipe that was halted and can go on", name, err, p.Held)
		}
	}
}

func TestResumeRefuses(t *testing.T) {
	resume := Resume(Options{})
	for _, state := range []string{"", "{", `7`, `{"to_client":7}`, `{"to_client":{"written":-1}}`, `{"to_client":{"frames":{"have":3,"need":2}}}`,
		`{"to_backend":{"frames":{"have":2,"need":200}}}`} {
		if resume([]byte(state)) != nil {
			t.Errorf("%s: got a handler, want none", state)
		}
	}
	if resume([]byte(`{"websocket":true,"to_client":{"written":0},"to_backend":{"written":0}}`)) == nil {
		t.Error("a state: got no handler")
	}
}
