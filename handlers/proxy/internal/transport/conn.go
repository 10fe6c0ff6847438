package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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
	raw     syscall.RawConn
	abort   func() // closes the socket

	limit      int64 // how much more Read may return
	answered   bool  // something has come since the exchange began
	inBody     bool  // the response header was read
	bounded    bool  // there is a read deadline
	beforeWait func()

	idleTimeout time.Duration
	expires     time.Time // while it is idle

	// Of try and peek, which are made only once.
	try  func(fd uintptr) bool
	peek func(fd uintptr)
	p    []byte
	n    int
	err  error

	peeked [64]byte
}

// prepare makes what needs the socket.
func (c *conn) prepare() (err error) {
	socket, ok := c.patient.Conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("connection is no socket: %T", c.patient.Conn)
	}
	c.raw, err = socket.SyscallConn()
	c.try = func(fd uintptr) bool {
		for {
			c.n, c.err = syscall.Read(int(fd), c.p)
			if !errors.Is(c.err, syscall.EINTR) {
				return true
			}
		}
	}
	c.peek = func(fd uintptr) {
		c.n, _, c.err = syscall.Recvfrom(int(fd), c.peeked[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
	return err
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
	switch err := c.raw.Control(c.peek); {
	case err != nil:
		return false, nil
	case errors.Is(c.err, syscall.EAGAIN):
		return true, nil
	case c.n > 0 && !c.secure:
		return false, c.peeked[:c.n]
	}
	return false, nil
}

// begin prepares the connection for an exchange.
func (c *conn) begin() {
	c.limit, c.answered, c.inBody, c.bounded, c.beforeWait = maxHeader, false, false, true, nil
}

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
			n, err = c.readNow(p)
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

// readNow reads what there is, maybe nothing.
func (c *conn) readNow(p []byte) (n int, err error) {
	c.p = p
	err = c.raw.Read(c.try)
	c.p = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(c.err, syscall.EAGAIN):
		return 0, nil
	case c.err != nil:
		return 0, os.NewSyscallError("read", c.err)
	case c.n == 0:
		return 0, io.EOF
	}
	return c.n, nil
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
