package server

import (
	"slices"
	"time"

	"example.com/baton/server/internal/frames"
)

const (
	// holdTime is how long requests are held while those that are under way complete, so that
	// the connection can migrate.
	holdTime = 50 * time.Millisecond
	// holdPause is the time between two holds of a connection.
	holdPause = 4 * holdTime
	// mostHolds is how many holds may fail in a session, unless the server drains: a client
	// whose streams always overlap should not notice that its connection is shared.
	mostHolds = 4
)

// hold holds the requests that a client makes when its connection would be at rest without
// them. Other frames pass, but for a GOAWAY, which ends the hold. If the streams that are open end in time, the connection migrates,
// and the successor serves what is held; if not, it is served here. A stream that stays open
// delays others once only.
//
// Frames may pass those that were sent before because both tables of header compression are
// empty, and a stream that has not begun depends on nothing but the settings, of which the
// latest hold. A GOAWAY does not pass: net/http takes no request after it.
type hold struct {
	until time.Time // the zero time: nothing is held
	next  time.Time // when another hold may begin
	last  uint32    // the latest stream when one has failed
	held  []byte    // whole frames of streams that have not begun
	frame []byte    // what has come of the frame under way

	session uint64 // in which the last one has failed
	failed  int    // how many have, in that
}

func (h *hold) isActive() bool { return !h.until.IsZero() }

func (h *hold) isOver(now time.Time) bool { return !now.Before(h.until) }

// mayHold reports whether a hold may begin with a frame of the client.
func (h *http2Conn) mayHold(f frames.Frame) bool {
	return f.Type == frames.Headers && f.Stream > h.streams.Last() &&
		h.wantsToMigrate() && h.streams.MayRest() && h.streams.OpenSince(h.hold.last) && !time.Now().Before(h.hold.next) &&
		(h.hold.session != h.conn.server.number.Load() || h.hold.failed < mostHolds || h.conn.server.isDraining())
}

func (h *http2Conn) startHold() {
	h.hold.until = time.Now().Add(holdTime)
	time.AfterFunc(holdTime, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.wake()
	})
}

// release ends a hold: net/http gets what is held, after a frame that passes just now.
func (h *http2Conn) release() {
	h.ready = slices.Concat(h.ready, h.hold.held, h.hold.frame)
	failed := 1
	session := h.conn.server.number.Load()
	if h.hold.session == session {
		failed += h.hold.failed
	}
	h.hold = hold{next: time.Now().Add(holdPause), last: h.streams.Last(), session: session, failed: failed}
}

// gather reads a frame in a hold. It returns when that is whole, or something has changed.
func (h *http2Conn) gather() error {
	have, want := len(h.hold.frame), frames.HeaderLen
	if have >= frames.HeaderLen {
		f := frames.Header(h.hold.frame)
		switch want += f.Length; {
		case f.Length > maxFrame, f.Type == frames.GoAway: // an error, or the end: net/http takes no request that comes after it
			h.release()
			return nil
		case have < want:
		case f.Stream > h.streams.Last():
			h.hold.held, h.hold.frame = append(h.hold.held, h.hold.frame...), nil
			return nil
		default:
			h.ready, h.hold.frame = h.hold.frame, nil
			return nil
		}
	}
	room := aheadBytes - frames.HeaderLen - h.ahead()
	if room <= 0 { // the rest is in the socket
		return h.wait()
	}
	p := make([]byte, min(want-have, room))
	var n int
	err := h.read(h.in.Buffered() == 0, func() (err error) { n, err = h.in.Read(p); return err })
	h.hold.frame = append(h.hold.frame, p[:n]...)
	return err
}
