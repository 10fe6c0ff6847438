package server

import (
	"net"
	"time"
)

// Queue returns how many bytes the other end has not confirmed.
func Queue(nc net.Conn) int { return queue(nc) }

// IsDraining tells whether responses announce the end of their connection.
func (s *Server) IsDraining() bool { return s.isDraining() }

// BreakSafePoint lets net/http behave as it does not: the states of its
// connections are not told.
func (s *Server) BreakSafePoint() { s.http.ConnState = nil }

// Woken returns how many idle connections are on their way in a drain.
func (s *Server) Woken() int { return len(s.session.Load().window) }

// Window returns the window of the session, with an element for each connection that is woken.
func (s *Server) Window() <-chan struct{} { return s.session.Load().window }

// BreakHTTP2Drain has the server know that net/http does not end connections as
// expected.
func (s *Server) BreakHTTP2Drain() {
	s.http2 = func() http2Support { return http2Support{speaks: true} }
}

// FailFor returns what is known of a listener that has failed to accept for a
// while, and after it has accepted again.
func FailFor(err error) (failing, recovered error) {
	var f failures
	begin := time.Now()
	for after := time.Duration(0); after <= unhealthyAfter; after += time.Second {
		if failing == nil {
			f.add(err, begin.Add(after))
		}
		failing = f.lasting(begin.Add(after))
	}
	f.reset()
	return failing, f.lasting(begin.Add(time.Hour))
}

// DisableTLSMigration has the server know that crypto/tls does not perform a handshake as
// expected.
func (s *Server) DisableTLSMigration() { s.tls13 = func() bool { return false } }

// Migrated returns the sums of what MigratedBy does.
func (s *Server) Migrated() (in, out uint64) {
	s.migrated.mu.Lock()
	defer s.migrated.mu.Unlock()
	return s.migrated.in.sum(), s.migrated.out.sum()
}

func (m migrations) sum() (n uint64) {
	for _, of := range m {
		n += of
	}
	return n
}
