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

	"example.com/baton/server/internal/tls13"
)

const alpnHTTP2, alpnHTTP1 = "h2", "http/1.1"

// AddTLS gives the server a listener for TLS, which it owns from then on, with
// HTTP/2 and HTTP/1.1 as the client chooses. It must be called before Serve. config
// is completed: by the protocols, if it names none, and by TLS 1.2 as the oldest
// version, whatever it says; its GetConfigForClient is wrapped. It must not be changed any more
// but by [example.com/baton/server/tlskeys.TicketKeys.Use], and may be shared with other
// listeners of the server.
//
// GetConfigForClient and VerifyConnection are also called for connections that come from a
// predecessor. They must not block then.
func (s *Server) AddTLS(ln net.Listener, config *tls.Config) {
	s.listeners = append(s.listeners, s.newListener(ln, config))
}

// completeTLS completes the listeners' configurations, unless it was called before.
func (s *Server) completeTLS() { s.complete.Do(s.completeConfigs) }

func (s *Server) completeConfigs() {
	completed := make(map[*tls.Config]bool)
	for _, ln := range s.listeners {
		if ln.config == nil || completed[ln.config] {
			continue
		}
		completed[ln.config] = true
		captureSecrets(ln.config)
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

// hasTLS reports whether a listener is for TLS.
func (s *Server) hasTLS() bool {
	return slices.ContainsFunc(s.listeners, func(ln *listener) bool { return ln.config != nil })
}

// secure is the TLS of a connection. net/http sees plaintext only: what is between its
// connection and the socket is encrypted here, so that the account of a connection is the
// same for both. crypto/tls performs the handshake; the record layer that follows is ours if
// the connection may migrate. A nil one is that of a plaintext connection.
// Its fields belong to the goroutine that reads the connection, but for records.
type secure struct {
	layer   // the socket
	owner   *conn
	config  *tls.Config
	hello   [5]byte // room for first
	first   []byte  // what the client's hello begins with, until crypto/tls takes it
	state   *tls.ConnectionState
	records atomic.Pointer[recordLayer] // nil until the handshake is done
	writing sync.Mutex                  // held by a Write
	failed  bool                        // a Write has, so that nothing can follow
	offered bool                        // to the successor; guarded by the lock of owner
	whole   wholeRecords
}

func newSecure(c *conn, config *tls.Config) *secure {
	return &secure{layer: &c.socket, owner: c, config: config}
}

// Read reads what is for net/http. Before the handshake it reads the beginning of the
// client's hello and returns nothing: crypto/tls allows nobody to wake a handshake. When it
// is called again, it performs the handshake, and again returns nothing.
func (s *secure) Read(p []byte) (int, error) {
	if r := s.records.Load(); r != nil {
		return (*r).Read(p)
	}
	if len(s.first) == 0 {
		n, err := s.layer.Read(s.hello[:])
		s.first = s.hello[:n]
		return 0, err
	}
	return 0, s.handshake()
}

// Write fails before the handshake: net/http answers a client with which that was not possible.
func (s *secure) Write(p []byte) (int, error) {
	r := s.records.Load()
	if r == nil {
		return 0, errHandshake
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.whole.on.Load() {
		return s.writeRecords(*r, p)
	}
	n, err := (*r).Write(p)
	s.failed = s.failed || err != nil
	return n, err
}

// speaksHTTP2 tells whether the client has chosen HTTP/2.
func (s *secure) speaksHTTP2() bool { return s.state.NegotiatedProtocol == alpnHTTP2 }

// holds reports whether a part of a record has come, or of the handshake: a client may be
// about to send a request.
func (s *secure) holds() bool {
	if r := s.records.Load(); r != nil {
		return (*r).Holds()
	}
	return len(s.first) > 0
}

func (s *secure) pending() int64 {
	return s.layer.pending() + int64((*s.records.Load()).Pending())
}

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
	err := s.perform(c.server.ownsRecords())
	if err == nil {
		c.SetWriteDeadline(noDeadline)
		return nil
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

// perform performs the handshake. If own is set and the client speaks TLS 1.3, the record layer
// that follows is ours.
func (s *secure) perform(own bool) error {
	w := &wire{layer: s.layer, first: s.first}
	if own {
		w.secrets = new(secrets)
		defer w.secrets.clear()
	}
	over := tls.Server(w, s.config)
	if err := over.Handshake(); err != nil {
		return err
	}
	state := over.ConnectionState()
	return s.begin(over, w, &state)
}

// begin begins to protect what passes after a handshake.
func (s *secure) begin(over *tls.Conn, w *wire, state *tls.ConnectionState) error {
	if state.NegotiatedProtocol == alpnHTTP2 && state.Version <= tls.VersionTLS12 && strings.Contains(tls.CipherSuiteName(state.CipherSuite), "_CBC_") {
		return errors.New("HTTP/2 with a cipher suite that is prohibited for it") // RFC 9113, section 9.2.2
	}
	r := recordLayer(standard{over, w})
	if state.Version == tls.VersionTLS13 && w.secrets != nil {
		exported, err := w.secrets.state(state.CipherSuite)
		if err != nil {
			return err
		}
		if r, err = tls13.New(s.layer, exported); err != nil {
			return err
		}
	} else {
		w.end()
		s.owner.stay()
	}
	s.state = state
	s.records.Store(&r)
	return nil
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
	if s == nil || !s.writing.TryLock() {
		return
	}
	defer s.writing.Unlock()
	if mayWait || writable(s.layer) {
		s.closeRecords()
	}
}

// closeRecords sends a close_notify. It is called with the lock for writing.
func (s *secure) closeRecords() {
	if r := s.records.Load(); r != nil && !s.failed {
		(*r).CloseWrite() // waits for 5 seconds at most
	}
}

func (s *secure) CloseWrite() error {
	s.writing.Lock()
	s.closeRecords()
	s.writing.Unlock()
	return s.layer.CloseWrite()
}
