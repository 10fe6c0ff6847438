package server

import (
	"encoding/binary"
	"time"

	"example.com/baton/server/internal/frames"
)

// afterPong is how much longer requests are taken when the client has answered.
// Go's own client answers while another goroutine is about to send a request that
// was begun before.
const afterPong = 100 * time.Millisecond

// firstRequest is how long a connection that begins in the drain may take for its
// first request, without a GOAWAY before.
const firstRequest = time.Second

// lateTime is how long what has come before the end is taken, from the first look on.
const lateTime = time.Second

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

// refusal is for a client that asks for too much.
type refusal struct {
	goAway []byte
	sent   chan struct{} // closed when no frame is under way any more
}

// drain begins the drain of the connection. One that may migrate has the idle grace to come to
// rest. Otherwise net/http alone would take the second of two steps, in which a client loses the
// requests that are on their way meanwhile.
//
// The client is sent a GOAWAY that names no stream, so that it makes no more requests, and a
// PING. When it answers, all requests have arrived that it made before it knew, or arrive a
// moment later: clients of several threads may overtake themselves. The answer is awaited for no
// longer than the idle grace. net/http is then given a GOAWAY as from the client, upon which it
// shuts the connection down: it sends a GOAWAY with the last request that it has got, completes
// what is under way, and closes the connection a second after.
func (h *http2Conn) drain() {
	if !h.conn.server.http2().drains {
		return
	}
	h.once.Do(func() {
		if h.mayMigrate() != nil {
			h.announceAfterGrace()
		} else {
			h.announce()
		}
	})
}

// announceAfterGrace announces the drain to a client whose connection has not migrated until
// then. One at rest waits for the migrator, which may have many to offer, or for a successor
// that hangs.
func (h *http2Conn) announceAfterGrace() {
	time.AfterFunc(max(h.conn.server.opts.IdleGrace, 0), func() {
		h.mu.Lock()
		waits := h.atRest() && h.mayMigrate() != nil && time.Since(h.conn.server.drain.Load().began) < migratePatience
		h.mu.Unlock()
		if waits {
			time.AfterFunc(10*time.Millisecond, h.announceAfterGrace)
		} else {
			h.announce()
		}
	})
}

// announce takes the first step of the drain.
func (h *http2Conn) announce() {
	h.mu.Lock()
	first := h.settle == 0
	h.settle = afterPong
	h.mu.Unlock()
	if first && !h.conn.isClosed() {
		h.notice()
		h.mu.Lock()
		if h.adopted != nil {
			h.wake()
		}
		h.mu.Unlock()
		time.AfterFunc(max(h.conn.server.opts.IdleGrace, 0), h.end)
	}
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
// does not read, it waits for the next Write. Before the first one the socket of an adopted
// connection may be about to be opened.
func (h *http2Conn) tryInterject() {
	if h.interjects() && h.writing.TryLock() {
		if !h.migrated && h.sent.Seen() && writable(&h.conn.socket) {
			h.interject()
		}
		h.writing.Unlock()
		nudge(h.changed)
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
	if h.ending {
		h.wake()
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
