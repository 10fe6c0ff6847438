package server

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"example.com/baton/server/internal/records"
)

const alpnHTTP2, alpnHTTP1 = "h2", "http/1.1"

// AddTLS gives the server a listener for TLS, which it owns from then on, with
// HTTP/2 and HTTP/1.1 as the client chooses. It must be called before Serve. config
// is completed: by the protocols, if it names none, and by TLS 1.2 as the oldest
// version, whatever it says. It must not be changed any more but by
// [example.com/baton/server/tlskeys.TicketKeys.Use], and may be shared with other listeners of the server.
func (s *Server) AddTLS(ln net.Listener, config *tls.Config) {
	s.listeners = append(s.listeners, s.newListener(ln, config))
}

// completeTLS completes the listeners' configurations.
func (s *Server) completeTLS() {
	for _, ln := range s.listeners {
		if ln.config == nil {
			continue
		}
		ln.config.MinVersion = max(ln.config.MinVersion, tls.VersionTLS12)
		if ln.config.NextProtos == nil {
			ln.config.NextProtos = []string{alpnHTTP2, alpnHTTP1}
		}
		if !s.http2().speaks { // as with GODEBUG=http2server=0
			ln.config.NextProtos = slices.DeleteFunc(slices.Clone(ln.config.NextProtos),
				func(name string) bool { return name == alpnHTTP2 })
		}
	}
}

// secure is the TLS of a connection. net/http sees plaintext only: what is between its
// connection and the socket is encrypted here, so that the account of a connection
// is the same for both. One over TLS never migrates to the successor, which does not
// have its keys. A nil one is that of a plaintext connection.
// Its fields belong to the goroutine that reads the connection.
type secure struct {
	layer   // the socket
	owner   *conn
	conn    *tls.Conn
	inbound records.Inbound
	hello   [5]byte // room for first
	first   []byte  // what the client's hello begins with, until crypto/tls takes it
	state   *tls.ConnectionState
	done    atomic.Bool // the handshake is
	writing sync.Mutex  // held by a Write
	failed  bool        // a Write has, so that nothing can follow
}

func newSecure(c *conn, config *tls.Config) *secure {
	s := &secure{layer: &c.socket, owner: c}
	s.conn = tls.Server(recorded{s.layer, s}, config)
	return s
}

// recorded is the socket as crypto/tls reads it.
type recorded struct {
	layer
	secure *secure
}

func (r recorded) Read(p []byte) (int, error) {
	if first := r.secure.first; len(first) > 0 {
		n := copy(p, first)
		r.secure.first = first[n:]
		return n, nil
	}
	n, err := r.layer.Read(p)
	r.secure.inbound.Came(p[:n])
	return n, err
}

// Read reads what is for net/http. Before the handshake it reads the beginning of the
// client's hello and returns nothing: crypto/tls allows nobody to wake a handshake. When it
// is called again, it performs the handshake, and again returns nothing.
func (s *secure) Read(p []byte) (int, error) {
	switch {
	case s.done.Load():
		n, err := s.conn.Read(p)
		s.inbound.Read(n, len(p))
		return n, err
	case len(s.first) == 0:
		n, err := s.conn.NetConn().Read(s.hello[:])
		s.first = s.hello[:n]
		return 0, err
	}
	return 0, s.handshake()
}

func (s *secure) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.conn.Write(p)
	s.failed = s.failed || err != nil
	return n, err
}

// speaksHTTP2 tells whether the client has chosen HTTP/2.
func (s *secure) speaksHTTP2() bool { return s.state.NegotiatedProtocol == alpnHTTP2 }

// holds reports whether a part of a record has come, or of the handshake: a client may be
// about to send a request.
func (s *secure) holds() bool { return s.inbound.Within() }

// export returns false: the keys are not exported.
func (s *secure) export(*transfer) bool { return false }

// connectionState returns the state of the handshake that is done, nil without TLS.
func (s *secure) connectionState() *tls.ConnectionState {
	if s == nil {
		return nil
	}
	return s.state
}

// errHandshake is what a Read returns when the handshake has failed. The account of the
// connection knows why.
var errHandshake = errors.New("TLS handshake failed")

// handshake is called when the client's hello has begun to arrive. It has the time that
// net/http gives a request's header.
func (s *secure) handshake() error {
	c := s.owner
	c.SetWriteDeadline(c.readDeadline())
	err := s.conn.Handshake()
	if err == nil {
		c.SetWriteDeadline(noDeadline)
		state := s.conn.ConnectionState()
		s.state = &state
		s.done.Store(true)
		if !s.speaksHTTP2() || state.Version > tls.VersionTLS12 || !strings.Contains(tls.CipherSuiteName(state.CipherSuite), "_CBC_") {
			return nil
		}
		err = errors.New("HTTP/2 with a cipher suite that is prohibited for it") // RFC 9113, section 9.2.2
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.setReason(TimedOut)
	}
	c.setReason(Failed)
	if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && looksLikeHTTP(plain.RecordHeader) {
		s.layer.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"))
		if readable(s.layer) {
			c.linger(lingerResponse)
		}
	}
	c.server.opts.Logger.Debug("TLS handshake failed", "client", c.RemoteAddr().String(), "error", err)
	return errHandshake
}

func looksLikeHTTP(begin [5]byte) bool {
	switch string(begin[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// sendCloseNotify sends a close_notify: where that takes no time or, if it may wait, when
// the client has read enough of what precedes it. Without it the client cannot tell the end
// of a response that has no length from an attack.
func (s *secure) sendCloseNotify(mayWait bool) {
	if s != nil && s.done.Load() && s.writing.TryLock() {
		defer s.writing.Unlock()
		if !s.failed && (mayWait || writable(s.layer)) {
			s.conn.CloseWrite() // waits for 5 seconds at most
		}
	}
}

func (s *secure) CloseWrite() error {
	if s.done.Load() {
		s.writing.Lock()
		defer s.writing.Unlock()
		s.conn.CloseWrite() // waits for 5 seconds at most
	}
	return s.layer.CloseWrite()
}

func (s *secure) pending() int64 {
	handshake := 0
	if s.state.Version >= tls.VersionTLS13 {
		handshake = 1 // the client's Finished
	}
	return s.layer.pending() + s.inbound.Pending(handshake)
}
