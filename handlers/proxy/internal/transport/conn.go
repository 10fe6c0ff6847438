package transport

import (
	"bufio"
	"errors"
	"math"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is a connection to the backend. One exchange at a time has it.
type conn struct {
	patient patient  // above the socket
	stream  net.Conn // patient, or TLS above it
	secure  bool
	in      *bufio.Reader // of what Read returns
	socket  socket
	abort   func() // closes the socket
	reading

	idleTimeout time.Duration
	expires     time.Time // while it is idle
}

// reading is the state of an exchange for Read.
type reading struct {
	limit      int64 // how much more Read may return
	answered   bool  // something has come since the exchange began
	inBody     bool  // the response header was read
	bounded    bool  // there is a read deadline
	beforeWait func()
}

// isQuiet reports whether nothing has come on an idle connection: no end, and no bytes. more are the
// first of these. With TLS they may be a session ticket, but as well the end; nobody can tell.
func (c *conn) isQuiet() (quiet bool, more []byte) {
	if c.secure { // which may have read more than the last response
		_ = c.patient.SetReadDeadline(time.Unix(1, 0))
		if _, err := c.stream.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
	}
	more, err := c.socket.peekNow()
	if c.secure {
		more = nil
	}
	return errors.Is(err, syscall.EAGAIN), more
}

// begin prepares the connection for an exchange.
func (c *conn) begin() { c.reading = reading{limit: maxHeader, bounded: true} }

// beginBody is called when the response header was read.
func (c *conn) beginBody() { c.limit, c.inBody = math.MaxInt64, true }

// Read reads for in.
func (c *conn) Read(p []byte) (n int, err error) {
	if c.limit <= 0 {
		return 0, errHeaderTooLarge
	}
	if int64(len(p)) > c.limit {
		p = p[:c.limit]
	}
	if c.inBody && c.bounded {
		c.bounded = false
		_ = c.patient.SetReadDeadline(time.Time{})
	}
	if c.beforeWait != nil {
		if !c.secure {
			n, err = c.socket.readNow(p)
		}
		if n > 0 || err != nil {
			return n, err
		}
		c.beforeWait()
	}
	n, err = c.stream.Read(p)
	c.limit -= int64(n)
	c.answered = c.answered || n > 0
	return n, err
}

// patient bounds for how long a backend may take nothing of a write. The header timeout only
// begins when the request is sent, which it never is to a backend that has stopped reading.
type patient struct {
	net.Conn
	timeout time.Duration
	written int64 // bytes
}

func (c *patient) Write(p []byte) (int, error) {
	for written := 0; ; {
		if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		c.written += int64(n)
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) { // else the backend reads, if slowly
			return written, err
		}
	}
}
