package server

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/server/internal/excess"
	"example.com/baton/server/internal/frames"
	"example.com/baton/server/internal/streams"
)

var noDeadline time.Time

// errExcess is what net/http gets instead of more frames.
var errExcess = errors.New("client asks for too much")

// http2Conn is what passes of a connection that speaks HTTP/2, between net/http and the
// socket or TLS. In a drain it migrates the connection when no stream is open, and otherwise
// drains it in the two steps of RFC 9113, section 6.8.
//
// The fields are grouped by the lock that guards them; the atomics are set by one side
// and read by the other. A lock is taken before those below it, and before that of conn.
type http2Conn struct {
	conn    *conn
	once    sync.Once     // the drain begins for it
	changed chan struct{} // cap 1: for the reader, when it waits for anything but the client

	writing   sync.Mutex
	sent      frames.Follower
	migrated  bool        // nothing is written any more
	saidLast  atomic.Bool // a GOAWAY that names a stream is sent
	noticing  atomic.Bool // in the first step of a drain
	announced atomic.Bool // the notice is sent
	refusal   atomic.Pointer[refusal]
	isHTTP1   atomic.Bool // net/http does not speak HTTP/2, and wakes a Read to end it

	mu       sync.Mutex
	in       *bufio.Reader    // used by the reader, without the lock
	ready    []byte           // what was read before, and is for net/http now
	put      []byte           // what net/http is to be given beside what the client sends
	excess   string           // what the client has sent too many of
	received frames.Follower  // up to what net/http has read
	streams  *streams.Machine // in both directions
	hold     hold
	idle     time.Time   // when the last stream has ended
	adopted  *http2State // of a connection that has migrated, until net/http has it
	exported *http2State // of a connection that is offered
	reading  bool        // the reader may be blocked
	woken    bool
	inWindow bool // of a session, unless the connection was offered since
	time     frameTime
	settle   time.Duration // from the client's answer to the second step
	answered bool          // the client has
	ending   bool          // net/http is to be given a GOAWAY
	lateEnds time.Time     // until when what has come before that is taken

	account *excess.Account
}

var _ follower = (*http2Conn)(nil)

// startProtocol is called when the first bytes of a connection, which end with p, show the
// client's protocol. It returns false if TLS has negotiated another one. It is called with
// the lock held.
func (c *conn) startProtocol(p []byte, do boundary.Action) bool {
	isHTTP2 := do&boundary.SwitchToHTTP2 != 0
	if c.secure != nil && c.secure.speaksHTTP2() != isHTTP2 {
		return false
	}
	if isHTTP2 {
		h := newHTTP2Conn(c)
		h.received.Follow(c.boundary.Frames(p), func(f frames.Frame) { h.charge(f); h.streams.Received(f) })
		var top follower = h
		c.top.Store(&top)
		if c.server.isDraining() {
			h.announceLater()
		}
	}
	return true
}

func newHTTP2Conn(c *conn) *http2Conn {
	return &http2Conn{
		conn:    c,
		changed: make(chan struct{}, 1),
		in:      bufio.NewReader(c.layer),
		streams: streams.New(),
		idle:    time.Now(),
		account: excess.NewAccount(),
	}
}

// Read gives net/http what has come, and in between what is to be put in. It returns no more
// than one frame: net/http processes that before it reads the next one.
func (h *http2Conn) Read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if n := copy(p, h.put); n > 0 {
			h.put = h.put[n:]
			return n, nil
		}
		if h.received.Between() {
			switch pass, err := h.beforeFrame(); {
			case err != nil:
				return 0, err
			case !pass:
				continue
			}
		}
		n, err := h.next(p[:min(len(p), h.received.Need())])
		h.received.Follow(p[:n], h.came)
		if what := h.excess; what != "" {
			h.mu.Unlock()
			h.refuse(what)
			h.mu.Lock()
			return 0, errExcess
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next returns more of a frame for net/http.
func (h *http2Conn) next(p []byte) (n int, err error) {
	if len(h.ready) > 0 {
		n = copy(p, h.ready)
		if h.ready = h.ready[n:]; len(h.ready) == 0 {
			h.ready = nil
		}
		return n, nil
	}
	err = h.read(h.in.Buffered() == 0, func() (err error) { n, err = h.in.Read(p); return err })
	return n, err
}

// peek waits for the header of the client's next frame. It returns nil also if it was woken.
func (h *http2Conn) peek() (header []byte, err error) {
	err = h.read(h.in.Buffered() < frames.HeaderLen, func() (err error) { header, err = h.in.Peek(frames.HeaderLen); return err })
	if len(header) < frames.HeaderLen {
		header = nil
	}
	return header, err
}

// read calls f, which reads from the client, without the lock, and returns the error that net/http
// gets to see.
func (h *http2Conn) read(mayBlock bool, f func() error) error {
	if !mayBlock {
		return f()
	}
	h.reading = true
	h.limitRead()
	h.mu.Unlock()
	err := f()
	h.mu.Lock()
	return h.afterRead(err)
}

// afterRead notes how a Read ended, and returns what net/http gets of it.
func (h *http2Conn) afterRead(err error) error {
	h.reading = false
	timedOut := errors.Is(err, os.ErrDeadlineExceeded)
	if timedOut && (h.conn.isClosed() || h.isHTTP1.Load()) { // the deadline is that of linger, or net/http's
		return err
	}
	late := timedOut && !h.woken && h.within()
	if h.woken || timedOut && !late {
		h.woken, h.time.deadline, h.time.whole = false, noDeadline, false
		h.conn.layer.SetReadDeadline(noDeadline)
	}
	switch {
	case err == nil, errors.Is(err, net.ErrClosed):
	case late:
		h.conn.setReason(TimedOut)
	case timedOut:
		return nil
	default:
		h.conn.setReason(ByClient)
	}
	return err
}

// came notes a frame that the client has sent.
func (h *http2Conn) came(f frames.Frame) {
	h.time.came(h.received.Between())
	h.charge(f)
	h.streams.Received(f)
	switch {
	case f.Type == frames.Ping && f.Flags&frames.FlagAck != 0 && string(f.Payload) == drainPing && h.announced.Load():
		if !h.answered {
			h.answered = true
			time.AfterFunc(h.settle, h.end)
		}
	case f.Type == frames.GoAway:
		h.conn.setReason(ByClient)
	}
}

// charge counts what the client has less use of than the server has work with.
func (h *http2Conn) charge(f frames.Frame) {
	if what := h.account.Received(f, h.saidLast.Load()); what != "" {
		h.excess = what
	}
}

// Write sends what net/http writes, and what is to be put in as soon as a frame ends. While
// the connection is offered it waits; when the connection has migrated, what it writes is of
// no use to the client any more, see offer.
func (h *http2Conn) Write(p []byte) (n int, err error) {
	h.writing.Lock()
	switch out, changed := h.outgoing(p); {
	case h.migrated:
		n = len(p)
	case !changed:
		n, err = h.write(p)
	default:
		if _, err = h.write(out); err == nil {
			n = len(p)
		}
	}
	h.writing.Unlock()
	nudge(h.changed)
	if err == nil {
		h.tryInterject()
	}
	return n, err
}

// outgoing returns what is to be sent of what net/http writes, and whether that is anything
// else.
func (h *http2Conn) outgoing(p []byte) (out []byte, changed bool) {
	if h.conn.server.opts.DisableMigration || h.isHTTP1.Load() { // header tables are left as they are
		return p, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	priming := h.streams.IsPriming()
	out, changed = h.streams.Write(p)
	if priming && !h.streams.IsPriming() {
		h.sent = frames.Resume()
	}
	return out, changed
}

func (h *http2Conn) write(p []byte) (n int, err error) {
	for err == nil && n < len(p) {
		part := p[n:]
		if h.interjects() {
			if err = h.interject(); err != nil {
				break
			}
			if h.interjects() {
				part = part[:min(len(part), h.sent.Need())]
			}
		}
		var m int
		m, err = h.conn.layer.Write(part)
		h.sent.Follow(part[:m], h.went)
		n += m
	}
	return n, err
}

// went notes a frame that net/http has sent.
func (h *http2Conn) went(f frames.Frame) {
	h.account.Sent(f) // the reader sees what is left
	h.mu.Lock()
	h.streams.Sent(f)
	if h.streams.Open() == 0 && f.Stream > 0 {
		h.idle = time.Now()
		if h.mayMigrate() != nil {
			h.wake()
		}
	}
	h.mu.Unlock()
	if f.Type != frames.GoAway {
		return
	}
	h.saidLast.Store(true)
	switch {
	case len(f.Payload) < 8 || binary.BigEndian.Uint32(f.Payload[4:]) != 0:
		h.conn.setReason(Failed)
	case h.conn.server.isDraining():
		h.conn.setReason(ConnectionClose)
	default: // nobody has asked for it
		h.conn.setReason(TimedOut)
	}
}

func (h *http2Conn) beginRequest(w http.ResponseWriter, r *http.Request) (*response, *http.Request, string) {
	if why := malformed(r); why != "" {
		return nil, nil, why
	}
	opts := &h.conn.server.opts
	rw := &response{conn: h.conn}
	if opts.WriteTimeout > 0 {
		rw.stream = &streamWriter{control: http.NewResponseController(w), conn: h}
	}
	if r.ContentLength != 0 || r.Header.Get("Content-Length") != "" { // it may be 0, and not have ended
		rw.body = &streamBody{ReadCloser: r.Body, conn: h, timeout: opts.ReadBodyTimeout}
		r.Body = rw.body
	}
	return rw, r, ""
}

func (h *http2Conn) beginResponse(rw *response, _ int) {
	if h.conn.server.isDraining() {
		if !h.conn.server.http2().drains {
			rw.Header().Set("Connection", "close") // net/http makes a GOAWAY of it
		}
		h.drain()
	}
	if slices.Contains(rw.Header()["Connection"], "close") {
		h.conn.setReason(ConnectionClose)
	}
}

// abortResponse does nothing: net/http resets the stream.
func (h *http2Conn) abortResponse() {}
