package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a condition may take that should hold soon.
const patience = 5 * time.Second

// served is a server on a socket of its own.
type served struct {
	*server.Server
	t       *testing.T
	addr    net.Addr
	drained sync.WaitGroup
}

func serve(t *testing.T, opts server.Options) *served {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, ln, opts)
}

func serveOn(t *testing.T, ln net.Listener, opts server.Options) *served {
	t.Helper()
	if opts.IdleGrace == 0 {
		opts.IdleGrace = 100 * time.Millisecond
	}
	s := &served{Server: server.New(opts), t: t, addr: ln.Addr()}
	s.Add(ln)
	s.Serve()
	return s
}

func none(net.Listener) bool { return false }
func all(net.Listener) bool  { return true }

// drain begins a drain and returns its result's channel. The test waits for it
// at its end.
func (s *served) drain(timeout time.Duration, kept func(net.Listener) bool) <-chan upgrade.Drained {
	done := make(chan upgrade.Drained, 1)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	s.t.Cleanup(cancel)
	s.drained.Add(1)
	go func() {
		defer s.drained.Done()
		done <- s.Drain(ctx, kept)
	}()
	s.t.Cleanup(s.drained.Wait)
	return done
}

// client is one raw connection.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func (s *served) dial() *client {
	s.t.Helper()
	nc, err := net.Dial(s.addr.Network(), s.addr.String())
	if err != nil {
		s.t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(4 * patience))
	s.t.Cleanup(func() { nc.Close() })
	return &client{s.t, nc, bufio.NewReader(nc)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// answer reads a response and its whole body.
func (c *client) answer() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("read the answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("read the body: %v", err)
	}
	return resp, string(body)
}

func (c *client) get(path string) (*http.Response, string) {
	c.t.Helper()
	c.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
	return c.answer()
}

// closedCleanly reads to the end of the connection, which must be a FIN with
// nothing before it.
func (c *client) closedCleanly() {
	c.t.Helper()
	rest, err := io.ReadAll(c.in)
	if err != nil || len(rest) > 0 {
		c.t.Errorf("at the end of the connection: got %q, %v, want a FIN", rest, err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not after %v: %s", patience, what)
		}
	}
}

// awaitDraining waits until the server decides on responses as one that drains.
func (s *served) awaitDraining() {
	s.t.Helper()
	await(s.t, "draining", s.IsDraining)
}

func hello(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }

// gate is a handler that waits until it is told to go on.
type gate struct {
	entered, open chan struct{}
	before, after string // written on both sides of the wait
}

func newGate() *gate {
	return &gate{entered: make(chan struct{}, 100), open: make(chan struct{})}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.before != "" {
		io.WriteString(w, g.before)
		w.(http.Flusher).Flush()
	}
	g.entered <- struct{}{}
	<-g.open
	if g.after != "" {
		w.Write([]byte(g.after))
	}
}

func TestConnectionStaysOpenWhileServing(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello)})
	c := s.dial()
	for i := range 3 {
		resp, body := c.get("/")
		if resp.Close || body != "hello" {
			t.Errorf("request %d: got close %v, body %q, want an open connection and hello", i, resp.Close, body)
		}
	}
	<-s.drain(patience, all)
}

func TestDrainAnnouncesWhenHeaderIsWritten(t *testing.T) {
	for name, g := range map[string]*gate{
		"body":    {after: "late"},
		"no body": {},
	} {
		t.Run(name, func(t *testing.T) {
			g.entered, g.open = make(chan struct{}, 1), make(chan struct{})
			s := serve(t, server.Options{Handler: g})
			c := s.dial()
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			<-g.entered
			drained := s.drain(patience, all)
			s.awaitDraining()
			begin := time.Now()
			close(g.open)
			resp, body := c.answer()
			if !resp.Close || body != g.after {
				t.Errorf("got close %v and body %q, want the announcement and %q", resp.Close, body, g.after)
			}
			c.closedCleanly()
			d := <-drained
			if took := time.Since(begin); took > 500*time.Millisecond {
				t.Errorf("drain ended %v after the response, want at once", took)
			}
			if d.Requests != 1 || d.Connections != (upgrade.Closed{Announced: 1}) {
				t.Errorf("got %+v, want one request finished and one connection told to close", d)
			}
		})
	}
}

func TestDrainAfterHeaderIsWrittenWaitsForNextRequest(t *testing.T) {
	g := newGate()
	g.before, g.after = "early ", "late"
	s := serve(t, server.Options{Handler: g})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-g.entered
	drained := s.drain(patience, all)
	s.awaitDraining()
	close(g.open)
	if resp, body := c.answer(); resp.Close || body != "early late" {
		t.Errorf("first answer: got close %v, body %q", resp.Close, body)
	}
	if resp, body := c.get("/"); !resp.Close || body != "early late" {
		t.Errorf("second answer: got close %v, body %q, want the announcement", resp.Close, body)
	}
	c.closedCleanly()
	if d := <-drained; d.Requests != 2 || d.Connections.Announced != 1 {
		t.Errorf("got %+v, want 2 requests finished and 1 connection told to close", d)
	}
}

func TestIdleGrace(t *testing.T) {
	const grace = 300 * time.Millisecond
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace})
	silent, spoken, late := s.dial(), s.dial(), s.dial()
	spoken.get("/")
	late.get("/")
	await(t, "three connections", func() bool {
		return s.Load().Connections == upgrade.Connections{New: 1, Idle: 2}
	})
	begin := time.Now()
	drained := s.drain(patience, all)
	s.awaitDraining()
	if resp, _ := late.get("/"); !resp.Close {
		t.Error("request within the grace: got no announcement")
	}
	late.closedCleanly()
	for _, c := range []*client{silent, spoken} {
		c.closedCleanly()
		if after := time.Since(begin); after < grace || after > grace+time.Second {
			t.Errorf("silent connection destroyed after %v, want %v", after, grace)
		}
	}
	if d := <-drained; d.Connections != (upgrade.Closed{Announced: 1, Grace: 2}) {
		t.Errorf("got %+v, want 1 told to close and 2 after the grace", d.Connections)
	}
}

func TestDrainWithNothingToDo(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello)})
	begin := time.Now()
	<-s.drain(patience, all)
	if took := time.Since(begin); took > 100*time.Millisecond {
		t.Errorf("drain without connections took %v, want under 100 ms", took)
	}
}

// A client may be in the midst of a request whenever the grace ends: also when
// net/http holds its beginning without having read from the socket for it.
func TestGraceSparesBegunRequests(t *testing.T) {
	const request = "GET /second HTTP/1.1\r\nHost: x\r\nX-Long: " // is split at each byte
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	for name, first := range map[string]string{
		"new connection": "",
		"pipelined":      "GET /first HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, server.Options{Handler: echo, IdleGrace: 50 * time.Millisecond})
			var clients []*client
			for i := 1; i <= len(request); i++ {
				c := s.dial()
				c.send(first + request[:i])
				if first != "" {
					if _, body := c.answer(); body != "/first" {
						t.Fatalf("got %q, want /first", body)
					}
				}
				clients = append(clients, c)
			}
			quiet := s.dial() // tells when the grace is over
			await(t, "all connections", func() bool { return s.Accepted() == uint64(len(clients)+1) })
			drained := s.drain(4*patience, all)
			quiet.closedCleanly()
			for i, c := range clients {
				c.send(request[i+1:] + "y\r\n\r\n")
				if resp, body := c.answer(); body != "/second" || !resp.Close {
					t.Errorf("split after %q: got %q, close %v, want /second with the announcement", request[:i+1], body, resp.Close)
				}
			}
			<-drained
		})
	}
}

// net/http's buffer is full and empty again in the midst of this header.
func TestGraceSparesHeaderThatFillsTheBuffer(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 50 * time.Millisecond})
	const line = "GET / HTTP/1.1\r\nHost: x\r\n"
	begun := line + "X: " + strings.Repeat("a", 4096-len(line)-len("X: \r\n")) + "\r\n"
	fresh, used, quiet := s.dial(), s.dial(), s.dial()
	used.get("/")
	for _, c := range []*client{fresh, used} {
		c.send(begun)
	}
	await(t, "the connections", func() bool { return s.Accepted() == 3 })
	drained := s.drain(patience, all)
	quiet.closedCleanly()
	for _, c := range []*client{fresh, used} {
		c.send("\r\n")
		if resp, _ := c.answer(); resp.StatusCode != 200 || !resp.Close {
			t.Errorf("got status %d, close %v, want 200 with the announcement", resp.StatusCode, resp.Close)
		}
	}
	<-drained
}

// A thread that has taken a request from the socket may be held up before it can
// say so: the end of the grace in this moment must not destroy the connection.
func TestGraceSparesRequestJustRead(t *testing.T) {
	const grace = 200 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	held := &heldListener{Listener: ln, taken: make(chan struct{}), release: make(chan struct{})}
	s := serveOn(t, held, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace})
	c, quiet := s.dial(), s.dial()
	await(t, "both connections", func() bool { return s.Accepted() == 2 })
	drained := s.drain(patience, all)
	s.awaitDraining()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-held.taken
	quiet.closedCleanly() // the grace is over for both
	close(held.release)
	if resp, body := c.answer(); resp.StatusCode != 200 || body != "hello" || !resp.Close {
		t.Errorf("got %d %q, close %v, want the answer with the announcement", resp.StatusCode, body, resp.Close)
	}
	<-drained
}

// What comes as the grace ends puts the connection back into service, with the
// deadlines that net/http asked for.
func TestRequestAtTheEndOfGrace(t *testing.T) {
	const clients = 200
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 100 * time.Millisecond, ReadHeaderTimeout: patience})
	var speakers []*client
	for range clients {
		speakers = append(speakers, s.dial())
	}
	await(t, "the connections", func() bool { return s.Accepted() == clients })
	drained := s.drain(patience, all)
	s.awaitDraining()
	begin := time.Now()
	var lost, late atomic.Int64
	var asked sync.WaitGroup
	for i, c := range speakers {
		asked.Go(func() {
			// Around the end of the grace: before it each must be answered,
			// after it none can be.
			at := 90*time.Millisecond + time.Duration(i)*100*time.Microsecond
			time.Sleep(time.Until(begin.Add(at))) // the moment is what is tested
			sent := time.Since(begin)
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n")
			io.WriteString(c, "\r\n")
			_, err := http.ReadResponse(c.in, nil)
			if err != nil && sent < 95*time.Millisecond {
				lost.Add(1)
			} else if err != nil {
				late.Add(1)
			}
		})
	}
	asked.Wait()
	d := <-drained
	if lost.Load() > 0 {
		t.Errorf("%d requests lost that were sent within the grace", lost.Load())
	}
	if got := int64(d.Connections.Grace); got != late.Load() {
		t.Errorf("%d connections closed after the grace, but %d requests without an answer: one was cut while it was read", got, late.Load())
	}
}

// A client that sends on must get the answer that it was promised.
func TestPipelinedClientGetsWholeAnswer(t *testing.T) {
	const size = 3 << 20
	g := newGate()
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.ServeHTTP(w, r)
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Write(make([]byte, size))
	})})
	c := s.dial()
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	c.send(request)
	<-g.entered
	c.send(request)
	drained := s.drain(patience, all)
	s.awaitDraining()
	close(g.open)
	if resp, body := c.answer(); len(body) != size || !resp.Close {
		t.Errorf("got %d bytes, close %v, want %d with the announcement", len(body), resp.Close, size)
	}
	<-drained
}

// A few stray bytes are no request for which a drain should wait for long.
func TestStrayBytesDoNotHoldDrain(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: 200 * time.Millisecond, IdleGrace: 10 * time.Millisecond})
	var stray []*client
	for _, bytes := range []string{"\r\n", "G"} {
		c := s.dial()
		c.get("/")
		c.send(bytes)
		stray = append(stray, c)
	}
	begin := time.Now()
	<-s.drain(4*patience, all)
	if took := time.Since(begin); took > patience {
		t.Errorf("drain took %v, want about the header timeout", took)
	}
	for _, c := range stray {
		c.Close()
	}
}

// Connections that hold the last descriptors must end for others to be accepted.
func TestStopWithoutDescriptors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	short := &shortListener{TCPListener: ln.(*net.TCPListener)}
	s := serveOn(t, short, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 50 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler)})
	holder := s.dial()
	holder.get("/")
	short.short.Store(true)
	s.dial() // ends the Accept that was under way
	queued := s.dial()
	queued.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	drained := s.drain(2*patience, none)
	holder.closedCleanly()
	short.short.Store(false)
	if resp, body := queued.answer(); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("got %d %q from the queue, want an answer", resp.StatusCode, body)
	}
	<-drained

	// And where they never end, the deadline holds.
	ln, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	short = &shortListener{TCPListener: ln.(*net.TCPListener)}
	short.short.Store(true)
	s = serveOn(t, short, server.Options{Handler: http.HandlerFunc(hello), Logger: slog.New(slog.DiscardHandler)})
	s.dial()
	begin := time.Now()
	<-s.drain(200*time.Millisecond, none)
	if took := time.Since(begin); took > patience {
		t.Errorf("drain with a deadline of 200 ms took %v", took)
	}
}

func TestHeaderTimeoutHoldsInDrain(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: 300 * time.Millisecond, IdleGrace: 10 * time.Millisecond})
	c := s.dial()
	c.send("GET / HT")
	drained := s.drain(patience, all)
	c.answer() // net/http takes what has come for the whole: 400
	if d := <-drained; d.Connections != (upgrade.Closed{Timeout: 1}) {
		t.Errorf("got %+v, want one timeout", d.Connections)
	}
}

// What the kernel has queued is answered if nobody else will.
func TestStopAnswersTheAcceptQueue(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			ln, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			s := &served{Server: server.New(server.Options{Handler: http.HandlerFunc(hello)}), t: t, addr: ln.Addr()}
			slow := &slowListener{Listener: ln, release: make(chan struct{})}
			s.Add(slow)
			s.Serve()
			var queued []*client
			for range 50 {
				c := s.dial()
				c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				queued = append(queued, c)
			}
			drained := s.drain(patience, none)
			await(t, "the end of accepting", slow.told.wasCalled)
			close(slow.release)
			for i, c := range queued {
				if resp, body := c.answer(); resp.StatusCode != 200 || body != "hello" {
					t.Errorf("connection %d: got %d %q", i, resp.StatusCode, body)
				}
			}
			if d := <-drained; d.Connections.Announced != 50 {
				t.Errorf("got %+v, want 50 told to close", d.Connections)
			}
		})
	}
}

// In a handoff the queue is the successor's.
func TestHandoffLeavesTheAcceptQueue(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	shared, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	s := serveOn(t, ln, server.Options{Handler: http.HandlerFunc(hello)})
	<-s.drain(patience, all)

	c := s.dial() // the port is still bound
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	next := serveOn(t, shared, server.Options{Handler: http.HandlerFunc(hello)})
	if resp, _ := c.answer(); resp.StatusCode != 200 || resp.Close {
		t.Errorf("got %d, close %v, want 200 from the one who shares the socket", resp.StatusCode, resp.Close)
	}
	<-next.drain(patience, none)
}

func TestDeadlineCuts(t *testing.T) {
	g := newGate()
	g.before = "begun"
	s := serve(t, server.Options{Handler: g})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-g.entered
	begin := time.Now()
	d := <-s.drain(200*time.Millisecond, all)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("drain with a handler that hangs took %v, want 200 ms and a moment", took)
	}
	if d.Requests != 0 || d.Connections != (upgrade.Closed{Cut: 1}) {
		t.Errorf("got %+v, want no request finished and one connection cut", d)
	}
	close(g.open)
	await(t, "the handler's end", func() bool { return s.Load().Requests == 0 })
}

func TestHijackedConnectionLivesThroughDrain(t *testing.T) {
	told := make(chan struct{})
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		io.WriteString(nc, "mine\n")
		<-server.Draining(r.Context())
		close(told)
		line, _ := buf.ReadString('\n')
		io.WriteString(nc, line)
	})})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, _ := c.in.ReadString('\n'); line != "mine\n" {
		t.Fatalf("got %q, want mine", line)
	}
	if got := s.Load(); got.Requests != 1 || got.Connections.Active != 1 {
		t.Errorf("got load %+v, want 1 request and 1 active connection", got)
	}
	drained := s.drain(patience, all)
	<-told
	c.send("still here\n")
	if line, _ := c.in.ReadString('\n'); line != "still here\n" {
		t.Errorf("got %q, want an echo during the drain", line)
	}
	if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
		t.Errorf("got %+v, want one request finished and one connection closed by its handler", d)
	}
}

func TestReasons(t *testing.T) {
	tests := map[string]struct {
		do   func(t *testing.T, c *client)
		want server.Reason
	}{
		"client closes": {func(t *testing.T, c *client) { c.get("/"); c.Close() }, server.ByClient},
		"client asks for it": {func(t *testing.T, c *client) {
			c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			c.answer()
		}, server.ByClient},
		"client goes at once": {func(t *testing.T, c *client) { c.Close() }, server.ByClient},
		"idle timeout":        {func(t *testing.T, c *client) { c.get("/"); c.closedCleanly() }, server.TimedOut},
		"header timeout":      {func(t *testing.T, c *client) { c.send("GET"); c.answer() }, server.TimedOut},
		"malformed":           {func(t *testing.T, c *client) { c.send("garbage\r\n\r\n"); c.answer() }, server.Failed},
		"handler panics":      {func(t *testing.T, c *client) { c.send("GET /panic HTTP/1.1\r\nHost: x\r\n\r\n"); c.closedCleanly() }, server.Failed},
		"handler announces":   {func(t *testing.T, c *client) { c.get("/close") }, server.Announced},
		"body pauses for long": {func(t *testing.T, c *client) {
			c.send("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
			c.answer()
		}, server.TimedOut},
		"unread body comes late": {func(t *testing.T, c *client) {
			c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
			c.answer()
		}, server.TimedOut},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, server.Options{
				IdleTimeout: 200 * time.Millisecond, ReadHeaderTimeout: 200 * time.Millisecond, ReadBodyTimeout: 200 * time.Millisecond,
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/panic":
						panic(http.ErrAbortHandler)
					case "/close":
						w.Header().Set("Connection", "close")
					case "/body":
						if _, err := io.ReadAll(r.Body); err == nil {
							t.Error("got a whole body, want a timeout")
						}
						w.WriteHeader(http.StatusRequestTimeout)
					}
				}),
			})
			test.do(t, s.dial())
			await(t, "the connection's end", func() bool { return s.Load().Connections == upgrade.Connections{} && s.Accepted() == 1 })
			for why, n := range s.Closed() {
				if want := map[bool]uint64{true: 1}[why == test.want]; n != want {
					t.Errorf("closed by reason %v: got %d, want %d", why, n, want)
				}
			}
			<-s.drain(patience, none)
		})
	}
}

// A body may take longer than the timeout as long as it keeps coming, and the
// deadline of a handler that sets one is its own.
func TestSlowBody(t *testing.T) {
	const pause = 60 * time.Millisecond
	s := serve(t, server.Options{
		ReadBodyTimeout: 3 * pause,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/patient" {
				http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience))
			}
			body, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v", body, err)
		}),
	})
	tick := time.NewTicker(pause)
	defer tick.Stop()
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
	for _, piece := range "abcdef" {
		<-tick.C
		c.send(string(piece))
	}
	if _, body := c.answer(); body != "abcdef <nil>" {
		t.Errorf("got %q, want the whole body", body)
	}
	c.send("POST /patient HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
	for range 5 {
		<-tick.C
	}
	c.send("b")
	if _, body := c.answer(); body != "ab <nil>" {
		t.Errorf("with a deadline of the handler's own: got %q, want the whole body", body)
	}
	<-s.drain(patience, none)
}

func TestCheck(t *testing.T) {
	s := server.New(server.Options{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the handler was called")
	})})
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("got %v, want success", err)
	}
	if n := s.Accepted(); n != 0 {
		t.Errorf("got %d connections counted, want none", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Check(ended); err == nil {
		t.Error("with an ended context: got success, want an error")
	}
}

func TestDrainingOfForeignContext(t *testing.T) {
	if ch := server.Draining(t.Context()); ch != nil {
		t.Error("got a channel for a context that is no request's")
	}
}
