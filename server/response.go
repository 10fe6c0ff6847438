package server

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// serve is the handler that net/http calls.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	if _, isHTTP2 := w.(http.Pusher); !isHTTP2 && r.Method == "PRI" && r.RequestURI == "*" { // the preface of HTTP/2, where that is turned off
		if h, ok := c.follower().(*http2Conn); ok {
			h.isHTTP1.Store(true)
		}
		w.WriteHeader(http.StatusHTTPVersionNotSupported)
		return
	}
	if h, ok := c.follower().(*http2Conn); ok && h.primes(w) || c.isCheck {
		return
	}
	rw, handed, malformed := c.follower().beginRequest(w, r)
	if malformed != "" {
		http.Error(w, "400 Bad Request: "+malformed, http.StatusBadRequest)
		return
	}
	handed.TLS = c.secure.connectionState()
	rw.ResponseWriter, rw.begun, rw.handed, rw.came = w, false, handed, time.Now()
	rw.status, rw.hasBody, rw.header = 0, false, nil
	s.outcomes.started.Add(1)
	s.requests.Add(1)
	returned := false
	defer func() {
		rw.countOutcome(handed, !returned)
		if !returned { // a panic
			c.follower().abortResponse()
		}
		rw.stream.end()
		r.MultipartForm = handed.MultipartForm // net/http removes its files
		if rw.request != nil {
			rw.request.end(rw.fullDuplex || !returned)
			rw.request = nil
		}
		rw.ResponseWriter, rw.handed, rw.header = overWriter{}, nil, nil // an idle connection should not hold the last request in memory
		s.noteReturn(c)
	}()
	s.handler.ServeHTTP(rw, handed)
	if rw.request != nil {
		rw.request.Close()
	}
	rw.begin(http.StatusOK) // a handler that wrote nothing is answered for by net/http
	returned = true
}

// noteReturn is called when a handler has returned.
func (s *Server) noteReturn(c *conn) {
	if d := s.drain.Load(); d != nil && !c.wasClosed() && !c.hasMigrated() {
		d.finished.Add(1)
	}
	s.requests.Add(-1)
	s.noteEnd()
}

// response decides on "Connection: close" when the header is written, not when the handler
// starts: a request that was under way when the drain began must not leave its connection
// open, unless that migrates. It keeps Flusher, Hijacker, io.ReaderFrom,
// io.StringWriter and what http.ResponseController finds. It is one struct, which the requests of an
// HTTP/1 connection reuse.
type response struct {
	http.ResponseWriter
	conn     *conn
	body     *streamBody
	stream   *streamWriter
	begun    bool        // the final header is written, or the connection hijacked
	status   int         // in that header; 0: none is written
	hasBody  bool        // a byte of it is written
	header   http.Header // nil: the handler has not asked for it
	isStream bool        // of events
	handed   *http.Request
	came     time.Time // the request

	request    *requestBody // HTTP/1's, if there is one
	fullDuplex bool         // the body may be read, and left unread, while the response is written
}

func (w *response) begin(status int) {
	if w.begun || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.begun, w.status, w.isStream = true, status, isEventStream(w.header)
	w.conn.server.outcomes.answered.Add(1)
	w.conn.follower().beginResponse(w, status)
}

// leavesBody reports whether a part of the body may be left when the handler returns, which
// net/http would ignore.
func (w *response) leavesBody() bool {
	return w.fullDuplex && w.request != nil && !w.request.whole.Load()
}

// Header remembers what it returns: net/http copies the header for a response if it was ever asked
// for it.
func (w *response) Header() http.Header {
	w.header = w.ResponseWriter.Header()
	return w.header
}

func (w *response) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	w.hasBody = w.hasBody || len(p) > 0
	if w.stream == nil {
		return w.ResponseWriter.Write(p)
	}
	return w.writeParts(p)
}

func (w *response) WriteString(s string) (int, error) {
	w.begin(http.StatusOK)
	w.hasBody = w.hasBody || len(s) > 0
	if w.stream == nil {
		return io.WriteString(w.ResponseWriter, s)
	}
	return w.writeParts([]byte(s))
}

// writeParts writes to a stream of HTTP/2.
func (w *response) writeParts(p []byte) (n int, err error) {
	for first := true; err == nil && (first || n < len(p)); first = false {
		err = w.stream.write(func() error {
			m, err := w.ResponseWriter.Write(p[n:min(len(p), n+streamPart)])
			n += m
			return err
		})
	}
	return n, err
}

// ReadFrom keeps sendfile working.
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	if !w.begun && w.leavesBody() { // r may read it: look at its end before the response begins
		return copyTo(w, r)
	}
	w.begin(http.StatusOK)
	if w.stream == nil {
		n, err := io.Copy(w.ResponseWriter, r) // net/http's has ReadFrom
		w.hasBody = w.hasBody || n > 0
		return n, err
	}
	return copyTo(w, r)
}

func (w *response) Flush() { w.FlushError() }

func (w *response) FlushError() error {
	w.begin(http.StatusOK)
	return w.stream.write(http.NewResponseController(w.ResponseWriter).Flush)
}

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.leavesBody() { // somebody may read it, and would take what follows for it
		return nil, nil, errUnread
	}
	nc, buf, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		if !w.begun {
			w.conn.server.outcomes.answered.Add(1)
		}
		w.begun, w.request = true, nil
		w.conn.secure.hijack()
		w.conn.socket.hijack()
		if w.conn.tunnel == nil { // that of a predecessor stays
			w.conn.tunnel = &tunnel{request: w.handed, began: w.came}
		}
	}
	return nc, buf, err
}

// SetReadDeadline is for a handler that knows better how long its client may take.
func (w *response) SetReadDeadline(t time.Time) error {
	if w.body != nil && !t.IsZero() {
		w.body.unlimit()
	}
	return http.NewResponseController(w.ResponseWriter).SetReadDeadline(t)
}

var (
	errUnread = errors.New("hijack connection: request body is not read to its end")
	errLate   = errors.New("enable full duplex: response has begun")
)

// EnableFullDuplex lets the handler read the request's body while it writes the response.
// If the body has not been read to its end when the response begins, the response
// carries "Connection: close".
func (w *response) EnableFullDuplex() error {
	if w.begun && w.request != nil && !w.request.whole.Load() {
		return errLate
	}
	if err := http.NewResponseController(w.ResponseWriter).EnableFullDuplex(); err != nil {
		return err
	}
	w.fullDuplex = true
	return nil
}

// SetWriteDeadline is for a handler that knows how long its response may take.
func (w *response) SetWriteDeadline(t time.Time) error {
	if w.stream != nil {
		w.stream.setOwn(!t.IsZero())
	}
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(t)
}

// Unwrap lets http.ResponseController find what else net/http has.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// overWriter stands in for the ResponseWriter of a request that is over.
type overWriter struct{}

var errOver = errors.New("write to a response after its handler has returned")

func (overWriter) Header() http.Header       { return make(http.Header) }
func (overWriter) WriteHeader(int)           {}
func (overWriter) Write([]byte) (int, error) { return 0, errOver }
