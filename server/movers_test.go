package server_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

// names is a handler that answers with a generation's name.
func names(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name) })
}

// movers are two generations and the way from the first to the second.
type movers struct {
	first, second *served
	offered       atomic.Int64
	// gate, if not nil, says which connections of a batch the successor takes.
	gate func(ctx context.Context, conns []upgrade.Connection) []bool
	// each, if not nil, changes what the successor is given.
	each func(*upgrade.Connection)
	// stateless says that the successor takes sockets only.
	stateless bool
}

// slowOr answers /slow by a gate, and everything else at once.
func slowOr(g *gate, answer string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			g.ServeHTTP(w, r)
		} else {
			io.WriteString(w, answer)
		}
	})
}

func newMovers(t *testing.T, first http.Handler) *movers {
	t.Helper()
	return &movers{
		first:  serve(t, server.Options{Handler: first}),
		second: serve(t, server.Options{Handler: names("second")}),
	}
}

// memoryMovers are movers in a synctest bubble, whose options may be changed.
func memoryMovers(t *testing.T, first, second server.Options) *movers {
	if second.Handler == nil {
		second.Handler = names("second")
	}
	return &movers{first: serveOn(t, memory(), first), second: serveOn(t, memory(), second)}
}

// move passes sockets on as a successor in another process gets them.
func (m *movers) move(ctx context.Context, conns []upgrade.Connection) []bool {
	m.offered.Add(int64(len(conns)))
	taken := everything(conns)
	if m.gate != nil {
		taken = m.gate(ctx, conns)
	}
	for i, c := range conns {
		if i >= len(taken) || !taken[i] {
			continue
		}
		c.Conn = dup(m.second.t, c.Conn)
		if c.Peer != nil {
			c.Peer = dup(m.second.t, c.Peer)
		}
		c.Listener = m.second.listener
		if m.each != nil {
			m.each(&c)
		}
		if begin := m.second.Adopt(c); begin != nil {
			begin()
		} else {
			taken[i] = false
			c.Close()
			if c.Peer != nil {
				c.Peer.Close()
			}
		}
	}
	return taken
}

// unopened is a connection as it comes over the link.
type unopened struct{ *os.File }

func (unopened) LocalAddr() net.Addr { return nil }

func (unopened) RemoteAddr() net.Addr { return nil }

var _ upgrade.Unopened = unopened{}

func (u unopened) Open() (net.Conn, error) {
	nc, err := net.FileConn(u.File)
	if err == nil {
		u.Close()
	}
	return nc, err
}

// dup returns another descriptor of the same socket.
func dup(t testing.TB, nc net.Conn) net.Conn {
	if m, ok := nc.(*memoryConn); ok {
		return m.dup()
	}
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Error(err)
		return nil
	}
	var f *os.File
	raw.Control(func(fd uintptr) {
		var copied int
		if copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			f = os.NewFile(uintptr(copied), "")
		}
	})
	if err != nil {
		t.Error(err)
		return nil
	}
	return unopened{f}
}

// handOff begins the drain of the first.
func (m *movers) handOff(timeout time.Duration) <-chan upgrade.Drained {
	return m.first.drainBy(timeout, upgrade.Handoff{Kept: all, Migrate: m.move, States: !m.stateless})
}

// end drains the second.
func (m *movers) end() upgrade.Drained { return <-m.second.drain(patience, all) }

// isFrom fails unless an answer is that of one generation, and leaves the connection open.
func (c *client) isFrom(name string) {
	c.t.Helper()
	if resp, body := c.get("/"); body != name || resp.Close {
		c.t.Errorf("got %q, close %t, want %q on a connection that stays open", body, resp.Close, name)
	}
}

// movesOn sends requests until the second answers. The first may answer some: a
// request that follows at once on an answer may be read before it could move.
func (c *client) movesOn() {
	c.t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; {
		resp, body := c.get("/")
		if resp.Close {
			c.t.Errorf("got %q with an announcement", body)
		}
		if body == "second" || resp.Close {
			return
		}
	}
	c.t.Errorf("still not moved after %v", patience)
}
