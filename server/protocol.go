package server

// Protocol is what a connection speaks that migrates.
type Protocol uint8

// The protocols, each without and with TLS.
const (
	HTTP1 Protocol = iota
	HTTP1OverTLS
	HTTP2
	HTTP2OverTLS
	Tunnel // a handler has taken the connection over: a WebSocket, say
	TunnelOverTLS
)

var protocolNames = [...]string{
	HTTP1:         "http/1.1",
	HTTP1OverTLS:  "http/1.1+tls",
	HTTP2:         "http/2",
	HTTP2OverTLS:  "http/2+tls",
	Tunnel:        "tunnel",
	TunnelOverTLS: "tunnel+tls",
}

// String returns the name of the protocol in metrics, logs and reports.
func (p Protocol) String() string { return protocolNames[p] }

// protocol returns what a connection speaks of which this is the transfer.
func (t transfer) protocol() (p Protocol) {
	switch {
	case t.Tunnel != nil:
		p = Tunnel
	case t.HTTP2 != nil:
		p = HTTP2
	}
	if t.TLS != nil {
		p++
	}
	return p
}

// migrations counts connections that have migrated, in one direction.
type migrations [len(protocolNames)]uint64

// noteArrival counts a connection that has come from the predecessor.
func (s *Server) noteArrival(p Protocol) {
	s.migrated.mu.Lock()
	defer s.migrated.mu.Unlock()
	s.migrated.in[p]++
}

// noteDeparture counts one that has gone to the successor.
func (s *Server) noteDeparture(p Protocol) {
	s.migrated.mu.Lock()
	defer s.migrated.mu.Unlock()
	s.migrated.out[p]++
}

// MigratedBy returns, for each protocol, how many connections have come from the predecessor
// and how many have gone to the successor. Neither is counted as accepted or closed by it.
func (s *Server) MigratedBy() (in, out map[Protocol]uint64) {
	in, out = make(map[Protocol]uint64), make(map[Protocol]uint64)
	s.migrated.mu.Lock()
	defer s.migrated.mu.Unlock()
	for p := range protocolNames {
		in[Protocol(p)], out[Protocol(p)] = s.migrated.in[p], s.migrated.out[p]
	}
	return in, out
}

// migratedSince returns how many have gone since there was that many, by the protocol's name.
func (s *Server) migratedSince(before map[Protocol]uint64) (sum int, by map[string]int) {
	_, out := s.MigratedBy()
	for p, n := range out {
		if n -= before[p]; n > 0 {
			if by == nil {
				by = make(map[string]int)
			}
			by[p.String()] = int(n)
			sum += int(n)
		}
	}
	return sum, by
}
