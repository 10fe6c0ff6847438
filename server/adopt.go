package server

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/upgrade"
)

// Adopt returns what serves a connection that a predecessor has accepted, or nil if that is
// impossible. It may be idle for as long as it had left; from its first byte on all timeouts
// hold as for any other. It may be called before Serve. While the server shares its connections,
// an adopted one, which the successor may have returned, is not among them.
func (s *Server) Adopt(moved upgrade.Connection) (begin func()) {
	s.completeTLS()
	t, err := decodeTransfer(moved.State)
	defer t.clear()
	if err != nil {
		s.opts.Logger.Debug("connection from the predecessor is refused", "error", err)
		return nil
	}
	c := s.newConn(moved.Conn, nil)
	c.listener = moved.Listener
	if !c.rebuild(moved, t) {
		return nil
	}
	if t.Tunnel != nil {
		return c.adoptTunnel(moved.Peer, t)
	}
	state, as := boundary.Exported{Used: moved.Used}, classNew
	if moved.Used {
		as = classIdle
	}
	if moved.Left > 0 && t.HTTP2 == nil {
		state.Deadline = time.Now().Add(moved.Left)
		c.socket.SetReadDeadline(state.Deadline)
	}
	if t.HTTP2 == nil {
		c.boundary = boundary.Adopt(state)
	}
	return func() {
		s.serveAdopted()
		s.noteArrival(t.protocol())
		if m := s.session.Load(); m != nil && !s.isDraining() {
			c.refuse(m)
		}
		s.register(c, as)
		if s.isDraining() {
			c.follower().drain()
		}
		go c.awaitFirstByte()
	}
}

// rebuild rebuilds the layers of an adopted connection from the bottom, and returns false if
// they cannot be. Its listener may serve another protocol than when it was accepted.
func (c *conn) rebuild(moved upgrade.Connection, t transfer) bool {
	config := c.server.configOf(moved.Listener)
	if (t.TLS != nil) != (config != nil) || moved.Peer != nil && t.Tunnel == nil {
		return false
	}
	if t != (transfer{}) && c.server.opts.DisableMigration {
		return false
	}
	if t.TLS != nil && t.TLS.Records.Suite == 0 && (t.HTTP2 != nil || t.Tunnel != nil) { // before a handshake there is none
		return false
	}
	if t.TLS != nil {
		secure, err := restoreSecure(c, config, t.TLS)
		if err != nil {
			c.server.opts.Logger.Debug("TLS connection of the predecessor is refused", "error", err)
			return false
		}
		c.secure, c.layer = secure, secure
	}
	return t.HTTP2 == nil || c.server.http2().migrates && c.adoptHTTP2(t.HTTP2, moved.Left)
}

// configOf returns the configuration of a listener for TLS, nil if it is for plaintext.
func (s *Server) configOf(ln net.Listener) *tls.Config {
	for _, l := range s.listeners {
		if l.Listener == ln {
			return l.config
		}
	}
	return nil
}

// awaitFirstByte gives an adopted connection to net/http when something has arrived on it.
// Many migrate again before: net/http takes more time and memory for each than all the rest
// of a migration.
func (c *conn) awaitFirstByte() {
	switch {
	case !c.follower().awaitFirstByte():
	case c.open() && c.server.adopted.add(c.served()):
		return
	default: // the drain is over
		c.setReason(DrainTimeout)
	}
	c.Close()
}

// awaitFirstByte waits until the connection is readable.
func (c http1) awaitFirstByte() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if do := c.rest(); do&boundary.EOF != 0 {
			return false
		}
		c.mu.Unlock()
		err := awaitReadable(c.socket.Conn)
		c.mu.Lock()
		r := boundary.Readable
		if err != nil {
			r = result(err)
		}
		if _, do := c.returned(nil, r, err); do&boundary.Rest == 0 {
			return err == nil
		}
	}
}

// open opens what has come over the link, and returns false if that is impossible.
func (c *conn) open() bool {
	if _, ok := c.socket.Conn.(upgrade.Unopened); !ok {
		return true
	}
	nc, err := c.server.openConn(c.socket.Conn)
	if err != nil && c.isClosed() { // forcibly
		return false
	}
	if err != nil {
		c.server.opts.Logger.Error("connection from the predecessor cannot be opened", "error", err)
		c.setReason(Failed)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boundary.IsClosed() { // forcibly
		nc.Close()
		return false
	}
	c.socket.Conn = nc
	limitUnsent(nc)
	nc.SetReadDeadline(c.boundary.Deadline())
	return true
}

// openConn opens what has come over the link.
func (s *Server) openConn(nc net.Conn) (net.Conn, error) {
	unopened, ok := nc.(upgrade.Unopened)
	if !ok {
		return nc, nil
	}
	opened, err := unopened.Open()
	for patience := time.Now().Add(s.opts.ReadHeaderTimeout); (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && time.Now().Before(patience); {
		time.Sleep(5 * time.Millisecond)
		opened, err = unopened.Open()
	}
	if err != nil {
		return nc, err
	}
	return opened, nil
}

// awaitReadable returns nil when a Read would return at once, and an error of the
// kind that a Read gives when the deadline passes or the connection is closed.
func awaitReadable(nc net.Conn) error { return awaitReady(nc, syscall.RawConn.Read, isReadable) }

// awaitWritable is awaitReadable for a Write that writes something.
func awaitWritable(nc net.Conn) error { return awaitReady(nc, syscall.RawConn.Write, isWritable) }

// awaitReady waits, as an operation of the connection does, until the socket is ready.
func awaitReady(nc net.Conn, operation func(syscall.RawConn, func(fd uintptr) bool) error, isReady func(fd uintptr) bool) error {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	return operation(raw, isReady)
}

// adoptions is the listener from which net/http gets adopted connections.
type adoptions struct {
	mu      sync.Mutex
	waiting []net.Conn
	closed  bool
	changed chan struct{} // cap 1
}

func newAdoptions() *adoptions { return &adoptions{changed: make(chan struct{}, 1)} }

// add returns false if nobody accepts any more.
func (l *adoptions) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.waiting = append(l.waiting, c)
	nudge(l.changed)
	return true
}

// Accept returns what is left also when the listener is closed.
func (l *adoptions) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		if len(l.waiting) > 0 {
			c := l.waiting[0]
			l.waiting[0] = nil
			l.waiting = l.waiting[1:]
			l.mu.Unlock()
			return c, nil
		}
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return nil, net.ErrClosed
		}
		<-l.changed
	}
}

func (l *adoptions) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	nudge(l.changed)
	return nil
}

func (l *adoptions) Addr() net.Addr { return &net.UnixAddr{Name: "adopted", Net: "memory"} }
