package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// past is a deadline that wakes what waits for a connection.
var past = time.Unix(1, 0)

// errHalted is what a pipe returns that was halted, and can go on.
var errHalted = errors.New("tunnel was halted")

// pipe moves a flow from one end of a tunnel to the other. The flow is its own while it
// runs.
type pipe struct {
	flow
	tunnel   *tunnel
	from, to *end
	leave    atomic.Int32  // a when
	over     chan struct{} // closed when the flow is over
	signaled bool          // it is closed
}

func (p *pipe) connect(t *tunnel, from, to *end) {
	p.tunnel, p.from, p.to, p.over = t, from, to, make(chan struct{})
	p.isWebSocket = t.isWebSocket
}

// run returns nil when the end of what comes was passed on, or why it has stopped before.
func (p *pipe) run() error {
	buffer := flowBuffers.Get().(*[flowSize]byte)
	defer func() {
		p.Held = append([]byte(nil), p.Held...)
		flowBuffers.Put(buffer)
	}()
	for {
		if err := p.pass(); err != nil {
			return err
		}
		if p.Ended {
			return p.close()
		}
		n, err := p.from.Read(buffer[:])
		p.Held = buffer[:n]
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			p.Ended = true
		case errors.Is(err, os.ErrDeadlineExceeded): // it was woken
			p.from.SetReadDeadline(time.Time{})
			if p.tunnel.halting.Load() {
				return errHalted
			}
		default:
			return errors.Join(p.pass(), err)
		}
	}
}

var flowBuffers = sync.Pool{New: func() any { return new([flowSize]byte) }}

// pass writes what is held.
func (p *pipe) pass() error {
	for {
		part := p.next(when(p.leave.Load()))
		if len(part) == 0 {
			break
		}
		n, err := p.to.write(part)
		p.wrote(n)
		if err != nil {
			return err
		}
	}
	if p.isOver() && !p.signaled {
		p.signaled = true
		close(p.over)
	}
	return nil
}

// errNoHalfClose ends a tunnel one of whose ends can be closed for both directions only.
var errNoHalfClose = errors.New("connection cannot be closed in one direction")

// close passes the end on.
func (p *pipe) close() error {
	if p.Closed {
		return nil
	}
	p.Closed = true
	if conn, ok := p.to.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errNoHalfClose
}

// wake lets the pipe look at what it is to do.
func (p *pipe) wake() { p.from.SetReadDeadline(past) }

// end is one end of a tunnel.
type end struct {
	net.Conn
	isSocket bool          // which can migrate
	patience time.Duration // for how long it may take nothing of a write; 0: the layer below bounds that

	mu     sync.Mutex
	halted bool
	halts  int // how often it was
}

// write may take as long as the peer takes something of it. It returns errHalted if the end was
// halted meanwhile, even if it is not any more.
func (e *end) write(p []byte) (written int, err error) {
	for {
		halts, err := e.extend()
		if err != nil {
			return written, err
		}
		n, err := e.Write(p[written:])
		written += n
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if late && e.wasHalted(halts) {
			return written, errHalted
		}
		if n == 0 || e.patience == 0 || !late {
			return written, err
		}
	}
}

// extend sets the deadline of a write, unless the end is halted. It returns how often it was.
func (e *end) extend() (halts int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.halted:
		err = errHalted
	case e.patience > 0:
		err = e.SetWriteDeadline(time.Now().Add(e.patience))
	}
	return e.halts, err
}

// wasHalted reports whether the end is halted, or was since it had been that often.
func (e *end) wasHalted(halts int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.halts > halts
}

// halt lets what reads and writes return.
func (e *end) halt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.halted = true
	e.halts++
	e.SetReadDeadline(past)
	e.SetWriteDeadline(past)
}

// resume allows reading and writing again.
func (e *end) resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.halted = false
	e.SetReadDeadline(time.Time{})
	e.SetWriteDeadline(time.Time{})
}
