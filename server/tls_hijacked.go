package server

import (
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/server/internal/tls13"
)

// recordPatience is how long a Read that is to return, because the handler wants the connection
// to migrate, waits for the rest of a record whose beginning it has read.
const recordPatience = 500 * time.Millisecond

// wholeRecords lets a handler that has hijacked a connection interrupt its Writes, by a
// deadline, without ending the record layer: a Write waits until the client takes something,
// which may end with the deadline, and then writes a record, which may not.
type wholeRecords struct {
	on       atomic.Bool
	mu       sync.Mutex
	waiting  bool
	deadline time.Time
}

// hijack is called when a handler has taken the connection over.
func (s *secure) hijack() {
	if s == nil {
		return
	}
	if _, own := (*s.records.Load()).(*tls13.Conn); own {
		s.whole.on.Store(true)
	}
}

// SetWriteDeadline sets the deadline of the socket, or of waiting for it.
func (s *secure) SetWriteDeadline(t time.Time) error {
	s.whole.mu.Lock()
	defer s.whole.mu.Unlock()
	s.whole.deadline = t
	if s.whole.on.Load() && !s.whole.waiting {
		return nil
	}
	return s.layer.SetWriteDeadline(t)
}

// writeRecords is Write of a hijacked connection.
func (s *secure) writeRecords(r recordLayer, p []byte) (written int, err error) {
	for len(p) > 0 {
		if err := s.awaitWritable(); err != nil {
			return written, err
		}
		n, err := r.Write(p[:min(len(p), maxRecord)])
		if err != nil {
			s.failed = true
			return written, err
		}
		written, p = written+n, p[n:]
	}
	return written, nil
}

// maxRecord is how many bytes fit into a record.
const maxRecord = 16 << 10

// awaitWritable waits until the client takes something, or the deadline passes.
func (s *secure) awaitWritable() error {
	s.await(true)
	defer s.await(false)
	socket := &s.owner.socket
	_, err := socket.progress(func(int64) (int64, error) { return 0, awaitWritable(socket.Conn) })
	return err
}

// await begins or ends to wait for the socket, to which the deadline applies meanwhile.
func (s *secure) await(begin bool) {
	s.whole.mu.Lock()
	defer s.whole.mu.Unlock()
	s.whole.waiting = begin
	t := noDeadline
	if begin {
		t = s.whole.deadline
	}
	s.layer.SetWriteDeadline(t)
}

// readsOn reports whether a Read whose deadline has passed waits for the rest of a record: the
// handler wants the connection to migrate, and it could not with a part of one. It is called
// with the lock held.
func (c *conn) readsOn(err error) bool {
	if c.tunnel == nil || result(err) != boundary.Timeout || !c.layer.holds() || c.mayBeOffered() == nil {
		return false
	}
	c.layer.SetReadDeadline(time.Now().Add(recordPatience))
	return true
}
