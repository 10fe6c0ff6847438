package server_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// adopt gives the server one end of a new connection and returns the other.
func (s *served) adopt(used bool, left time.Duration) *client {
	s.t.Helper()
	c := s.dial()
	nc, err := s.listener.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.Adopt(upgrade.Connection{Conn: nc, Listener: s.listener, Used: used, Left: left})()
	return c
}

// adopter returns a server that accepts nothing by itself.
func adopter(t *testing.T, ln net.Listener, opts server.Options) *served {
	t.Helper()
	if opts.IdleGrace == 0 {
		opts.IdleGrace = 100 * time.Millisecond
	}
	s := &served{Server: server.New(opts), t: t, listener: ln, addr: ln.Addr()}
	s.Serve()
	t.Cleanup(func() { ln.Close() })
	return s
}

func TestAdoptedConnectionMayBeIdleForWhatItHadLeft(t *testing.T) {
	const left, header = 300 * time.Millisecond, 50 * time.Millisecond
	for name, used := range map[string]bool{"new": false, "idle": true} {
		t.Run(name, inBubble(func(t *testing.T) {
			s := adopter(t, memory(), server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: header})
			begin := time.Now()
			silent, patient := s.adopt(used, left), s.adopt(used, 0)
			silent.closedCleanly()
			if took := time.Since(begin); took != left {
				t.Errorf("closed after %v, want %v", took, left)
			}
			synctest.Wait()
			if n := s.Closed()[server.TimedOut]; n != 1 {
				t.Errorf("%d closed by a timeout, want 1", n)
			}
			patient.get("/") // has no limit
			<-s.drain(patience, all)
		}))
	}
}

func TestHeaderTimeoutOfAdoptedConnectionRunsFromItsFirstByte(t *testing.T) {
	const header, left = 600 * time.Millisecond, 3 * time.Second
	const lines = "GET / HTTP/1.1\r\nHost: x\r\n"
	const half = lines + "X-Long: "
	for name, used := range map[string]bool{"new": false, "idle": true} {
		for begun, text := range map[string]string{
			"byte by byte":          half,
			"a full buffer":         half + strings.Repeat("a", 4096-len(half)),
			"lines that fill it":    half + strings.Repeat("a", 4096-len(half)-2) + "\r\n",
			"more than it can hold": half + strings.Repeat("a", 5000),
		} {
			t.Run(name+" "+begun, inBubble(func(t *testing.T) {
				s := adopter(t, memory(), server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: header, IdleGrace: 10 * time.Millisecond})
				late, whole := s.adopt(used, left), s.adopt(used, left)
				time.Sleep(100 * time.Millisecond) // of what they may be idle
				begin := time.Now()
				if begun == "byte by byte" {
					for _, b := range text {
						late.send(string(b))
						whole.send(string(b))
						time.Sleep(2 * time.Millisecond)
					}
				} else {
					late.send(text)
					whole.send(text)
				}
				drained := s.drain(patience, all) // does not take it for an idle one
				time.Sleep(20 * time.Millisecond)
				whole.send("a:\r\n\r\n")
				if resp, body := whole.answer(); resp.StatusCode != 200 || body != "hello" || !resp.Close {
					t.Errorf("got %d %q, close %t, want the answer with Connection: close", resp.StatusCode, body, resp.Close)
				}
				io.Copy(io.Discard, late)
				if took := time.Since(begin); took != header {
					t.Errorf("half a header: closed after %v, want %v", took, header)
				}
				if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 1, Timeout: 1}) {
					t.Errorf("got %+v, want one sent Connection: close and one timeout", d)
				}
			}))
		}
	}
}

func TestAdoptedConnectionThenHasTheUsualTimeouts(t *testing.T) {
	const idle = 200 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		s := adopter(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleTimeout: idle})
		c := s.adopt(true, patience)
		begin := time.Now()
		c.get("/")
		c.closedCleanly()
		if took := time.Since(begin); took != idle {
			t.Errorf("closed after %v, want %v", took, idle)
		}
		<-s.drain(patience, all)
	})
}

// A connection that waits for its first byte on a socket has the same time.
func TestAdoptedSocketMayBeIdleForWhatItHadLeft(t *testing.T) {
	t.Parallel()
	const left = 300 * time.Millisecond
	s := adopter(t, listen(t), server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: time.Nanosecond})
	begin := time.Now()
	s.adopt(true, left).closedCleanly()
	if took := time.Since(begin); took < left {
		t.Errorf("closed after %v, want %v", took, left)
	}
	await(t, "the account of it", func() bool { return s.Closed()[server.TimedOut] == 1 })
	<-s.drain(patience, all)
}

// net/http forgives line ends after a request, as long as it knows of it.
func TestLineEndsBeforeTheFirstRequestOfAnAdoptedConnection(t *testing.T) {
	t.Parallel()
	s := adopter(t, listen(t), server.Options{Handler: http.HandlerFunc(hello)})
	for _, ends := range []string{"\r\n", "\r\n\r\n"} {
		c := s.adopt(true, patience)
		c.send(ends)
		time.Sleep(10 * time.Millisecond) // also when they come alone
		c.send(ends)
		if resp, _ := c.get("/"); resp.StatusCode != 200 {
			t.Errorf("after %q: got %d, want 200", ends, resp.StatusCode)
		}
	}
	<-s.drain(patience, all)
}

func TestAdoptedConnectionIsDrained(t *testing.T) {
	s := adopter(t, listen(t), server.Options{Handler: http.HandlerFunc(hello)})
	silent, speaker := s.adopt(true, patience), s.adopt(false, patience)
	await(t, "both", func() bool { return s.Load().Connections == upgrade.Connections{New: 1, Idle: 1} })
	drained := s.drain(patience, all)
	s.awaitDraining()
	late := s.adopt(true, patience) // as between two handoffs
	for _, c := range []*client{speaker, late} {
		if resp, _ := c.get("/"); !resp.Close {
			t.Error("got no announcement")
		}
	}
	silent.closedCleanly()
	if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 2, IdleGrace: 1}) {
		t.Errorf("got %+v, want 2 sent Connection: close and 1 after the grace", d)
	}
}

// watchOpening is a connection that is watched once it is opened.
type watchOpening struct {
	unopened
	listener *watchListener
}

func (w watchOpening) Open() (net.Conn, error) {
	nc, err := w.unopened.Open()
	if err != nil {
		return nil, err
	}
	return &watchConn{nc.(*net.TCPConn), w.listener}, nil
}

// shortOf is a connection that can be opened only when there are descriptors again.
type shortOf struct {
	unopened
	failures *atomic.Int32
}

func (s shortOf) Open() (net.Conn, error) {
	if s.failures.Add(-1) >= 0 {
		return nil, &os.SyscallError{Syscall: "dup", Err: syscall.EMFILE}
	}
	return s.unopened.Open()
}

// A request that comes when no descriptor is left is answered when there is one again.
func TestOpenIsTriedAgain(t *testing.T) {
	t.Parallel()
	m := newMovers(t, names("first"))
	var failures atomic.Int32
	failures.Store(3)
	m.each = func(c *upgrade.Connection) { c.Conn = shortOf{c.Conn.(unopened), &failures} }
	c := m.first.dial()
	c.isFrom("first")
	<-m.handOff(patience)
	c.isFrom("second")
	if n := failures.Load(); n != -1 {
		t.Errorf("opened %d times, want 4 times", 3-n)
	}
	m.end()
}

// Files still go from the page cache to the socket.
func TestSendfileIsKeptOnAdoptedConnections(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMovers(t, names("first"))
	<-m.second.drain(patience, none)
	m.second = serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, path)
	})})
	watch := &watchListener{}
	m.each = func(c *upgrade.Connection) { c.Conn = watchOpening{c.Conn.(unopened), watch} }
	c := m.first.dial()
	c.isFrom("first")
	<-m.handOff(patience)
	if _, body := c.get("/"); body != string(content) {
		t.Error("the body is not the file")
	}
	if !watch.gotFile.Load() {
		t.Error("the socket's ReadFrom was not given the file")
	}
	m.end()
}

// What comes to a generation that has handed over itself goes on to the next.
func TestAdoptedInADrainMovesOn(t *testing.T) {
	m := newMovers(t, names("first"))
	g := newGate() // keeps the drain going
	busy := serve(t, server.Options{Handler: g})
	c := busy.dial()
	c.send(request)
	<-g.entered
	<-m.first.drain(patience, none)
	m.first = busy
	drained := m.handOff(patience)
	m.first.awaitDraining()
	late := adopter(t, listen(t), server.Options{Handler: names("first")})
	defer func() { <-late.drain(patience, none) }()
	nc := late.dial()
	far, err := late.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	m.first.Adopt(upgrade.Connection{Conn: far, Listener: m.first.listener, Used: true, Left: patience})()
	nc.isFrom("second")
	close(g.open)
	c.answer()
	if d := <-drained; d.Migrated != 2 {
		t.Errorf("got %+v, want 2 moved", d)
	}
	m.end()
}
