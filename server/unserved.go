package server

// unserved is a listener that the successor does not have.
type unserved struct {
	listener *listener
	before   uint64 // connections that had been accepted when the successor took over
}

// Unserved returns the address of the listener to which most clients have connected since [Server.Share]
// was called with a share of 1, of those that the successor does not have, and how many they are. Without
// any it returns an empty address.
func (s *Server) Unserved() (address string, connections uint64) {
	s.changing.Lock()
	defer s.changing.Unlock()
	for _, u := range s.unserved {
		if n := u.listener.accepted.Load() - u.before; n > connections {
			address, connections = u.listener.Addr().String(), n
		}
	}
	return address, connections
}

// Unserved returns that of the public server.
func (p *Pair) Unserved() (address string, connections uint64) { return p.Public.Unserved() }
