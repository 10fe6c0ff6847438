package server

// IsDraining tells whether responses announce the end of their connection.
func (s *Server) IsDraining() bool { return s.isDraining.Load() }
