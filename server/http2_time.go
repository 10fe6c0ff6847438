package server

import "time"

// frameTime is how long a client of HTTP/2 may take for what it is sending.
type frameTime struct {
	deadline time.Time // for reading; the zero time: none was set
	whole    bool      // it is for all that is to come until the next boundary
	slow     time.Time // since when the rest of a DATA is awaited
}

// await begins a Read within a frame, or does not if within is false. It returns the
// deadline, and whether it is a new one. A header block, and a frame of any other kind
// but DATA, has the time of a header for all of it. The bytes of DATA may come as slowly
// as those of any body. Between two frames there is no limit; an old one is not taken away
// before it has passed.
func (t *frameTime) await(now time.Time, within, data bool, header, body time.Duration) (deadline time.Time, set bool) {
	if !within || t.whole && !data {
		return t.deadline, false
	}
	limit := header
	if data {
		limit = body
	}
	if left := t.deadline.Sub(now); !data || left > limit || left < limit-limit/8 { // for DATA it need not be exact
		t.deadline, set = now.Add(limit), true
	}
	t.whole = !data
	if data && t.slow.IsZero() {
		t.slow = now
	}
	return t.deadline, set
}

// came notes that a frame is whole, and whether a header block goes on after it.
func (t *frameTime) came(boundary bool) { t.whole, t.slow = t.whole && !boundary, time.Time{} }

// limitRead is called with the lock held, before a Read that may block.
func (h *http2Conn) limitRead() {
	opts := h.conn.server.opts
	_, data := h.received.Within()
	if deadline, set := h.time.await(time.Now(), h.within(), data, opts.ReadHeaderTimeout, opts.ReadBodyTimeout); set {
		h.conn.layer.SetReadDeadline(deadline)
	}
}

// within reports whether bytes of a frame have come, or of a header block.
func (h *http2Conn) within() bool {
	return !h.received.Between() || h.in.Buffered() > 0 || len(h.hold.frame) > 0
}

// slowSince returns since when a DATA is under way; the zero time: none is.
func (h *http2Conn) slowSince() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.time.slow
}
