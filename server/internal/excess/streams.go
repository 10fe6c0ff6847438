package excess

import "sync"

// streams are the requests of an HTTP/2 connection that have begun and neither been
// answered nor reset. It is safe for concurrent use.
type streams struct {
	mu   sync.Mutex
	last uint32 // the latest that has begun
	open map[uint32]struct{}
}

// maxStreams is beyond what net/http lets be open, or waits to reset.
const maxStreams = 20_000

func newStreams() *streams { return &streams{open: make(map[uint32]struct{})} }

// begin notes a header block of the client's, which is that of a request or a trailer.
func (s *streams) begin(id uint32) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id > s.last {
		s.last = id
		s.open[id] = struct{}{}
	}
	return len(s.open) <= maxStreams
}

// end reports whether a stream has been open until now.
func (s *streams) end(id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, open := s.open[id]
	delete(s.open, id)
	return open
}

func (s *streams) latest() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *streams) isOpen(id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, open := s.open[id]
	return open
}
