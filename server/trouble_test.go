package server_test

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// slowListener accepts nothing until it is released, as one on a machine that
// has too much to do.
type slowListener struct {
	net.Listener
	release chan struct{}
	told    called
}

func (l *slowListener) Accept() (net.Conn, error) {
	<-l.release
	return l.Listener.Accept()
}

func (l *slowListener) SetDeadline(t time.Time) error {
	l.told.call()
	return l.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(t)
}

func (l *slowListener) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := l.Listener.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

type called struct {
	mu sync.Mutex
	is bool
}

func (c *called) call() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.is = true
}

func (c *called) wasCalled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.is
}

// heldListener's connections hold what their first Read has taken until they
// are released, as a thread does that loses its processor.
type heldListener struct {
	net.Listener
	taken, release chan struct{}
	once           sync.Once
}

func (l *heldListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &heldConn{TCPConn: nc.(*net.TCPConn), listener: l}, nil
}

type heldConn struct {
	*net.TCPConn
	listener *heldListener
}

func (c *heldConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 1 {
		c.listener.once.Do(func() { close(c.listener.taken) })
		<-c.listener.release
	}
	return n, err
}

// shortListener can be short of descriptors.
type shortListener struct {
	*net.TCPListener
	short atomic.Bool
}

func (l *shortListener) Accept() (net.Conn, error) {
	if l.short.Load() {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	nc, err := l.TCPListener.Accept()
	if err == nil && l.short.Load() { // it was blocked in Accept until now
		nc.Close()
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return nc, err
}
