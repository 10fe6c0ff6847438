package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"example.com/baton/server/internal/boundary"
)

// Tunnels names a kind of hijacked connections that can migrate to the successor: WebSockets,
// say. The handler that has hijacked one lets it go with [Tunnels.Migrate], and Options.Resume
// of the successor returns the handler that goes on with it.
type Tunnels string

// Migrating returns a channel that is closed when the connection on which a request has come can
// migrate, because its server drains and a successor is there. A handler that has hijacked
// it should then stop reading and writing, and call Migrate. ctx is the context of the
// request, or one derived from it. The channel is nil if the connection cannot migrate.
func (Tunnels) Migrating(ctx context.Context) <-chan struct{} {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stays || c.server.isDraining() && c.mayMigrate() == nil {
		return nil
	}
	return c.server.migrating
}

// Migrate offers a hijacked connection to the successor, and reports whether that has taken
// it. peer is another socket of the handler's that migrates with it, a *net.TCPConn or
// *net.UnixConn, or nil. state is what the handler needs to go on, as JSON. Together with the
// header of the request it must fit into [example.com/baton/upgrade.StateLimit].
//
// From the call on nothing may be read or written. If the connection was taken, the handler
// closes it and the peer, which closes its copies only, and returns. Otherwise it goes on as
// before. It may call Migrate again, but should wait for a moment, and ask Migrating. One that
// is closed forcibly before the successor has answered counts as taken.
func (kind Tunnels) Migrate(ctx context.Context, peer net.Conn, state []byte) (taken bool) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tunnel == nil || c.layer.holds() {
		return false
	}
	c.tunnel.kind, c.tunnel.peer, c.tunnel.state = kind, peer, state
	c.tunnel.migrated = c.offer() && c.tunnel.sent
	return c.tunnel.migrated
}

// Peer returns the second socket of a connection that has migrated, or nil. ctx is that of the
// request with which Options.Resume's handler was called.
func (Tunnels) Peer(ctx context.Context) net.Conn {
	if c, ok := ctx.Value(connKey{}).(*conn); ok && c.tunnel != nil {
		return c.tunnel.peer
	}
	return nil
}

// tunnel is what a handler has made of a connection that it has hijacked.
type tunnel struct {
	request  *http.Request
	began    time.Time
	kind     Tunnels
	peer     net.Conn
	state    json.RawMessage
	sent     bool // the successor may have it
	migrated bool // it has
}

// tunnelState is the state of a connection that a handler has taken over.
type tunnelState struct {
	Kind    Tunnels         `json:"kind"`
	Request []byte          `json:"request"` // its header, as HTTP/1.1
	Remote  string          `json:"remote"`
	Began   time.Time       `json:"began"`
	State   json.RawMessage `json:"state,omitempty"`
}

func (t *tunnel) export() *tunnelState {
	var head bytes.Buffer
	r := t.request
	fmt.Fprintf(&head, "%s %s %s\r\nHost: %s\r\n", r.Method, r.RequestURI, r.Proto, r.Host)
	r.Header.Write(&head)
	head.WriteString("\r\n")
	return &tunnelState{Kind: t.kind, Request: head.Bytes(), Remote: r.RemoteAddr, Began: t.began, State: t.state}
}

// rebuild returns the tunnel of a predecessor.
func (s *tunnelState) rebuild() (*tunnel, error) {
	head, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(s.Request)))
	if err != nil {
		return nil, err
	}
	head.RemoteAddr, head.Body = s.Remote, http.NoBody
	return &tunnel{request: head, began: s.Began, kind: Tunnels(strings.Clone(string(s.Kind)))}, nil
}

// adoptTunnel returns what goes on with a connection that a handler of the predecessor has
// taken over, or nil if none does here.
func (c *conn) adoptTunnel(peer net.Conn, moved transfer) (begin func()) {
	s := moved.Tunnel
	if c.server.opts.Resume == nil {
		return nil
	}
	t, err := s.rebuild()
	if err != nil {
		c.server.opts.Logger.Warn("connection from the predecessor is refused", "error", err)
		return nil
	}
	h := c.server.opts.Resume(t.kind, s.State)
	if h == nil {
		return nil
	}
	t.peer, c.tunnel = peer, t
	c.boundary = boundary.AdoptHijacked()
	return func() {
		c.server.noteArrival(moved.protocol())
		c.server.register(c, classHijacked)
		go c.resume(h)
	}
}

// resume lets a handler go on with an adopted connection.
func (c *conn) resume(h http.Handler) {
	s, t := c.server, c.tunnel
	s.requests.Add(1)
	defer s.noteReturn(c)
	defer c.recoverHandler()
	var err error
	if t.peer != nil {
		if t.peer, err = s.openConn(t.peer); err != nil {
			s.opts.Logger.Error("connection from the predecessor cannot be opened", "error", err)
			c.setReason(Failed)
		}
	}
	if err != nil || !c.open() {
		c.Close()
		if t.peer != nil {
			t.peer.Close()
		}
		return
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), connKey{}, c))
	defer cancel()
	ctx = context.WithValue(ctx, http.ServerContextKey, s.http)
	r := t.request.WithContext(context.WithValue(ctx, http.LocalAddrContextKey, c.LocalAddr()))
	r.TLS = c.secure.connectionState()
	h.ServeHTTP(&response{ResponseWriter: &resumed{c: c}, conn: c, begun: true, handed: r, came: t.began}, r)
}

// recoverHandler ends a connection whose handler has panicked, as net/http does.
func (c *conn) recoverHandler() {
	v := recover()
	if v == nil {
		return
	}
	if err, _ := v.(error); !errors.Is(err, http.ErrAbortHandler) {
		c.server.opts.Logger.Error("handler panicked", "panic", v, "stack", string(debug.Stack()))
	}
	c.Close()
}

// resumed is the ResponseWriter of a handler that goes on with a connection.
type resumed struct {
	c      *conn
	header http.Header
}

func (w *resumed) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (*resumed) WriteHeader(int) {}

func (*resumed) Write([]byte) (int, error) { return 0, http.ErrHijacked }

// Hijack returns the connection. Nothing was read from it here.
func (w *resumed) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.c, bufio.NewReadWriter(bufio.NewReader(w.c), bufio.NewWriter(w.c)), nil
}

// Began returns when the request came: at a predecessor, perhaps.
func (w *response) Began() time.Time { return w.came }

// HasMigrated reports whether the successor goes on with the connection, so that it accounts
// for the request.
func (w *response) HasMigrated() bool { return w.conn.hasMigrated() }
