package server_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))) // those that are wait most of the time
	goleak.VerifyTestMain(m)
}

// hang is how long nothing takes that comes at all, however busy the machine is.
const hang = 10 * time.Minute

// patience is a time that is long for a client.
const patience = time.Minute

// slack is how much later a timeout may show on a machine that has much to do.
const slack = time.Minute

// served is a server on a socket of its own.
type served struct {
	*server.Server
	t        *testing.T
	listener net.Listener
	addr     net.Addr
	drained  sync.WaitGroup
}

func serve(t *testing.T, opts server.Options) *served {
	t.Helper()
	return serveOn(t, listen(t), opts)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func serveOn(t *testing.T, ln net.Listener, opts server.Options) *served {
	t.Helper()
	if opts.IdleGrace == 0 {
		opts.IdleGrace = 100 * time.Millisecond
	}
	opts.IdleTimeout, opts.ReadHeaderTimeout = cmp.Or(opts.IdleTimeout, hang), cmp.Or(opts.ReadHeaderTimeout, hang)
	s := newServed(t, ln, opts)
	s.Serve()
	return s
}

func newServed(t *testing.T, ln net.Listener, opts server.Options) *served {
	s := &served{Server: server.New(opts), t: t, listener: ln, addr: ln.Addr()}
	s.Add(ln)
	return s
}

func none(net.Listener) bool { return false }

func all(net.Listener) bool { return true }

// drain begins a drain in which nothing moves, see drainBy.
func (s *served) drain(timeout time.Duration, kept func(net.Listener) bool) <-chan upgrade.Drained {
	return s.drainBy(timeout, upgrade.Handoff{Kept: kept})
}

// drainBy begins a drain and returns its result's channel. The test waits for it
// at its end.
func (s *served) drainBy(timeout time.Duration, h upgrade.Handoff) <-chan upgrade.Drained {
	done := make(chan upgrade.Drained, 1)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	s.t.Cleanup(cancel)
	s.drained.Add(1)
	go func() {
		defer s.drained.Done()
		done <- s.Drain(ctx, h)
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
	nc, err := s.connect()
	if err != nil {
		s.t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(hang))
	s.t.Cleanup(func() { nc.Close() })
	return &client{s.t, nc, bufio.NewReader(nc)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// awaitArrival waits until the server's kernel has all that was sent.
func (c *client) awaitArrival() {
	c.t.Helper()
	conn := c.Conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	tcp := conn.(*net.TCPConn) // of anything else the queue is not known
	await(c.t, "nothing is under way", func() bool { return server.Queue(tcp) == 0 })
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
	for end := time.Now().Add(hang); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not after %v: %s", hang, what)
		}
	}
}

// awaitDraining waits until the server decides on responses as one that drains.
func (s *served) awaitDraining() {
	s.t.Helper()
	await(s.t, "draining", s.IsDraining)
}

func hello(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }

// gate is a handler that waits until it is released.
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
	t.Parallel()
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
		"malformed":           {func(t *testing.T, c *client) { c.send("a lot of garbage\r\n\r\n"); c.answer() }, server.Failed},
		"malformed, and too short to be distinguished from HTTP/2": {func(t *testing.T, c *client) { c.send("garbage\r\n\r\n"); c.answer() }, server.TimedOut},
		"handler panics":    {func(t *testing.T, c *client) { c.send("GET /panic HTTP/1.1\r\nHost: x\r\n\r\n"); c.closedCleanly() }, server.Failed},
		"handler announces": {func(t *testing.T, c *client) { c.get("/close") }, server.ConnectionClose},
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
		t.Run(name, inBubble(func(t *testing.T) {
			s := serveOn(t, memory(), server.Options{
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
		}))
	}
}

// A body may take longer than the timeout as long as it keeps coming, and the
// deadline of a handler that sets one is its own.
func TestSlowBody(t *testing.T) { synctest.Test(t, testSlowBody) }

func testSlowBody(t *testing.T) {
	const pause = 60 * time.Millisecond
	s := serveOn(t, memory(), server.Options{
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

// Handlers that are stuck cannot be distinguished from those that have much to do, so that the
// watchdog, which asks this, does not end the requests of either.
func TestCheckWhileHandlersAreStuck(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })})
	const clients = 50
	for range clients {
		s.dial().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	}
	c := s.dialHTTP2()
	for i := range uint32(clients) {
		c.request(2*i+1, "/")
	}
	await(t, "the requests", func() bool { return s.Load().Requests == 2*clients })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Check(ctx); err != nil {
		t.Error(err)
	}
	close(release)
	<-s.drain(patience, all)
}
