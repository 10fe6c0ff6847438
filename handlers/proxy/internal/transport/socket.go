package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// socket reads what has come, without waiting for more. The functions that the runtime calls with the
// descriptor, and what they work on, are made only once.
type socket struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool
	peek func(fd uintptr)

	p      []byte // for read
	peeked [64]byte
	n      int
	err    error
}

// open prepares the socket of a connection.
func (s *socket) open(c net.Conn) (err error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return fmt.Errorf("connection is no socket: %T", c)
	}
	s.raw, err = sc.SyscallConn()
	s.read = func(fd uintptr) bool {
		for {
			s.n, s.err = syscall.Read(int(fd), s.p)
			if !errors.Is(s.err, syscall.EINTR) {
				return true
			}
		}
	}
	s.peek = func(fd uintptr) {
		s.n, _, s.err = syscall.Recvfrom(int(fd), s.peeked[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
	return err
}

// peekNow returns the first bytes of what there is, valid until the next call, and leaves them there. At
// the end of the connection there are none. The error is EAGAIN if nothing has come.
func (s *socket) peekNow() ([]byte, error) {
	if err := s.raw.Control(s.peek); err != nil {
		return nil, err
	}
	return s.peeked[:max(0, s.n)], s.err
}

// readNow reads what there is, maybe nothing.
func (s *socket) readNow(p []byte) (n int, err error) {
	s.p = p
	err = s.raw.Read(s.read)
	s.p = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(s.err, syscall.EAGAIN):
		return 0, nil
	case s.err != nil:
		return 0, os.NewSyscallError("read", s.err)
	case s.n == 0:
		return 0, io.EOF
	}
	return s.n, nil
}
