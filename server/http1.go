package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"example.com/baton/server/internal/boundary"
)

// http1 is the follower of a connection whose client speaks HTTP/1, or has sent nothing yet.
// It does what the boundary machine makes of each call.
type http1 struct{ *conn }

func (c http1) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do := c.do(c.boundary.Read(len(p), !c.layer.holds()))
	for readsOn := false; ; {
		if do&boundary.Rest != 0 {
			do = c.rest()
		}
		if do&boundary.EOF != 0 {
			return 0, io.EOF
		}
		c.mu.Unlock()
		n, err := c.layer.Read(p)
		c.mu.Lock()
		if readsOn {
			c.layer.SetReadDeadline(c.boundary.Deadline())
		} else if readsOn = n == 0 && err != nil && c.readsOn(err); readsOn {
			continue
		}
		r := result(err)
		n, do = c.returned(p[:n], r, err)
		if n > 0 && r == boundary.Timeout { // a wake-up is not for net/http; a timeout comes again
			err = nil
		}
		switch {
		case errors.Is(err, errHandshake):
			do = c.boundary.Refuse()
		case do&(boundary.SwitchToHTTP2|boundary.IsHTTP1) != 0 && !c.startProtocol(p[:n], do):
			c.explain(Failed)
			do = c.boundary.Refuse()
		case do&(boundary.Rest|boundary.Continue|boundary.EOF) == 0:
			return n, err
		}
	}
}

// result classifies the error of a Read.
func result(err error) boundary.Result {
	switch {
	case err == nil:
		return boundary.OK
	case errors.Is(err, os.ErrDeadlineExceeded):
		return boundary.Timeout
	}
	return boundary.Failed
}

// returned tells the machine how a Read has ended, and does what follows from that. It is
// called with the lock held, like all that calls the machine.
func (c *conn) returned(p []byte, r boundary.Result, err error) (n int, do boundary.Action) {
	below := boundary.Empty
	switch {
	case c.layer.holds():
		below = boundary.Part
	case c.boundary.IsEnding() && readable(&c.socket): // it came in this moment
		below = boundary.Arrived
	}
	n, do = c.boundary.Returned(p, r, below)
	if r == boundary.Failed && !errors.Is(err, net.ErrClosed) {
		if isAlert(err) {
			c.explain(Failed)
		}
		c.explain(ByClient)
	}
	return n, c.do(do)
}

// do does what the boundary machine asks for, as far as it concerns deadlines, the account
// and the migrator's window. It returns the actions.
func (c *conn) do(do boundary.Action) boundary.Action {
	switch {
	case do&boundary.WakeUp != 0:
		c.layer.SetReadDeadline(time.Unix(1, 0))
	case do&boundary.HeaderDeadline != 0:
		c.layer.SetReadDeadline(time.Now().Add(c.server.opts.ReadHeaderTimeout))
	case do&boundary.BodyDeadline != 0:
		c.layer.SetReadDeadline(c.boundary.BodyDeadline(time.Now(), c.server.opts.ReadBodyTimeout))
	case do&boundary.RestoreDeadline != 0:
		c.layer.SetReadDeadline(c.boundary.Deadline())
	}
	if do&boundary.LeaveWindow != 0 {
		c.window.leave()
		c.window = nil
	}
	if do&boundary.TimedOut != 0 {
		c.explain(TimedOut)
	}
	if do&(boundary.Expired|boundary.Reclaimed) != 0 {
		if do&boundary.Reclaimed != 0 {
			c.explain(TimedOut)
		}
		c.explain(IdleGrace)
		c.mu.Unlock()
		c.Close()
		c.mu.Lock()
	}
	return do
}

// rest is called when the connection is at rest. In a session it is offered to the successor;
// what has arrived of late is then the successor's to read. If it stays, its grace begins in a drain.
func (c *conn) rest() boundary.Action {
	if c.offer() {
		return boundary.EOF
	}
	now := time.Now()
	do := c.do(c.boundary.Block(now))
	if c.server.isDraining() && c.mayMigrate() == nil {
		c.boundary.StartGrace(now.Add(max(c.server.opts.IdleGrace, 0)))
	}
	return do
}

// expire wakes the reader of a connection at rest that cannot migrate and has been idle for
// the grace. It returns when the grace ends, or the zero time if it is over or does not run.
func (c *conn) expire(now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mayMigrate() != nil {
		return time.Time{}
	}
	end, do := c.boundary.Expire(now, c.server.opts.IdleGrace)
	c.do(do)
	return end
}

// wake wakes the reader of a connection that is blocked at rest, and reports whether it was.
func (c *conn) wake(p boundary.Purpose) bool {
	return c.do(c.boundary.Wake(p)) != 0
}

// SetReadDeadline is called by net/http, and by handlers while they read a body.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.do(c.boundary.SetDeadline(t))
	return nil
}

// SetDeadline is for handlers that have taken the connection over.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// readDeadline returns the read deadline that net/http has set.
func (c *conn) readDeadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundary.Deadline()
}

// limitDiscard bounds the time for the rest of a request's body, which is read only to be
// discarded: by a Read that is under way, too, if underWay is set.
func (c *conn) limitDiscard(underWay bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setTail(unreadBody)
	c.do(c.boundary.Discard(time.Now().Add(discardTime), underWay))
}

func (c http1) Write(p []byte) (int, error) { return c.layer.Write(p) }

func (c http1) beginRequest(w http.ResponseWriter, r *http.Request) (*response, *http.Request, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boundary.Handle(r.ContentLength != 0)
	if c.tail == unreadBody {
		c.tail = nothing
	}
	if r.Close {
		c.explain(ByClient)
	}
	if c.boundary.IsMalformed() {
		c.setTail(abandonedBody)
		c.boundary.Abandon()
		w.Header().Set("Connection", "close")
		return nil, nil, "Transfer-Encoding beside Content-Length, or in HTTP/1.0"
	}
	rw := &c.response
	rw.request, rw.fullDuplex = nil, false
	if r.ContentLength != 0 {
		r, rw.request = newRequestBody(c.conn, r)
	}
	return rw, r, ""
}

func (c http1) beginResponse(rw *response, status int) {
	if status != http.StatusSwitchingProtocols && c.isLast(rw) {
		rw.Header().Set("Connection", "close")
		c.setReason(ConnectionClose)
	}
}

// isLast reports whether the connection must end with this response.
func (c http1) isLast(rw *response) bool {
	if c.isUnknown() || c.server.isDraining() && !c.willMigrate(time.Now()) && !c.hasMore() {
		return true
	}
	return rw.leavesBody() && !rw.request.discard()
}

// abortResponse is called when a handler has given up: a response that has begun must not
// look whole.
func (c http1) abortResponse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setTail(truncated)
	c.explain(Failed)
}

// export adds nothing: a connection at rest is as a new one. It is called with the lock held.
func (c http1) export(*transfer) bool {
	_, ok := c.boundary.Export()
	return ok
}

// drain does nothing: the migrator and the sweep end connections of HTTP/1.
func (c http1) drain() {}

func (c http1) isIdle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundary.IsWaiting()
}

// isUnknown reports whether the present request was not recognized when it came.
func (c http1) isUnknown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundary.IsUnknown()
}

// hasMore reports whether a client that has not been sent "Connection: close" has pipelined
// more requests: they are answered, and the last response carries it.
func (c http1) hasMore() bool {
	pending := c.layer.pending()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundary.Awaits(pending)
}
