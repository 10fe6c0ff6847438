package server

import (
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/server/internal/excess"
	"example.com/baton/server/internal/frames"
	"example.com/baton/server/internal/streams"
)

// checkFields is the header of a request of the server's own, OPTIONS * to the host "check", in
// plain literals: RFC 7541, section 6.2.2.
const checkFields = "\x02\x07OPTIONS\x04\x01*\x86\x01\x05check"

// adoptHTTP2 rebuilds HTTP/2 on an adopted connection, which may be idle for as long as is left,
// and returns false if that is impossible.
func (c *conn) adoptHTTP2(s *http2State, left time.Duration) bool {
	if !s.Streams.IsValid(connectionWindow) || len(s.Ahead) > aheadBytes {
		return false
	}
	h := newHTTP2Conn(c)
	if left > 0 {
		h.idle = time.Now().Add(left - c.server.opts.IdleTimeout)
	}
	h.streams = streams.Adopt(s.Streams, boundary.Preface, []byte(checkFields), ping())
	h.account = excess.Adopt(s.Streams.Last, s.Account)
	h.received = frames.Resume()
	h.ready, h.adopted = s.Ahead, s
	c.boundary = boundary.AdoptHTTP2()
	var top follower = h
	c.top.Store(&top)
	return true
}

// awaitFirstByte waits until something has arrived. The connection migrates again before, if it
// can; if not, net/http drains it.
func (h *http2Conn) awaitFirstByte() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() {
		h.adopted, h.woken = nil, false
		h.conn.layer.SetReadDeadline(noDeadline)
	}()
	for len(h.ready) == 0 && !h.ending && !h.noticing.Load() {
		if h.wantsToMigrate() {
			h.mu.Unlock()
			h.writing.Lock()
			h.mu.Lock()
			if h.offerAs(h.adopted) {
				return false
			}
			continue
		}
		h.leaveWindow()
		h.reading = true
		h.conn.layer.SetReadDeadline(h.idle.Add(h.conn.server.opts.IdleTimeout))
		h.mu.Unlock()
		err := awaitReadable(h.conn.socket.Conn)
		h.mu.Lock()
		h.reading = false
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		h.ending = h.ending || !h.woken // net/http ends a connection that is idle for too long
		h.woken = false
	}
	return true
}

// primes answers the request with which net/http is brought to the state of an adopted
// connection, and reports whether it was that. See [streams.Adopt].
func (h *http2Conn) primes(w http.ResponseWriter) bool {
	h.mu.Lock()
	primes, padding := h.streams.IsPriming(), h.streams.Padding()
	h.mu.Unlock()
	if primes && padding > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(padding))
		w.Write(make([]byte, padding))
	}
	return primes
}
