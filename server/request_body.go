package server

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// How much of a request's body is read, and for how long, when nobody wants the rest
// of it any more, so that the connection can go on.
const (
	discardBytes = 256 << 10
	discardTime  = time.Second
)

// requestBody is the body of a request in HTTP/1. As long as it has not been read to
// its end, the client's next bytes are part of it, and no request.
//
// net/http sees to that by itself, unless the handler has enabled full duplex: then it
// forgets whether the body was read, and whether another goroutine still reads.
// So the response carries "Connection: close" in that case, if the body has not been read to
// its end when the response begins; see http1.isLast.
type requestBody struct {
	body    io.ReadCloser // as net/http reads it
	conn    *conn
	request *http.Request // net/http's; it gets the trailers
	handed  *http.Request // the handler's

	reading sync.Mutex // held during a Read
	whole   atomic.Bool
	closed  atomic.Bool
}

// newRequestBody returns the request for the handler, and its body.
func newRequestBody(c *conn, r *http.Request) (*http.Request, *requestBody) {
	handed := new(http.Request)
	*handed = *r // net/http looks into its own Request's Body when the response begins
	b := &requestBody{body: r.Body, conn: c, request: r, handed: handed}
	handed.Body = b
	return handed, b
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

func (b *requestBody) read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err == io.EOF && !b.whole.Load() {
		b.handed.Trailer = b.request.Trailer // a map of its own if the header named none
		b.whole.Store(true)
	}
	return n, err
}

// Close notes that nothing more is read. It does not wait for a Read in another
// goroutine, and leaves it to the end of the request what becomes of the rest.
func (b *requestBody) Close() error {
	b.closed.Store(true)
	return nil
}

// discard reads the rest of a body that is closed, within bounds, and returns whether
// it has come to its end. A client that waits for a 100 (Continue) may never send it.
func (b *requestBody) discard() (whole bool) {
	if b.whole.Load() || !b.closed.Load() || b.request.Header.Get("Expect") != "" || b.request.ContentLength > discardBytes {
		return b.whole.Load()
	}
	b.conn.limitDiscard(true)
	b.reading.Lock()
	defer b.reading.Unlock()
	for buffer, left := make([]byte, 8<<10), discardBytes; left > 0 && !b.whole.Load(); {
		n, err := b.read(buffer)
		if left -= n; err != nil {
			break
		}
	}
	return b.whole.Load()
}

// end is called when the handler has returned, before net/http ends the request.
func (b *requestBody) end(abandon bool) {
	b.closed.Store(true)
	switch {
	case b.whole.Load():
	case abandon:
		b.conn.abandonBody()
	default:
		b.conn.limitDiscard(false) // net/http reads the rest
	}
}
