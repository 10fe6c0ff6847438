package server

import (
	"net/http"
	"strconv"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/server/internal/excess"
	"example.com/baton/server/internal/frames"
	"example.com/baton/server/internal/streams"
)

// checkFields is the header of a request of the server's own, OPTIONS * to the host "check", in
// plain literals: RFC 7541, section 6.2.2.
const checkFields = "\x02\x07OPTIONS\x04\x01*\x86\x01\x05check"

// adoptHTTP2 rebuilds HTTP/2 on an adopted connection, and returns false if that is impossible.
func (c *conn) adoptHTTP2(s *http2State) bool {
	if !s.Streams.IsValid(connectionWindow) || len(s.Ahead) > aheadBytes {
		return false
	}
	h := newHTTP2Conn(c)
	h.streams = streams.Adopt(s.Streams, boundary.Preface, []byte(checkFields), ping())
	h.account = excess.Adopt(s.Streams.Last, s.Account)
	h.received = frames.Resume()
	h.ready = s.Ahead
	c.boundary = boundary.AdoptHTTP2()
	var top follower = h
	c.top.Store(&top)
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
