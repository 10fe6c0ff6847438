package server

// IsDraining tells whether responses announce the end of their connection.
func (s *Server) IsDraining() bool { return s.isDraining.Load() }

// BreakSafePoint lets net/http behave as it does not: the states of its
// connections are not told.
func (s *Server) BreakSafePoint() { s.http.ConnState = nil }

// Woken returns how many silent connections are on their way in a drain.
func (s *Server) Woken() int { return len(s.moving.window) }
