package server

// This file holds the listener: the place where a connection begins to count,
// and where accepting ends without losing one that waits to be accepted.

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type listener struct {
	net.Listener
	server   *Server
	config   *tls.Config // nil: plaintext
	emptying atomic.Bool // accept what the kernel has queued, then end
}

// Accept returns the next connection. It is counted before net/http sees it,
// so that a drain that begins in this instant knows of it.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if l.emptying.Load() {
			if !readable(l.Listener) {
				return nil, net.ErrClosed
			}
			l.setDeadline(time.Now().Add(time.Second))
		}
		nc, err := l.Listener.Accept()
		if err == nil {
			return l.server.track(nc, l.Listener, l.config), nil
		}
		if !l.emptying.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
	}
}

// handOver stops accepting at once: what is queued belongs to the successor,
// which accepts from the same queue.
func (l *listener) handOver() { l.Close() }

// empty stops accepting when the queue is empty: nobody else would answer the
// connections in it, and closing the socket resets them. New ones stay out of
// the queue meanwhile; their clients try again a moment later and are refused.
func (l *listener) empty() {
	if _, ok := l.Listener.(*net.TCPListener); ok {
		control(l.Listener, dropSYN)
	}
	l.emptying.Store(true)
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
			ln.handOver()
		} else {
			ln.empty()
		}
	}
	s.accepting.Wait()
	for _, ln := range s.listeners {
		ln.Close() // one that was never served
	}
}

// readable tells whether a read or accept on the socket would return at once.
func readable(s any) (ready bool) {
	control(s, func(fd int) { ready = isReadable(uintptr(fd)) })
	return ready
}

func isReadable(fd uintptr) bool { return polls(int(fd), unix.POLLIN) }

// writable tells whether a small write to the socket would return at once.
func writable(s any) bool {
	ready := true
	control(s, func(fd int) { ready = polls(fd, unix.POLLOUT) })
	return ready
}

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

func isClosed(err error) bool {
	return err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed)
}
