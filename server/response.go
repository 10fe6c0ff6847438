package server

// This file holds what surrounds a request's handler: the count of requests,
// and the ResponseWriter that announces the connection's end in a drain.

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
	if r.Method == "PRI" && r.RequestURI == "*" { // the preface of HTTP/2, where that is turned off
		w.WriteHeader(http.StatusHTTPVersionNotSupported)
		return
	}
	c.handle(r)
	rw := &c.response
	if h := c.http2.Load(); h != nil {
		rw = &response{conn: c, http2: h}
		if s.opts.WriteTimeout > 0 {
			rw.stream = &streamWriter{control: http.NewResponseController(w), conn: h}
			defer rw.stream.end()
		}
		if r.ContentLength != 0 || r.Header.Get("Content-Length") != "" { // it may be 0, and not have ended
			rw.body = &streamBody{ReadCloser: r.Body, conn: h, timeout: s.opts.ReadBodyTimeout}
			r.Body = rw.body
		}
	}
	if c.secure != nil {
		r.TLS = c.secure.state
	}
	rw.ResponseWriter, rw.begun = w, false
	s.requests.Add(1)
	returned := false
	defer func() {
		if !returned && rw.http2 == nil { // a panic: net/http closes without a word
			c.giveUp()
		}
		rw.ResponseWriter = overWriter{} // a silent connection should not hold the last request in memory
		if s.isDraining.Load() && !c.wasCut() {
			s.finished.Add(1)
		}
		s.requests.Add(-1)
		s.noteEnd()
	}()
	s.opts.Handler.ServeHTTP(rw, r)
	rw.begin(http.StatusOK) // a handler that wrote nothing is answered for by net/http
	returned = true
}

// response decides on "Connection: close" when the header is written, not when
// the handler starts: a request that was under way when the drain began must
// not leave its connection open, unless that moves. It keeps Flusher, Hijacker, io.ReaderFrom,
// io.StringWriter and what http.ResponseController finds.
type response struct {
	http.ResponseWriter
	conn   *conn
	http2  *http2Conn // if it is of one, which says it in other words
	body   *streamBody
	stream *streamWriter
	begun  bool // the final header is written, or the connection hijacked
}

func (w *response) begin(status int) {
	if w.begun || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.begun = true
	if w.http2 != nil {
		w.http2.begin(w.Header())
		return
	}
	if status != http.StatusSwitchingProtocols && w.conn.server.isDraining.Load() && !w.conn.willMove(time.Now()) {
		w.Header().Set("Connection", "close")
		w.conn.because(Announced)
	}
}

func (w *response) WriteHeader(status int) {
	w.begin(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	if w.stream == nil {
		return w.ResponseWriter.Write(p)
	}
	return w.writeParts(p)
}

func (w *response) WriteString(s string) (int, error) {
	w.begin(http.StatusOK)
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
	w.begin(http.StatusOK)
	if w.stream == nil {
		return io.Copy(w.ResponseWriter, r) // net/http's has ReadFrom
	}
	buffer := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{w}, r, buffer[:])
}

func (w *response) Flush() { w.FlushError() }

func (w *response) FlushError() error {
	w.begin(http.StatusOK)
	return w.stream.write(http.NewResponseController(w.ResponseWriter).Flush)
}

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, buf, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.begun = true
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

// SetWriteDeadline is for a handler that knows how long its response may take.
func (w *response) SetWriteDeadline(t time.Time) error {
	if w.stream != nil {
		w.stream.setOwn(!t.IsZero())
	}
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(t)
}

// Unwrap lets http.ResponseController reach full duplex.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// overWriter stands in for the ResponseWriter of a request that is over.
type overWriter struct{}

var errOver = errors.New("write to a response after its handler has returned")

func (overWriter) Header() http.Header       { return make(http.Header) }
func (overWriter) WriteHeader(int)           {}
func (overWriter) Write([]byte) (int, error) { return 0, errOver }
