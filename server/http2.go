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
)

// afterPong is how much longer requests are taken when the client has answered.
// Go's own client answers while another goroutine is about to send a request that
// was begun before.
const afterPong = 100 * time.Millisecond

// firstRequest is how long a connection that begins in the drain may take for its
// first request, without being told to end before.
const firstRequest = time.Second

// drainPing is in the PING that follows on the first GOAWAY.
const drainPing = "draining"

var (
	// drainNotice is the first step: no more requests, please, and tell when
	// you have heard of it.
	drainNotice = frames.Append(
		frames.Append(nil, frames.GoAway, 0, 0, []byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}),
		frames.Ping, 0, 0, []byte(drainPing))
	// clientGoAway is what a client sends that will make no more requests.
	clientGoAway = frames.Append(nil, frames.GoAway, 0, 0, make([]byte, 8))
)

var noDeadline time.Time

// errExcess is what net/http gets instead of more frames.
var errExcess = errors.New("client asks for too much")

// http2Conn is what passes of a connection that speaks HTTP/2, between net/http and the
// socket or TLS. It drains the connection in the two steps of RFC 9113, section 6.8.
// net/http takes only one, in which a client loses the requests that are on their way
// meanwhile.
//
// When the drain begins, the client is sent a GOAWAY that names no stream, so that it
// makes no more requests, and a PING. When it answers, all requests have arrived that it
// made before it knew, or arrive a moment later: clients of several threads may overtake
// themselves. The answer is awaited for no longer than the idle grace. net/http is then
// given a GOAWAY as from the client, upon which it shuts the connection down: it sends a
// GOAWAY with the last request that it has got, completes what is under way, and closes
// the connection a second after.
//
// The fields are grouped by the lock that guards them; the atomics are set by one side
// and read by the other.
type http2Conn struct {
	conn *conn
	once sync.Once // the drain begins for it

	mu       sync.Mutex
	in       *bufio.Reader   // used by the reader, without the lock
	excess   string          // what the client has sent too many of
	received frames.Follower // up to what net/http has read
	reading  bool            // the reader may be blocked
	woken    bool
	time     frameTime
	settle   time.Duration // from the client's answer to the second step
	answered bool          // the client has
	ending   bool          // net/http is to be given a GOAWAY
	put      []byte        // what it is to be given of that

	account *excess.Account

	writing   sync.Mutex
	sent      frames.Follower
	saidLast  atomic.Bool // a GOAWAY that names a stream is sent
	noticing  atomic.Bool // in the first step of a drain
	announced atomic.Bool // the notice is sent
	refusal   atomic.Pointer[refusal]
	isHTTP1   atomic.Bool // net/http does not speak HTTP/2, and wakes a Read to end it
}

// refusal is for a client that asks for too much.
type refusal struct {
	goAway []byte
	sent   chan struct{} // closed when no frame is under way any more
}

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
		h.received.Follow(c.boundary.Frames(p), h.charge)
		c.stays = true
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
		in:      bufio.NewReader(c.layer),
		account: excess.NewAccount(),
	}
}

// Read gives net/http what has come, and in between what is to be put in.
func (h *http2Conn) Read(p []byte) (int, error) {
	for {
		h.mu.Lock()
		if h.ending && h.received.Seen() && h.received.Between() {
			h.ending, h.put = false, clientGoAway
		}
		if len(h.put) > 0 {
			n := copy(p, h.put)
			h.put = h.put[n:]
			h.mu.Unlock()
			return n, nil
		}
		if h.ending { // up to where it can be put in
			p = p[:min(len(p), h.received.Need())]
		}
		if h.reading = h.in.Buffered() == 0; h.reading {
			h.limitRead()
		}
		h.mu.Unlock()

		n, err := h.in.Read(p)

		h.mu.Lock()
		err = h.afterRead(err)
		h.received.Follow(p[:n], h.came)
		what := h.excess
		h.mu.Unlock()
		if what != "" {
			h.refuse(what)
			return 0, errExcess
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// afterRead notes how a Read ended, and returns what net/http is told of it.
func (h *http2Conn) afterRead(err error) error {
	h.reading = false
	timedOut := errors.Is(err, os.ErrDeadlineExceeded)
	if timedOut && (h.conn.isClosed() || h.isHTTP1.Load()) { // the deadline is that of linger, or net/http's
		return err
	}
	late := timedOut && !h.woken && !h.received.Between()
	if h.woken || timedOut && !late {
		h.woken, h.time.deadline = false, noDeadline
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

// refuse sends the client a GOAWAY with ENHANCE_YOUR_CALM, if it reads what precedes that.
// The reader then lets net/http close the connection.
func (h *http2Conn) refuse(what string) {
	c := h.conn
	c.mu.Lock()
	c.explain(Failed)
	c.setTail(excessFrames)
	c.mu.Unlock()
	c.server.opts.Logger.Debug("HTTP/2 connection is refused", "client", c.RemoteAddr().String(), "error", "too many "+what)

	payload := binary.BigEndian.AppendUint32(nil, h.account.LastStream())
	payload = binary.BigEndian.AppendUint32(payload, frames.CodeEnhanceYourCalm)
	r := &refusal{frames.Append(nil, frames.GoAway, 0, 0, append(payload, "too many "+what...)), make(chan struct{})}
	h.refusal.Store(r)
	const longest = 5 * time.Second
	c.SetWriteDeadline(time.Now().Add(longest))
	h.tryInterject()
	select {
	case <-r.sent:
	case <-time.After(longest):
	}
}

// Write sends what net/http writes, and what is to be put in as soon as a frame ends.
func (h *http2Conn) Write(p []byte) (n int, err error) {
	h.writing.Lock()
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
	h.writing.Unlock()
	if err == nil {
		h.tryInterject()
	}
	return n, err
}

// went notes a frame that net/http has sent.
func (h *http2Conn) went(f frames.Frame) {
	h.account.Sent(f) // the reader sees what is left
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

// drain begins the drain of the connection.
func (h *http2Conn) drain() {
	if !h.conn.server.http2().drains {
		return
	}
	h.once.Do(func() {
		h.mu.Lock()
		h.settle = afterPong
		h.mu.Unlock()
		h.notice()
		time.AfterFunc(max(h.conn.server.opts.IdleGrace, 0), h.end)
	})
}

// announceLater is for a connection that begins in the drain. It has cost its client
// a handshake, and may have a request for it, for which there is a moment.
func (h *http2Conn) announceLater() {
	time.AfterFunc(min(max(h.conn.server.opts.IdleGrace, 0), firstRequest), h.drain)
}

func (h *http2Conn) notice() {
	h.noticing.Store(true)
	h.tryInterject()
}

// interjects reports whether something is to be put in that net/http does not send.
func (h *http2Conn) interjects() bool {
	return h.refusal.Load() != nil || h.noticing.Load() && !h.announced.Load() && !h.saidLast.Load()
}

// tryInterject puts it in, unless somebody writes, who then does. If the client
// does not read, it waits for the next Write.
func (h *http2Conn) tryInterject() {
	if h.interjects() && h.writing.TryLock() {
		if writable(&h.conn.socket) {
			h.interject()
		}
		h.writing.Unlock()
	}
}

// interject sends a refusal, after which nothing follows, or the drain's notice, if no
// frame is under way, and net/http's first one was sent. Neither must follow on a GOAWAY
// that names a stream.
func (h *http2Conn) interject() error {
	if !h.sent.Seen() || !h.sent.Between() {
		return nil
	}
	if r := h.refusal.Load(); r != nil {
		if !h.saidLast.Swap(true) {
			h.conn.layer.Write(r.goAway)
		}
		select {
		case <-r.sent:
		default:
			close(r.sent)
		}
		return errExcess
	}
	if !h.interjects() {
		return nil
	}
	h.announced.Store(true)
	h.conn.setReason(ConnectionClose)
	_, err := h.conn.layer.Write(drainNotice)
	return err
}

// isIdle reports whether the client is between two frames and has no request under way.
func (h *http2Conn) isIdle() bool {
	h.conn.mu.Lock()
	idle := h.conn.class == classIdle
	h.conn.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	return idle && h.reading && h.received.Between()
}

// end lets net/http shut the connection down.
func (h *http2Conn) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ending = h.noticing.Swap(false) || h.ending
	if h.ending && h.reading && !h.woken && h.received.Between() {
		h.woken = true
		h.conn.layer.SetReadDeadline(time.Unix(1, 0))
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

// export returns false: header tables are not exported.
func (h *http2Conn) export(*transfer) bool { return false }
