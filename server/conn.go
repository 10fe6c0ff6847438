package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/baton/server/internal/boundary"
)

// conn is a connection as net/http sees it, and its account: what it does, whether anything
// would be lost by closing it now, and why it was closed.
//
// The boundary machine knows at which calls of net/http the connection is at rest. Only then
// may it migrate, or be closed because it is idle.
type conn struct {
	net.Conn
	server   *Server
	listener net.Listener              // from which it was accepted
	response response                  // reused by each request; HTTP/1 has one at a time
	answer   chan struct{}             // closed when the successor has taken it, or not; made for each offer
	secure   *secure                   // TLS; nil: plaintext
	http2    atomic.Pointer[http2Conn] // since HTTP/2's preface has come
	isCheck  bool                      // the server's own; no handler gets its requests
	out      writer

	mu       sync.Mutex
	boundary boundary.Machine
	class    class
	reason   Reason
	tail     tail
	stays    bool // the successor has not taken it, or a layer cannot migrate
	hooks    map[*hook]struct{}
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

// track counts a connection that has just been accepted.
func (s *Server) track(nc net.Conn, ln net.Listener, config *tls.Config) *conn {
	c := &conn{Conn: nc, server: s, listener: ln}
	c.response.conn = c
	if config != nil {
		c.secure = newSecure(c, config)
		c.stays = true
	}
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

func (c *conn) Read(p []byte) (int, error) {
	if h := c.http2.Load(); h != nil {
		return h.Read(p)
	}
	return c.readHTTP1(p)
}

// receive reads from the socket, through TLS if need be.
func (c *conn) receive(p []byte) (int, error) {
	if c.secure != nil {
		return c.secure.receive(p)
	}
	return c.Conn.Read(p)
}

// Write is not called concurrently by net/http.
func (c *conn) Write(p []byte) (int, error) {
	if h := c.http2.Load(); h != nil {
		return h.Write(p)
	}
	return c.transmit(p)
}

// transmit writes to the socket, through TLS if need be.
func (c *conn) transmit(p []byte) (int, error) {
	if c.secure != nil {
		return c.secure.transmit(p)
	}
	return c.writeSocket(p)
}

// handle notes that a request has reached its handler.
func (c *conn) handle(r *http.Request) {
	if c.http2.Load() != nil { // one of many
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boundary.Handle(r.ContentLength != 0)
	if c.tail == unreadBody {
		c.tail = nothing
	}
	if r.Close {
		c.explain(ByClient)
	}
}

// wasClosed reports whether the connection was closed under its handler.
func (c *conn) wasClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := c.boundary.State()
	return state == boundary.Closed || state == boundary.Released && c.reason == DrainTimeout
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

// truncate notes that a handler has given up: a response that has begun must not look whole.
func (c *conn) truncate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setTail(truncated)
	c.explain(Failed)
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
	case boundary.Hijacked:
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
	reason, tail, pipelined := c.reason, c.tail, c.boundary.SentAhead()
	c.mu.Unlock()

	if state != boundary.Migrated && reason != DrainTimeout && tail != truncated {
		c.linger(lingerTime(c, reason, tail, pipelined))
		c.secure.sendCloseNotify(c.Conn, mayWait && (reason == ConnectionClose || reason == ByClient)) // a response may be on its way
	}
	err := c.Conn.Close()
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
	case reason == ConnectionClose && pipelined, (reason == ConnectionClose || tail == excessFrames) && readable(c.Conn):
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
	c.secure.sendCloseNotify(c.Conn, true)
	if closeWrite(c.Conn) != nil {
		return
	}
	buffer := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buffer)
	end := time.Now().Add(longest)
	for now := time.Now(); now.Before(end); now = time.Now() {
		c.Conn.SetReadDeadline(now.Add(min(lingerPause, end.Sub(now))))
		if _, err := c.Conn.Read(buffer[:]); err != nil {
			return
		}
	}
}

// ReadFrom keeps sendfile working, where nothing is encrypted.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok && c.secure == nil {
		if file := asFile(r); file != nil {
			return c.sendFile(rf, file)
		}
	}
	buffer := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c}, r, buffer[:])
}

const copySize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// CloseWrite lets net/http and proxied WebSockets end one direction only.
func (c *conn) CloseWrite() error {
	c.secure.closeWrite()
	return closeWrite(c.Conn)
}

func closeWrite(nc net.Conn) error {
	if cw, ok := nc.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the socket, where nothing is encrypted.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok && c.secure == nil {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
