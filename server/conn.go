package server

// This file holds the account of one connection: what it does, whether
// anything could be lost by closing it now, and why it was closed.

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type connState uint8

const (
	stateNew      connState = iota // accepted, no whole request header yet
	stateActive                    // a request is under way
	stateIdle                      // between two requests
	stateHijacked                  // a handler has taken it over
	stateMoved                     // the successor has it; what is here is a copy
	stateClosed
)

// purpose says why a Read was woken.
type purpose uint8

const (
	awake     purpose = iota // it was not
	toMove                   // to offer the connection to the successor
	toExpire                 // to destroy it: the grace is over
	toReclaim                // to destroy it: its descriptor is needed
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

// conn is a connection as net/http sees it.
//
// net/http reads the beginning of a request into a buffer of its own, so that
// neither its state nor the socket tells whether closing would lose something.
// A connection is parked while it is blocked in a Read at which net/http
// certainly holds nothing, and only then may it move or be destroyed. That is the
// very first Read of a connection; and the first one after it became idle, if it
// reads into net/http's whole buffer (a shorter one is partly filled already), and
// if net/http has set one deadline since, that for idleness (a second one is for a
// header whose beginning it has). How long the buffer is tells the first Read with
// which net/http does not look for the preface of HTTP/2 only.
//
// Who wants a parked connection wakes its Read by a deadline in the past, of which
// net/http never learns: what the Read then brings is served, and if it brings
// nothing, the reader itself offers or destroys the connection.
type conn struct {
	net.Conn
	server   *Server
	listener net.Listener              // from which it was accepted
	response response                  // reused by each request; HTTP/1 has one at a time
	answer   chan bool                 // whether the successor has taken it; of the reader and the mover
	secure   *secure                   // TLS; nil: plaintext
	http2    atomic.Pointer[http2Conn] // since HTTP/2's preface has come
	isCheck  bool                      // the server's own; no handler gets its requests
	out      writer

	mu         sync.Mutex
	state      connState
	parked     bool
	parkedAt   time.Time
	requests   requests  // HTTP/1's, as they come
	number     int       // of the request that has reached its handler last
	handled    bool      // the request has reached its handler
	reading    bool      // in the midst of a request's body
	discardEnd time.Time // until when the rest of the body is read, if nobody wants it
	why        Reason
	explained  bool      // why is known already
	deadline   time.Time // for reading, as net/http or the handler wants it
	deadlines  int       // how often it was set since the connection became idle
	asked      bool      // net/http has called Read
	delivered  int       // how many bytes it has got, until fullBuffer and the protocol are known
	fullBuffer int       // length of the buffer into which it reads
	http1      bool      // what has come is not the preface of HTTP/2
	refused    bool      // its handshake has failed, or it does not speak what that has agreed on
	graceEnd   time.Time // in a drain: when a parked connection is destroyed
	woken      purpose   // why Read is being woken
	windowed   bool      // it has a place in the mover's window
	adopted    bool      // come from the predecessor, and silent since: deadline is for that
	stays      bool      // the successor has not taken it
	rested     bool      // it was parked since it became idle
	ahead      int       // in a drain: how often it was not, because its client sent ahead
	aheadSince time.Time // when that was first
	hijacked   bool      // also when it is closed
	broken     bool      // a handler has given up amid its answer
	pipelines  bool      // the client has sent a request ahead in a drain, and may send more
	unread     bool      // the handler has not read the request's body to its end
	abandoned  bool      // nor does anybody else: nothing is read any more
	excessive  bool      // its client has been refused, and may be sending yet
	farewells  map[*farewell]struct{}
}

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

func (c *conn) currentState() connState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// become follows net/http's states. Closed is not among them: Close is earlier.
func (c *conn) become(state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateClosed {
		return
	}
	switch state {
	case http.StateActive:
		c.state = stateActive
		c.handled, c.graceEnd = false, time.Time{}
		if !c.rested && c.server.isDraining.Load() {
			if c.ahead++; c.ahead == 1 {
				c.aheadSince = time.Now()
			}
		}
	case http.StateIdle:
		c.state = stateIdle
		c.reading, c.rested, c.deadlines = false, false, 0
	case http.StateHijacked:
		c.state, c.hijacked = stateHijacked, true
		c.reading = false
	}
}

func (c *conn) Read(p []byte) (int, error) {
	if h := c.http2.Load(); h != nil {
		return h.Read(p)
	}
	quiet, parked, over := c.beforeRead(len(p))
	for {
		// net/http first looks for a preface, and comes again for a request
		if over || parked && !c.secure.within() && c.park() {
			return 0, io.EOF // any other error makes net/http write to the successor's client
		}
		n, err := c.receive(p)
		n, skipped := c.follow(p[:n])
		if !quiet && err == nil && !skipped {
			return n, nil
		}
		n, err, again := c.afterRead(p[:n], err, quiet, skipped)
		switch {
		case again:
		case err == nil && !c.secure.isDone():
			over = !c.handshake()
		default:
			if h := c.http2.Load(); h != nil && c.server.isDraining.Load() {
				h.announceLater()
			}
			return n, err
		}
	}
}

// follow follows the requests of HTTP/1 in what has come, and removes empty lines before
// them. It returns what is left, and whether nothing is of what was something.
func (c *conn) follow(got []byte) (n int, skipped bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateHijacked || len(got) == 0 {
		return len(got), false
	}
	n = c.requests.follow(got)
	return n, n == 0
}

// receive reads what is for net/http from the socket, through TLS if need be.
// Before the handshake it reads the beginning of the client's hello, for nobody.
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

// beforeRead notes what a Read with a buffer of this length means. It returns
// whether the connection is between two requests, or before the first, whether
// net/http holds nothing of the next one, and whether nothing is read any more.
func (c *conn) beforeRead(buffer int) (quiet, parked, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	quiet = c.state == stateNew || c.state == stateIdle
	switch {
	case quiet && c.holdsNothing(buffer) && !c.secure.within():
		c.rested = true
		return true, true, false
	case c.state == stateIdle && c.deadlines == 1:
		// A request has begun to arrive, but too few bytes of it for net/http
		// to see that its header timeout should run.
		c.Conn.SetReadDeadline(time.Now().Add(c.server.opts.ReadHeaderTimeout))
	case c.reading && buffer > 1: // one byte: net/http watches for the client's end meanwhile
		c.Conn.SetReadDeadline(c.bodyDeadline(time.Now()))
	}
	return quiet, false, c.state == stateMoved || c.refused || c.abandoned
}

// bodyDeadline returns when a Read of a request's body has to have something.
func (c *conn) bodyDeadline(now time.Time) time.Time {
	pause := now.Add(c.server.opts.ReadBodyTimeout)
	if !c.discardEnd.IsZero() && c.discardEnd.Before(pause) {
		return c.discardEnd
	}
	return pause
}

// limitDiscard notes that the rest of a request's body is only read to be discarded: by a
// Read that is under way, too, if underWay is set.
func (c *conn) limitDiscard(underWay bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.discardEnd, c.unread = now.Add(discardTime), true
	if underWay {
		c.reading = true
		c.Conn.SetReadDeadline(c.bodyDeadline(now))
	}
}

// park parks the connection for a Read. In a drain it is offered to the successor
// before; what has arrived of late is then the successor's to read. park returns
// whether the connection has moved. If not, the grace begins.
func (c *conn) park() (moved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !moved && c.mayMove() { // again if the successor hung just now
		m, woken := c.server.moving, c.windowed
		c.mu.Unlock()
		moved = m.offer(c, woken)
		c.mu.Lock()
	}
	c.leaveWindow()
	if moved {
		return true
	}
	c.parked, c.parkedAt = true, time.Now()
	if c.server.isDraining.Load() && !c.mayMove() {
		c.startGrace(time.Now())
	}
	return false
}

// afterRead notes how a Read ended, and decides on a connection that was woken:
// only here is it certain whether something has come. It returns what net/http
// is told, and whether to read again instead.
func (c *conn) afterRead(got []byte, err error, quiet, skipped bool) (n int, told error, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parked = false
	timedOut := errors.Is(err, os.ErrDeadlineExceeded)
	woken := c.woken
	if woken != awake {
		c.woken = awake
		c.Conn.SetReadDeadline(c.deadline)
	}
	isEnd := woken == toExpire || woken == toReclaim
	if isEnd {
		c.graceEnd = time.Time{}
	}
	switch {
	case timedOut && woken == toMove:
		return 0, nil, true
	case timedOut && isEnd && readable(c.Conn): // it came in this moment
		return 0, nil, true
	case timedOut && isEnd && c.secure.within(): // the beginning of a record came meanwhile
		c.Conn.SetReadDeadline(time.Now().Add(c.server.opts.ReadHeaderTimeout))
		return 0, nil, true
	case timedOut && isEnd:
		if woken == toReclaim {
			c.explain(TimedOut)
		}
		c.explain(AfterGrace)
		c.mu.Unlock()
		c.Close()
		c.mu.Lock()
		return 0, io.EOF, false
	}
	c.leaveWindow()
	switch {
	case err == nil, errors.Is(err, net.ErrClosed):
	case !timedOut:
		c.explain(ByClient)
	case quiet || c.reading:
		c.explain(TimedOut)
	}
	if n = len(got); n > 0 && c.adopted {
		c.firstBytes()
	}
	if quiet && (c.fullBuffer == 0 || !c.http1) && !c.recognize(got[:n]) {
		c.refused = true
		c.explain(Failed)
		return 0, io.EOF, false
	}
	return n, err, skipped && err == nil
}

// firstBytes notes that an adopted connection has spoken: from now on it has the
// time of a header.
func (c *conn) firstBytes() {
	c.adopted, c.deadline = false, time.Now().Add(c.server.opts.ReadHeaderTimeout)
	c.Conn.SetReadDeadline(c.deadline)
}

// holdsNothing tells whether net/http has no byte of a request when it calls
// Read with a buffer of this length on a new or idle connection.
func (c *conn) holdsNothing(buffer int) bool {
	first := !c.asked
	c.asked = true
	if c.fullBuffer == 0 && buffer > len(preface) { // nothing of what was delivered is consumed yet
		c.fullBuffer = c.delivered + buffer
	}
	return first || c.state == stateIdle && c.deadlines == 1 && buffer == c.fullBuffer
}

// wake wakes a Read that is blocked, or about to be.
func (c *conn) wake(why purpose) {
	c.woken = why
	c.windowed = why == toMove
	c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// leaveWindow gives back the place in the mover's window, if it has one.
func (c *conn) leaveWindow() {
	if c.windowed {
		c.windowed = false
		<-c.server.moving.window
	}
}

// SetReadDeadline is called by net/http, and by handlers while they read a
// body: their deadline is then the one that holds. An adopted connection keeps
// its own until its first byte: net/http takes it for a new one.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlines++
	if c.adopted {
		return nil
	}
	c.deadline = t
	if !t.IsZero() {
		c.reading = false
	}
	return c.Conn.SetReadDeadline(t)
}

// handle notes that a request has reached its handler.
func (c *conn) handle(r *http.Request) {
	if c.http2.Load() != nil { // one of many
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handled = true
	c.number++
	c.discardEnd, c.unread = time.Time{}, false
	c.reading = r.ContentLength != 0
	if r.Close {
		c.explain(ByClient)
	}
}

// wasCut tells whether the connection was closed under its handler.
func (c *conn) wasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == stateClosed && (c.why == Cut || !c.hijacked)
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
	if c.state == stateClosed {
		c.mu.Unlock()
		return nil
	}
	moved := c.state == stateMoved
	switch {
	case moved:
	case c.state == stateHijacked:
		c.explain(Hijacked)
	case c.state == stateActive && c.handled: // net/http closes after a response only if it has said so in it
		c.explain(Announced)
	default:
		c.explain(Failed)
	}
	c.state = stateClosed
	c.dropFarewells()
	pipelines := c.pipelines
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

// startGrace gives a parked connection until the end of the idle grace, once.
func (c *conn) startGrace(now time.Time) {
	if c.graceEnd.IsZero() {
		c.graceEnd = now.Add(max(c.server.opts.IdleGrace, 0))
	}
}

// expire wakes the Read of a connection that is parked, cannot move and has been
// so for the idle grace; it closes the connection unless something has come.
// expire returns when the grace ends, or the zero time if it is over or does not run.
func (c *conn) expire(now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.parked || c.woken != awake || c.mayMove() {
		return time.Time{}
	}
	c.startGrace(now)
	if now.Before(c.graceEnd) {
		return c.graceEnd
	}
	c.wake(toExpire)
	return time.Time{}
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
