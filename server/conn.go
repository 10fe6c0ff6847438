package server

// This file holds the account of one connection: what it does, whether
// anything could be lost by closing it now, and why it was closed.

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

// Reason says why a connection was closed.
type Reason uint8

const (
	// ByClient: the client closed it, or asked for that.
	ByClient Reason = iota
	// Announced: a response carried "Connection: close".
	Announced
	// AfterGrace: it stayed silent for the idle grace of a drain, or to its deadline.
	AfterGrace
	// Cut: it was still busy when the drain had to end.
	Cut
	// TimedOut: the idle, header or body timeout passed.
	TimedOut
	// Failed: the request was malformed, or its handler gave up.
	Failed
	// Hijacked: a handler had taken it over, and closed it.
	Hijacked

	reasons
)

var reasonNames = [reasons]string{"client", "announced", "grace", "cut", "timeout", "error", "hijacked"}

// String returns the reason as metrics and reports spell it.
func (why Reason) String() string { return reasonNames[why] }

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

	mu        sync.Mutex
	boundary  boundary.Machine
	class     class // in which it is counted
	why       Reason
	explained bool // why is known already
	stays     bool // the successor has not taken it, or could not
	broken    bool // a handler has given up amid its answer
	unread    bool // the handler has not read the request's body to its end
	abandoned bool // nor does anybody else: nothing is read any more
	excessive bool // its client has been refused, and may be sending yet
	farewells map[*farewell]struct{}
}

// class says as what a connection is counted.
type class uint8

const (
	classNew    class = iota // no whole request header yet
	classActive              // a request is under way
	classIdle                // between two requests
	classHijacked
	classMigrated // the successor's
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
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	return c
}

func (c *conn) currentClass() class {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.class
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundary.IsClosed()
}

// become follows the states of net/http. Closed is not among them: Close is earlier.
func (c *conn) become(state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boundary.IsClosed() {
		return
	}
	switch state {
	case http.StateActive:
		c.class = classActive
		draining, now := c.server.isDraining.Load(), time.Time{}
		if draining {
			now = time.Now()
		}
		c.boundary.BecomeActive(draining, now)
	case http.StateIdle:
		c.class = classIdle
		c.boundary.BecomeIdle()
	case http.StateHijacked:
		c.class = classHijacked
		c.boundary.Hijack()
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
	c.unread = false
	if r.Close {
		c.explain(ByClient)
	}
}

// wasCut tells whether the connection was closed under its handler.
func (c *conn) wasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := c.boundary.State()
	return state == boundary.Closed || state == boundary.Released && c.why == Cut
}

// because notes why the connection is about to be closed. The first word holds,
// but what is cut is cut, whatever would have become of it.
func (c *conn) because(why Reason) {
	c.mu.Lock()
	c.explain(why)
	c.mu.Unlock()
}

// giveUp notes that a handler has given up: an answer of its that has begun must
// not look like a whole one.
func (c *conn) giveUp() {
	c.mu.Lock()
	c.broken = true
	c.explain(Failed)
	c.mu.Unlock()
}

// abandonBody notes that nobody reads the rest of a request's body. The connection ends
// with the response that is under way.
func (c *conn) abandonBody() {
	c.mu.Lock()
	c.unread, c.abandoned = true, true
	c.boundary.Abandon()
	c.mu.Unlock()
}

func (c *conn) explain(why Reason) {
	if !c.explained || why == Cut {
		c.why, c.explained = why, true
	}
}

// Close destroys the socket and ends the connection's account. Of one that has
// moved it closes the copy. Closing twice is no error: net/http does.
func (c *conn) Close() error { return c.close(true) }

// close is Close. If it must not wait, the end is told of only where that takes no time.
func (c *conn) close(mayWait bool) error {
	c.mu.Lock()
	if c.boundary.IsClosed() {
		c.mu.Unlock()
		return nil
	}
	moved := false
	switch c.boundary.State() {
	case boundary.Migrated:
		moved = true
	case boundary.Hijacked:
		c.explain(Hijacked)
	case boundary.Handling, boundary.Body, boundary.Abandoned: // net/http closes after a response only if it has said so in it
		c.explain(Announced)
	default:
		c.explain(Failed)
	}
	c.do(c.boundary.Close())
	c.class = classActive
	c.dropFarewells()
	pipelines := c.boundary.SentAhead()
	why, whole, unread := c.why, c.why != Cut && !c.broken, c.abandoned || c.unread && c.why == TimedOut
	excessive := c.excessive
	c.mu.Unlock()

	switch {
	case !whole || moved:
	case unread:
		c.linger(lingerBodyTime)
	case why == Announced && pipelines, (why == Announced || excessive) && readable(c.Conn):
		c.linger(lingerTime)
	}
	if whole {
		c.secure.sayGoodbye(c.Conn, mayWait && (why == Announced || why == ByClient)) // an answer may be on its way
	}
	err := c.Conn.Close()
	s := c.server
	s.mu.Lock()
	if _, tracked := s.conns[c]; tracked {
		if !moved {
			s.closed[why].Add(1)
		}
		delete(s.conns, c)
	}
	s.mu.Unlock()
	s.noteEnd()
	return err
}

// How long a connection lingers whose client goes on to send: after a response, with the
// rest of a body, and when nothing more comes.
const (
	lingerTime     = time.Second
	lingerBodyTime = 5 * time.Second
	lingerPause    = time.Second
)

// linger lets the response get through to a client that has sent more, or is about
// to, which nobody will answer: closing a socket with unread bytes resets the connection,
// and discards what is still on its way (RFC 9112, section 9.6). Many clients send the
// whole of a body before they look for a response.
func (c *conn) linger(longest time.Duration) {
	c.secure.sayGoodbye(c.Conn, true)
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
