package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// exchange is one request and its response on a connection. It is the body of the response, too.
type exchange struct {
	transport *Transport
	conn      *conn
	request   *http.Request
	sender    *sender       // nil if the request has no body
	release   func() bool   // lets the context no longer abort the connection
	ended     atomic.Bool   // the connection is not this exchange's any more
	partial   bool          // not all of the request's header was written
	unsent    bool          // nothing of it was
	keep      bool          // the connection can be used again
	body      io.ReadCloser // as net/http reads it
	err       error         // of body
}

// exchange sends the request, whose header is given, and returns the response. The connection is
// its own. The request's body is closed when it was sent, or else is the caller's to close.
func (t *Transport) exchange(c *conn, r *http.Request, header []byte) (response *http.Response, sending bool, err error) {
	x := &exchange{transport: t, conn: c, request: r}
	x.release = context.AfterFunc(r.Context(), c.abort)
	c.begin()
	hasBody := bodyLength(r) != 0
	until := time.Time{} // the header timeout begins when all is sent
	if !hasBody {
		until = time.Now().Add(t.options.HeaderTimeout)
	}
	_ = c.patient.SetReadDeadline(until)
	before := c.patient.written
	if _, err := c.stream.Write(header); err != nil {
		if x.unsent = c.patient.written == before; errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, false, x.fail(Sent, err)
		}
		// The backend may have answered nevertheless, such as that it is too busy, or the header too large.
		hasBody, x.partial = false, true
		_ = c.patient.SetReadDeadline(time.Now().Add(t.options.HeaderTimeout))
	}
	if hasBody {
		x.sender = send(c, r, httpguts.HeaderValuesContainsToken(r.Header["Expect"], "100-continue"))
	}
	response, err = x.receive()
	return response, hasBody, err
}

// receive reads the response's header, and those of interim ones before it.
func (x *exchange) receive() (*http.Response, error) {
	hook := interimHook(x.request)
	for {
		response, err := http.ReadResponse(x.conn.in, x.request)
		if err != nil {
			return nil, x.fail(Answered, fmt.Errorf("read response: %w", err))
		}
		code := response.StatusCode
		if code < 100 || code > 199 || code == http.StatusSwitchingProtocols {
			return x.accept(response)
		}
		switch header := textproto.MIMEHeader(response.Header); {
		case code == http.StatusContinue && x.sender != nil && x.sender.proceed != nil:
			err = x.sender.passContinue(header)
		case hook != nil:
			err = hook(code, header)
		}
		if err != nil {
			return nil, x.fail(Aborted, err)
		}
		if hook != nil {
			x.conn.limit = maxHeader // of the next one
		}
	}
}

// interimHook returns what is to be called with each interim response, nil if nothing is.
func interimHook(r *http.Request) func(code int, header textproto.MIMEHeader) error {
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil {
		return trace.Got1xxResponse
	}
	return nil
}

// accept returns the response when its header has come.
func (x *exchange) accept(response *http.Response) (*http.Response, error) {
	c := x.conn
	x.keep = !response.Close && !x.request.Close && !x.partial && response.StatusCode > 199
	if x.sender != nil {
		x.sender.setAnswered()
		x.sender.decide(response.StatusCode == http.StatusSwitchingProtocols)
	}
	c.beginBody()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return x.upgrade(response)
	}
	c.idleTimeout = idleTimeoutOf(response.Header)
	if response.Body == http.NoBody {
		x.end()
		return response, nil
	}
	x.body, response.Body = response.Body, x
	return response, nil
}

// upgrade gives the connection to whoever gets the 101. What the request has to say in HTTP comes
// before what is said then.
func (x *exchange) upgrade(response *http.Response) (*http.Response, error) {
	if x.sender != nil {
		<-x.sender.done
		if err := x.sender.failure(); err != nil {
			return nil, x.fail(Answered, err)
		}
	}
	if x.ended.Store(true); !x.release() {
		return nil, x.fail(Aborted, context.Cause(x.request.Context()))
	}
	c := x.conn
	u := &Upgraded{Conn: c.patient.Conn}
	if c.secure {
		u.Conn = c.stream
	}
	_ = c.patient.SetDeadline(time.Time{})
	early, _ := c.in.Peek(c.in.Buffered())
	u.Early = append(u.Early, early...)
	response.Body = u
	return response, nil
}

// fail ends the exchange without a response, and returns the error with how far it has got: at most
// to there.
func (x *exchange) fail(progress Progress, err error) error {
	x.ended.Store(true)
	x.release()
	x.conn.abort()
	if s := x.sender; s != nil {
		s.decide(false)
		var failed bodyError
		switch sending := s.failure(); {
		case errors.As(sending, &failed):
			progress, err = Aborted, failed.error
		case errors.Is(sending, os.ErrDeadlineExceeded): // and so is the error of reading
			err = sending
		}
	}
	switch {
	case x.request.Context().Err() != nil:
		progress, err = Aborted, context.Cause(x.request.Context())
	case x.conn.answered: // as it is
	case x.unsent:
		progress = Unsent
	case progress == Answered:
		progress = Sent
	}
	return &progressError{progress, err}
}

// BeforeWait sets what Read calls when it is about to wait for the backend, and before it returns
// that it has failed: what came before is worth to be flushed.
func (x *exchange) BeforeWait(f func()) { x.conn.beforeWait = f }

// Read reads the response's body. At its end the connection becomes idle.
func (x *exchange) Read(p []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	if x.ended.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := x.body.Read(p)
	if err == nil {
		return n, nil
	}
	x.err = err
	if !errors.Is(err, io.EOF) {
		x.keep = false
		if f := x.conn.beforeWait; f != nil {
			f()
		}
		if ctx := x.request.Context(); ctx.Err() != nil {
			x.err = context.Cause(ctx)
		}
	}
	x.end()
	return n, x.err
}

// Close closes the connection, unless the body was read to its end. It may be called during a Read,
// which returns then.
func (x *exchange) Close() error {
	if !x.ended.Swap(true) {
		x.release()
		x.conn.abort()
	}
	return nil
}

// end ends the exchange whose response was read.
func (x *exchange) end() {
	if x.ended.Swap(true) {
		return
	}
	x.conn.beforeWait = nil
	more, _ := x.conn.in.Peek(min(x.conn.in.Buffered(), len(x.conn.socket.peeked)))
	if x.keep {
		x.transport.unsolicited(more)
	}
	keep := x.release() && x.keep && (x.sender == nil || x.sender.finish()) && len(more) == 0
	if !keep {
		x.conn.abort()
		return
	}
	x.transport.idle.keep(x.conn, time.Now())
}
