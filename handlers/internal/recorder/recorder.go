package recorder

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// recorder records status and size of a response. It promises what net/http's
// own ResponseWriter does: flushing, hijacking, and ReadFrom, without which
// files would no longer go out by sendfile.
type recorder struct {
	http.ResponseWriter
	Status   int // final status; 0 until it is known, 101 once hijacked
	Bytes    int64
	Hijacked bool // bytes no longer pass through here
}

// New wraps w, unless it is a recorder already: Log and Metrics.Count share one.
func New(w http.ResponseWriter) *recorder {
	if rec, ok := w.(*recorder); ok {
		return rec
	}
	return &recorder{ResponseWriter: w}
}

func (rec *recorder) WriteHeader(status int) {
	// 1xx precede the final status, except 101, which is final (RFC 9110, 15.2).
	final := status >= 200 || status == http.StatusSwitchingProtocols
	if final && rec.Status == 0 {
		rec.Status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(p []byte) (int, error) {
	rec.implicit()
	n, err := rec.ResponseWriter.Write(p)
	rec.Bytes += int64(n)
	return n, err
}

// ReadFrom hands src to the wrapped ResponseWriter as it is: only there can a
// file become a sendfile(2).
func (rec *recorder) ReadFrom(src io.Reader) (int64, error) {
	rec.implicit()
	inner, ok := rec.ResponseWriter.(io.ReaderFrom)
	if !ok {
		// Hide everything but Write, or io.Copy would come back here.
		n, err := io.Copy(struct{ io.Writer }{rec.ResponseWriter}, src)
		rec.Bytes += n
		return n, err
	}
	n, err := inner.ReadFrom(src)
	rec.Bytes += n
	return n, err
}

func (rec *recorder) Flush() { _ = rec.FlushError() }

// FlushError is what http.ResponseController looks for first.
func (rec *recorder) FlushError() error {
	err := http.NewResponseController(rec.ResponseWriter).Flush()
	if err == nil {
		rec.implicit()
	}
	return err
}

func (rec *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(rec.ResponseWriter).Hijack()
	if err == nil {
		rec.Hijacked = true
		if rec.Status == 0 {
			rec.Status = http.StatusSwitchingProtocols
		}
	}
	return conn, buf, err
}

// Unwrap lets http.ResponseController reach deadlines and full duplex.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// Began returns when the request came: now, unless its connection has migrated here.
func (rec *recorder) Began() time.Time {
	if from, ok := find[interface{ Began() time.Time }](rec.ResponseWriter); ok {
		return from.Began()
	}
	return time.Now()
}

// HasMigrated reports whether a successor goes on with the connection, and accounts for the
// request.
func (rec *recorder) HasMigrated() bool {
	from, ok := find[interface{ HasMigrated() bool }](rec.ResponseWriter)
	return ok && from.HasMigrated()
}

// AddBytes adds what was written to the client of a hijacked connection, if w is over a
// recorder.
func AddBytes(w http.ResponseWriter, n int64) {
	if rec, ok := find[*recorder](w); ok {
		rec.Bytes += n
	}
}

// find returns the first of w and those that it wraps that is a T.
func find[T any](w http.ResponseWriter) (found T, ok bool) {
	for w != nil {
		if found, ok = w.(T); ok {
			return found, true
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	return found, false
}

// IsAbort reports whether a recovered panic is that of a handler that aborts its response.
func IsAbort(failure any) bool {
	err, _ := failure.(error)
	return errors.Is(err, http.ErrAbortHandler)
}

// implicit notes the 200 that a first write or flush sends.
func (rec *recorder) implicit() {
	if rec.Status == 0 {
		rec.Status = http.StatusOK
	}
}
