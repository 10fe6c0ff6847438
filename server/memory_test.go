package server_test

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
)

// memoryListener is a network in memory, for tests in a synctest bubble: time passes
// there when nobody has anything to do, however busy the machine is.
type memoryListener struct {
	mu      sync.Mutex
	changed *sync.Cond
	queue   []net.Conn
	closed  bool
}

func memory() *memoryListener {
	l := new(memoryListener)
	l.changed = sync.NewCond(&l.mu)
	return l
}

func (l *memoryListener) dial() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, syscall.ECONNREFUSED
	}
	near, far := newMemoryConns()
	l.queue = append(l.queue, far)
	l.changed.Broadcast()
	return near, nil
}

func (l *memoryListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 {
		if l.closed {
			return nil, net.ErrClosed
		}
		l.changed.Wait()
	}
	nc := l.queue[0]
	l.queue = l.queue[1:]
	return nc, nil
}

func (l *memoryListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// memoryConn is one end of a connection. Like a socket, it takes some bytes that the
// other end does not read, and ends when its last copy is closed.
type memoryConn struct {
	in, out *memoryStream
	copies  *atomic.Int32
	once    sync.Once
}

const memoryBuffer = 256 << 10

func newMemoryConns() (a, b *memoryConn) {
	ab, ba := newMemoryStream(), newMemoryStream()
	return newMemoryConn(ba, ab), newMemoryConn(ab, ba)
}

func newMemoryConn(in, out *memoryStream) *memoryConn {
	c := &memoryConn{in: in, out: out, copies: new(atomic.Int32)}
	c.copies.Store(1)
	return c
}

// dup returns another copy, as a successor gets it.
func (c *memoryConn) dup() *memoryConn {
	c.copies.Add(1)
	return &memoryConn{in: c.in, out: c.out, copies: c.copies}
}

func (c *memoryConn) Read(p []byte) (int, error)         { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error)        { return c.out.write(p) }
func (c *memoryConn) CloseWrite() error                  { return c.out.end() }
func (c *memoryConn) LocalAddr() net.Addr                { return memoryAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr               { return memoryAddr{} }
func (c *memoryConn) SetReadDeadline(t time.Time) error  { return c.in.reader.set(c.in, t) }
func (c *memoryConn) SetWriteDeadline(t time.Time) error { return c.out.writer.set(c.out, t) }

func (c *memoryConn) Close() error {
	c.once.Do(func() {
		if c.copies.Add(-1) == 0 {
			c.in.leave()
			c.out.end()
		}
	})
	return nil
}

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// memoryStream is one direction.
type memoryStream struct {
	mu             sync.Mutex
	changed        *sync.Cond
	bytes          []byte
	ended          bool // nothing is written any more
	readerGone     bool
	reader, writer memoryDeadline
}

func newMemoryStream() *memoryStream {
	s := new(memoryStream)
	s.changed = sync.NewCond(&s.mu)
	return s
}

type memoryDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *memoryDeadline) set(s *memoryStream, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.at = t; !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed.Broadcast()
		})
	}
	s.changed.Broadcast()
	return nil
}

func (d *memoryDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (s *memoryStream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.readerGone:
			return 0, net.ErrClosed
		case s.reader.passed():
			return 0, os.ErrDeadlineExceeded
		case len(s.bytes) > 0 || len(p) == 0:
			n := copy(p, s.bytes)
			s.bytes = s.bytes[n:]
			s.changed.Broadcast()
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *memoryStream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.ended:
			return n, net.ErrClosed
		case s.writer.passed():
			return n, os.ErrDeadlineExceeded
		case s.readerGone:
			return n, syscall.EPIPE
		}
		m := min(len(p)-n, memoryBuffer-len(s.bytes))
		s.bytes = append(s.bytes, p[n:n+m]...)
		n += m
		s.changed.Broadcast()
		if n == len(p) {
			return n, nil
		}
		s.changed.Wait()
	}
}

func (s *memoryStream) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.changed.Broadcast()
	return nil
}

// leave is called when nobody reads any more.
func (s *memoryStream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readerGone = true
	s.changed.Broadcast()
}

func (s *served) connect() (net.Conn, error) {
	if l, ok := s.listener.(*memoryListener); ok {
		return l.dial()
	}
	return net.Dial(s.addr.Network(), s.addr.String())
}

// inMemory runs a test in a bubble, with a server that is reached through memory.
func inMemory(t *testing.T, opts server.Options, test func(t *testing.T, s *served)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, serveOn(t, memory(), opts)) })
}

// inMemoryTLS is inMemory for a server over TLS.
func inMemoryTLS(t *testing.T, opts server.Options, test func(t *testing.T, s *servedTLS)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, serveTLSOn(t, memory(), opts)) })
}

// inBubble returns the test as one in a bubble.
func inBubble(test func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}
