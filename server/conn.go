package server

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/baton/server/internal/boundary"
)

// conn is the top layer of a connection, which net/http has, and its account: what it does,
// whether anything would be lost by closing it now, and why it was closed.
//
// The boundary machine knows at which calls of net/http the connection is at rest. Only then
// may it migrate, or be closed because it is idle. Of the fields of its own, mu guards those below it.
type conn struct {
	stack
	server   *Server
	listener net.Listener  // from which it was accepted
	response response      // reused by each request; HTTP/1 has one at a time
	answer   chan struct{} // closed when the successor has taken it, or not; made for each offer
	isCheck  bool          // the server's own; no handler gets its requests
	tunnel   *tunnel       // what a handler made of it that has taken it over

	mu       sync.Mutex
	boundary boundary.Machine
	account
	stays  bool      // a layer cannot migrate
	part   part      // in the session of migration
	window *migrator // in whose window the connection has a place, or nil
	hooks  map[*hook]struct{}
}

// stack is what is below conn.
type stack struct {
	layer  // the one below the follower: TLS or the socket
	socket socket
	secure *secure                  // the layer of TLS; nil: plaintext
	http1  follower                 // until the preface of HTTP/2 has come
	top    atomic.Pointer[follower] // of the client's protocol
}

// account is what is counted of a connection.
type account struct {
	class    class
	reason   Reason
	tail     tail
	protocol Protocol // as it was offered
}

// tail says what the client may be sending when its connection is closed, which decides how
// that is done.
type tail uint8

const (
	nothing       tail = iota
	unreadBody         // the rest of a request's body that the handler has not read
	abandonedBody      // the rest of a body that nobody reads
	excessFrames       // frames of HTTP/2, for which it was refused
	truncated          // no matter what: the response is broken off, and must not look whole
)

// follower is the layer next to net/http. It follows the requests in what passes, and knows
// how its protocol ends a connection.
type follower interface {
	io.ReadWriter
	// beginRequest returns what a handler is given for a request, or why the request is
	// malformed.
	beginRequest(w http.ResponseWriter, r *http.Request) (rw *response, handed *http.Request, malformed string)
	// beginResponse is called when the header of the final response is about to be written.
	beginResponse(rw *response, status int)
	// abortResponse is called when a handler has panicked.
	abortResponse()
	// awaitFirstByte waits until there is something for net/http to do on an adopted connection,
	// and returns false if that has migrated or ended before.
	awaitFirstByte() bool
	// drain is called when the server has begun to drain.
	drain()
	// wakeToOffer wakes the reader of a connection that waits at rest, so that it is offered
	// to the successor in a session. It reports whether it did: then the connection has a
	// place in the session's window.
	wakeToOffer(*migrator) bool
	// isIdle reports whether nothing would be lost by closing the connection, as far as bytes
	// are concerned that were read.
	isIdle() bool
	// export adds what a successor needs to rebuild it, and returns false if it cannot be
	// rebuilt elsewhere.
	export(to *transfer) bool
}

// newConn returns a connection, over TLS unless config is nil.
func (s *Server) newConn(nc net.Conn, config *tls.Config) *conn {
	c := &conn{server: s}
	c.socket.Conn, c.socket.owner = nc, c
	c.layer, c.http1 = &c.socket, http1{c}
	c.top.Store(&c.http1)
	c.response.conn = c
	if config != nil {
		c.secure = newSecure(c, config)
		c.layer = c.secure
	}
	return c
}

// track counts a connection that has just been accepted.
func (s *Server) track(nc net.Conn, ln net.Listener, config *tls.Config) *conn {
	c := s.newConn(nc, config)
	c.listener = ln
	c.stays = !c.layer.export(new(transfer))
	limitUnsent(nc)
	s.accepted.Add(1)
	s.register(c, classNew)
	return c
}

// register counts a connection from now on.
func (s *Server) register(c *conn, as class) {
	c.count(as)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundary.IsClosed()
}

// follow follows the states of net/http. Closed is not among them: Close is earlier.
func (c *conn) follow(state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	as := c.class
	switch state {
	case http.StateActive:
		as = classActive
		draining, now := c.server.isDraining(), time.Time{}
		if draining {
			now = time.Now()
		}
		c.boundary.BecomeActive(draining, now)
	case http.StateIdle:
		as = classIdle
		c.boundary.BecomeIdle()
	case http.StateHijacked:
		as = classHijacked
		c.boundary.Hijack()
	}
	if c.class != uncounted && !c.boundary.IsClosed() {
		c.count(as)
	}
}

func (c *conn) follower() follower { return *c.top.Load() }

func (c *conn) Read(p []byte) (int, error) { return c.follower().Read(p) }

// Write is not called concurrently by net/http.
func (c *conn) Write(p []byte) (int, error) { return c.follower().Write(p) }

// plainConn is a conn without encryption, as net/http has it: one that the kernel can send
// files to. One over TLS must not have these methods, even if they copy: for a net.Conn with
// ReadFrom net/http writes the header of a response by itself, which then takes two records.
type plainConn struct{ *conn }

func (c plainConn) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := c.layer.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return copyTo(c, r)
}

func (c plainConn) SyscallConn() (syscall.RawConn, error) { return c.socket.SyscallConn() }

// served returns the connection as net/http has it.
func (c *conn) served() net.Conn {
	if c.secure != nil {
		return c
	}
	return plainConn{c}
}

// connOf returns the connection that net/http has.
func connOf(nc net.Conn) *conn {
	if plain, ok := nc.(plainConn); ok {
		return plain.conn
	}
	return nc.(*conn)
}

// wasClosed reports whether the connection was closed under its handler.
func (c *conn) wasClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := c.boundary.State()
	return state == boundary.Closed || state == boundary.Released && c.reason == DrainTimeout
}

// hasMigrated reports whether its handler let it migrate.
func (c *conn) hasMigrated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tunnel != nil && c.tunnel.migrated
}

// setReason notes why the connection is about to be closed. The first reason holds, unless
// the connection is closed forcibly.
func (c *conn) setReason(r Reason) {
	c.mu.Lock()
	c.explain(r)
	c.mu.Unlock()
}

// explain is setReason, called with the lock held.
func (c *conn) explain(r Reason) {
	if c.reason == unknown || r == DrainTimeout {
		c.reason = r
	}
}

// setTail notes what the client may be sending when the connection is closed.
func (c *conn) setTail(t tail) {
	c.tail = max(c.tail, t)
}

// abandonBody notes that nobody reads the rest of a request's body. The connection ends with
// the response that is under way.
func (c *conn) abandonBody() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setTail(abandonedBody)
	c.boundary.Abandon()
}

// Close closes the socket and ends the connection's account. Of one that has migrated it
// closes the copy. Closing twice is no error: net/http does.
func (c *conn) Close() error { return c.close(true) }

// close is Close. If it must not wait, close_notify is sent only where that takes no time.
func (c *conn) close(mayWait bool) error {
	c.mu.Lock()
	state := c.boundary.State()
	if c.boundary.IsClosed() {
		c.mu.Unlock()
		return nil
	}
	switch state {
	case boundary.Migrated:
	case boundary.Hijacked, boundary.OfferedHijacked:
		c.explain(Hijacked)
	case boundary.Handling, boundary.Body, boundary.Abandoned: // net/http closes after a response only if it has sent "Connection: close"
		c.explain(ConnectionClose)
	default:
		c.explain(Failed)
	}
	c.do(c.boundary.Close())
	if c.class != uncounted {
		c.count(classActive)
	}
	c.dropHooks()
	if h, ok := c.follower().(*http2Conn); ok {
		nudge(h.changed)
	}
	reason, tail, pipelined := c.reason, c.tail, c.boundary.SentAhead()
	c.mu.Unlock()

	if !state.Shared() && reason != DrainTimeout && tail != truncated {
		c.linger(lingerTime(c, reason, tail, pipelined))
		c.secure.sendCloseNotify(mayWait && (reason == ConnectionClose || reason == ByClient)) // a response may be on its way
	}
	err := c.socket.Close()
	if state == boundary.Migrated {
		reason = unknown
	}
	c.server.forget(c, reason)
	return err
}

// forget ends the account of a connection, with the reason for which it was closed.
func (s *Server) forget(c *conn, reason Reason) {
	c.mu.Lock()
	c.count(uncounted)
	c.mu.Unlock()
	s.mu.Lock()
	if _, registered := s.conns[c]; registered && reason != unknown {
		s.closed[reason].Add(1)
	}
	delete(s.conns, c)
	s.mu.Unlock()
	s.noteEnd()
}

// How long a connection lingers whose client goes on to send: after a response, with the rest
// of a body, and when nothing more comes.
const (
	lingerResponse = time.Second
	lingerBody     = 5 * time.Second
	lingerPause    = time.Second
)

// lingerTime returns how long a connection lingers that is closed for a reason, with a tail.
func lingerTime(c *conn, reason Reason, tail tail, pipelined bool) time.Duration {
	switch {
	case tail == abandonedBody, tail == unreadBody && reason == TimedOut:
		return lingerBody
	case reason == ConnectionClose && pipelined, (reason == ConnectionClose || tail == excessFrames) && readable(&c.socket):
		return lingerResponse
	}
	return 0
}

// linger lets the response reach a client that has sent more, or is about to, which nobody
// will answer: closing a socket with unread bytes resets the connection, and discards what is
// still on its way (RFC 9112, section 9.6). Many clients send the whole of a body before they
// look for a response.
func (c *conn) linger(longest time.Duration) {
	if longest == 0 {
		return
	}
	c.secure.sendCloseNotify(true)
	if c.socket.CloseWrite() != nil {
		return
	}
	buffer := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buffer)
	end := time.Now().Add(longest)
	for now := time.Now(); now.Before(end); now = time.Now() {
		c.socket.SetReadDeadline(now.Add(min(lingerPause, end.Sub(now))))
		if _, err := c.socket.Read(buffer[:]); err != nil {
			return
		}
	}
}
