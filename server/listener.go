package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener is where a connection begins to count, and where accepting ends without losing
// one that waits to be accepted.
type listener struct {
	net.Listener
	server   *Server
	config   *tls.Config // nil: plaintext
	emptying atomic.Bool // accept what the kernel has queued, then end
	paused   atomic.Bool // accept nothing for now
	failures failures
	accepted atomic.Uint64
	once     sync.Once
	closed   chan struct{}

	changing sync.Mutex    // held while the two change, and the deadline that goes with them
	resumed  chan struct{} // closed when it is not paused any more
}

func (s *Server) newListener(ln net.Listener, config *tls.Config) *listener {
	return &listener{Listener: ln, server: s, config: config, closed: make(chan struct{})}
}

// Accept returns the next connection. It is counted before net/http sees it, so that a
// drain that begins in this instant includes it.
//
// No error but the listener's end is returned, because net/http would accept
// nothing more. accept(2) also reports errors of the network, of the connection
// that was to be accepted, of a firewall and of a shortage that passes.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.awaitResume()
		if l.emptying.Load() {
			if !readable(l.Listener) {
				return nil, net.ErrClosed
			}
			l.setDeadline(time.Now().Add(time.Second))
		}
		l.awaitRoom()
		nc, err := l.Listener.Accept()
		switch {
		case err == nil:
			if n := l.failures.reset(); n > 0 {
				l.server.opts.Logger.Info("connections are accepted again", "address", l.Addr().String(), "errors", n)
			}
			l.accepted.Add(1)
			return l.server.track(nc, l.Listener, l.config).served(), nil
		case errors.Is(err, net.ErrClosed):
			return nil, err
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !l.restoreDeadline() {
				return nil, err
			}
			continue
		}
		l.server.acceptErrors.Add(1)
		wait, first := l.failures.add(err, time.Now())
		if first {
			l.server.opts.Logger.Warn("connections cannot be accepted; trying again", "address", l.Addr().String(), "error", err)
		}
		select {
		case <-l.closed:
		case <-time.After(wait):
		}
	}
}

// pause stops accepting, or begins again. What is queued meanwhile is accepted then, or by
// another process that has the socket, too. A connection that is accepted just now is served, and
// one more if the listener has no deadlines.
func (l *listener) pause(paused bool) {
	l.changing.Lock()
	defer l.changing.Unlock()
	if l.emptying.Load() || l.paused.Load() == paused {
		return
	}
	l.paused.Store(paused)
	if paused {
		l.resumed = make(chan struct{})
		l.setDeadline(time.Unix(1, 0))
	} else {
		l.setDeadline(noDeadline)
		close(l.resumed)
	}
}

// awaitResume waits while the listener is paused.
func (l *listener) awaitResume() {
	for l.paused.Load() {
		l.changing.Lock()
		resumed := l.resumed
		l.changing.Unlock()
		select {
		case <-resumed:
		case <-l.closed:
			return
		}
	}
}

// restoreDeadline removes a deadline that has passed, unless it is that of a listener which does
// not accept. It returns false if that is impossible.
func (l *listener) restoreDeadline() bool {
	l.changing.Lock()
	defer l.changing.Unlock()
	return l.emptying.Load() || l.paused.Load() || l.setDeadline(noDeadline)
}

// Close may be called several times.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// unhealthyAfter is how long a listener may only fail to accept until
// [Server.Accepting] reports it.
const unhealthyAfter = 10 * time.Second

// failures are those of a listener since it has last accepted a connection.
type failures struct {
	mu    sync.Mutex
	n     int
	since time.Time // when the first one was that is no shortage of descriptors
	last  error     // of those
	wait  time.Duration
}

// add returns how long to wait before the next attempt, and whether this failure
// is the first one.
func (f *failures) add(err error, now time.Time) (wait time.Duration, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	f.wait = min(max(2*f.wait, 5*time.Millisecond), time.Second)
	if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
		f.last = err
		if f.since.IsZero() {
			f.since = now
		}
	}
	return f.wait, f.n == 1
}

// reset returns how many failures there were.
func (f *failures) reset() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = f.n
	f.n, f.since, f.last, f.wait = 0, time.Time{}, nil, 0
	return n
}

// lasting returns the last failure if there have only been failures for unhealthyAfter.
func (f *failures) lasting(now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.since.IsZero() || now.Sub(f.since) < unhealthyAfter {
		return nil
	}
	return f.last
}

// Accepting returns an error if a listener has accepted nothing for ten seconds
// because each attempt failed. A shortage of descriptors does not count: it ends when
// clients leave, and a restart would close their connections.
func (s *Server) Accepting() error {
	var failed []error
	for _, ln := range s.listeners {
		if err := ln.failures.lasting(time.Now()); err != nil {
			failed = append(failed, fmt.Errorf("accept at %s: %w", ln.Addr(), err))
		}
	}
	return errors.Join(failed...)
}

// AcceptErrors returns how many attempts to accept a connection have failed.
func (s *Server) AcceptErrors() uint64 { return s.acceptErrors.Load() }

// empty stops accepting when the queue is empty: nobody else would answer the
// connections in it, and closing the socket resets them. New ones stay out of
// the queue meanwhile; their clients try again a moment later and are refused.
func (l *listener) empty() {
	if _, ok := l.Listener.(*net.TCPListener); ok {
		control(l.Listener, dropSYN)
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	l.emptying.Store(true)
	if l.paused.Swap(false) {
		close(l.resumed)
	}
	if !l.setDeadline(time.Unix(1, 0)) {
		l.Close()
	}
}

// dropSYN makes the kernel ignore requests for new TCP connections.
func dropSYN(fd int) {
	const flags, syn, synAck = 13, 0x02, 0x12 // RFC 9293, section 3.1
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: synAck},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	// Where that is not allowed the queue is emptied all the same, with a
	// moment between its end and the socket's in which one could be lost.
	unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

func (l *listener) setDeadline(t time.Time) bool {
	d, ok := l.Listener.(interface{ SetDeadline(time.Time) error })
	return ok && d.SetDeadline(t) == nil
}

// stopAccepting returns when no listener accepts any more and every connection
// that one has accepted is counted.
func (s *Server) stopAccepting(kept func(net.Listener) bool) {
	for _, ln := range s.listeners {
		if kept(ln.Listener) {
			ln.Close() // what is queued is for the successor, which accepts from the same queue
		} else {
			ln.empty()
		}
	}
	s.accepting.Wait()
	for _, ln := range s.listeners {
		ln.Close() // one that was never served
	}
}

// readable reports whether a read or accept on the socket would return at once.
func readable(s any) (ready bool) {
	control(s, func(fd int) { ready = isReadable(uintptr(fd)) })
	return ready
}

func isReadable(fd uintptr) bool { return polls(int(fd), unix.POLLIN) }

// writable reports whether a small write to the socket would return at once.
func writable(s any) bool {
	ready := true
	control(s, func(fd int) { ready = isWritable(uintptr(fd)) })
	return ready
}

func isWritable(fd uintptr) bool { return polls(int(fd), unix.POLLOUT) }

func polls(fd int, event int16) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: event}}, 0)
	return err == nil && n > 0
}

// control calls f with the descriptor of a socket that has one and is open.
func control(s any, f func(fd int)) {
	if sc, ok := s.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { f(int(fd)) })
		}
	}
}
