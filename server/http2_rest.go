package server

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"example.com/baton/server/internal/excess"
	"example.com/baton/server/internal/frames"
	"example.com/baton/server/internal/streams"
)

// http2State is the state of a connection that speaks HTTP/2.
type http2State struct {
	Streams streams.State `json:"streams"`
	Account excess.State  `json:"account"`
	Ahead   []byte        `json:"ahead,omitempty"` // what the client has sent, and net/http has not got
}

// aheadBytes bounds what the client may have sent, and net/http not got, when a connection
// migrates. The state has to hold it in base 64, beside that of TLS.
const aheadBytes = 32 << 10

// beforeFrame is called by the reader with the lock held, when net/http has got whole frames
// and asks for the next one. It reports whether that is for net/http, and may be read. If not,
// and there is no error, something has changed.
func (h *http2Conn) beforeFrame() (pass bool, err error) {
	if h.put = h.streams.Give(); len(h.put) > 0 {
		return false, nil
	}
	switch {
	case h.streams.IsPriming():
		return false, h.wait()
	case h.ending && h.hold.isActive():
		h.release()
		return false, nil
	case h.ending && h.received.Seen() && len(h.ready) == 0: // what was read before is taken
		if h.lingers() {
			return h.await()
		}
		h.ending, h.put = false, clientGoAway
		return false, nil
	case h.wantsToMigrate() && h.streams.AtRest() && !h.conn.layer.holds() && h.ahead() <= aheadBytes:
		return false, h.offer()
	}
	return h.await()
}

// await waits for the client's next frame.
func (h *http2Conn) await() (pass bool, err error) {
	h.leaveWindow()
	if h.hold.isActive() && (h.hold.isOver(time.Now()) || !h.wantsToMigrate()) {
		h.release()
	}
	switch {
	case len(h.ready) > 0:
		return true, nil
	case h.hold.isActive():
		return false, h.gather()
	}
	header, err := h.peek()
	if header == nil || err != nil {
		return false, err
	}
	if h.mayHold(frames.Header(header)) {
		h.startHold()
		return false, nil
	}
	return true, nil
}

// lingers reports whether more has come by now, which nobody had the time to read: it is taken, for a moment.
func (h *http2Conn) lingers() bool {
	if h.in.Buffered() < frames.HeaderLen && h.conn.layer.pending() == 0 {
		return false
	}
	now := time.Now()
	if h.lateEnds.IsZero() {
		h.lateEnds = now.Add(lateTime)
		time.AfterFunc(lateTime, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.wake()
		})
	}
	return now.Before(h.lateEnds)
}

// ahead returns how much the client has sent that net/http has not got.
func (h *http2Conn) ahead() int {
	return len(h.ready) + len(h.hold.held) + len(h.hold.frame) + h.in.Buffered()
}

// atRest reports whether no stream is open, and nothing else keeps the connection from migrating.
func (h *http2Conn) atRest() bool { return h.adopted != nil || h.streams.AtRest() }

// wait waits until something has changed beside what the client sends.
func (h *http2Conn) wait() error {
	h.mu.Unlock()
	<-h.changed
	h.mu.Lock()
	if h.conn.isClosed() {
		return io.EOF
	}
	return nil
}

// wake wakes the reader, if it waits between two frames. It is called with the lock held.
func (h *http2Conn) wake() {
	nudge(h.changed)
	if h.reading && !h.woken && h.received.Between() {
		h.woken = true
		h.conn.layer.SetReadDeadline(time.Unix(1, 0))
	}
}

// mayMigrate returns the session in which the connection could migrate, were it at rest, now or
// when the successor answers again, or nil.
func (h *http2Conn) mayMigrate() *migrator {
	if h.conn.server.session.Load() == nil || !h.conn.server.http2().migrates || h.noticing.Load() || h.announced.Load() || h.saidLast.Load() {
		return nil
	}
	h.conn.mu.Lock()
	defer h.conn.mu.Unlock()
	return h.conn.mayMigrate()
}

// wantsToMigrate reports whether it could be offered now, were it at rest.
func (h *http2Conn) wantsToMigrate() bool {
	m := h.mayMigrate()
	return m != nil && !m.stalled.Load()
}

// wakeToOffer wakes the reader of a connection at rest, so that it is offered in a session. It
// reports whether it did.
func (h *http2Conn) wakeToOffer(m *migrator) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.reading || h.woken || !h.received.Between() || !h.atRest() || !h.wantsToMigrate() {
		return false
	}
	h.conn.mu.Lock()
	defer h.conn.mu.Unlock()
	h.woken = h.conn.mayBeOffered() == m && h.conn.enterWindow(m)
	h.inWindow = h.woken
	return h.woken
}

// leaveWindow gives a place in the migrator's window back, if the connection has one: it is
// not at rest.
func (h *http2Conn) leaveWindow() {
	if h.inWindow {
		h.inWindow = false
		h.conn.mu.Lock()
		h.conn.do(h.conn.boundary.Pass())
		h.conn.mu.Unlock()
	}
}

// offer offers the connection, on which no stream is open. net/http is blocked in a Read, and
// when it has answered a PING, it owes the client nothing. What it writes all the same waits
// for the successor's answer. If that has taken the connection, it is discarded, and nothing
// is lost:
//   - A WINDOW_UPDATE for the connection: the successor gives the client as much as it lacks.
//   - A RST_STREAM, or a WINDOW_UPDATE for a stream: both sides have ended it.
//   - A GOAWAY, since the connection was idle for too long: it is idle in the successor.
func (h *http2Conn) offer() error {
	if !h.writing.TryLock() {
		h.leaveWindow() // a client that reads nothing would keep it
		return h.wait()
	}
	state, rests := h.streams.Export()
	switch {
	case !h.sent.Between() || !rests && h.streams.IsSyncing():
		h.writing.Unlock()
		return h.wait()
	case !rests:
		h.streams.Sync(ping())
		h.writing.Unlock()
		return nil
	}
	if h.offerAs(&http2State{Streams: state, Account: h.account.Export(), Ahead: h.peekAhead()}) {
		return io.EOF
	}
	return nil
}

// offerAs offers the connection in a state. It returns true if the successor has taken it, or it
// was closed forcibly. It is called with both locks held, and gives that for writing back.
func (h *http2Conn) offerAs(s *http2State) (over bool) {
	h.exported = s
	idleEnd := h.idle.Add(h.conn.server.opts.IdleTimeout)
	h.mu.Unlock()
	h.conn.mu.Lock()
	h.conn.boundary.SetDeadline(idleEnd) // as net/http wants it
	over = h.conn.offer()
	h.conn.mu.Unlock()
	h.migrated = over
	h.writing.Unlock()
	if !over {
		h.stay()
	}
	h.mu.Lock()
	h.exported = nil
	return over
}

// stay is called when the successor has not taken the connection.
func (h *http2Conn) stay() {
	if h.conn.server.isDraining() && h.mayMigrate() == nil {
		h.announce()
	}
	h.tryInterject()
}

// peekAhead returns what the client has sent that net/http has not got.
func (h *http2Conn) peekAhead() []byte {
	read, _ := h.in.Peek(h.in.Buffered())
	return slices.Concat(h.ready, h.hold.held, h.hold.frame, read)
}

// export adds what was known when the connection was offered.
func (h *http2Conn) export(to *transfer) bool {
	to.HTTP2 = h.exported
	return h.exported != nil
}

// ping returns the payload of a PING that nobody foresees.
func ping() (payload [8]byte) {
	binary.NativeEndian.PutUint64(payload[:], rand.Uint64())
	return payload
}
