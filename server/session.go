package server

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/upgrade"
)

// Share migrates a share of the connections, from 0 to 1, to a successor that may yet be taken
// back, and returns at once. Nothing is closed by that, and no client notices.
//
// Of the connections that are open, and of those that will be accepted, the share is chosen at
// random, each once, and the first one in any case. A chosen connection migrates when it is next
// at rest, a new one before its first request. The others are served as if there were no
// successor; so is one that the successor does not take, or returns. With a share of 1 nothing
// is accepted any more from listeners that the successor has, though they stay open, and all
// connections migrate that can. Those that a handler has hijacked stay until Drain.
//
// Share may be called again with another share, which then holds for the connections that are
// left: what has migrated does not return by that. It has no effect once Drain has been called.
func (s *Server) Share(h upgrade.Handoff, share float64) {
	var next *migrator
	if share > 0 {
		next = s.newMigrator(context.Background(), h)
	}
	if next != nil && share < 1 {
		next.lottery = &lottery{share: share}
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.isDraining() {
		return
	}
	if s.before == nil {
		_, s.before = s.MigratedBy()
	}
	s.begin(next)
	s.unserved = nil
	for _, ln := range s.listeners {
		kept := h.Kept(ln.Listener)
		ln.pause(share >= 1 && kept)
		if share >= 1 && !kept {
			s.unserved = append(s.unserved, unserved{ln, ln.accepted.Load()})
		}
	}
	next.start()
}

// Reclaim ends what Share has begun. The server accepts again at once, and offers nothing any
// more. Reclaim returns when the successor has responded to what was offered before, or after two
// seconds if it hangs: then that migrates yet, or stays when the successor is gone. Connections
// go on as if nothing had been, and Share may be called again. Reclaim has no effect once Drain
// has been called.
func (s *Server) Reclaim() {
	s.changing.Lock()
	if s.isDraining() {
		s.changing.Unlock()
		return
	}
	s.begin(nil)
	s.before, s.unserved = nil, nil
	for _, ln := range s.listeners {
		ln.pause(false)
	}
	underway := slices.Clone(s.sessions)
	s.changing.Unlock()
	awaitAnswers(underway, migrateStall)
	s.changing.Lock()
	s.sessions = slices.DeleteFunc(s.sessions, (*migrator).isDone)
	s.changing.Unlock()
}

// migration is the sessions of a Server in which connections migrate. A session begins with
// Share or Drain, and ends when another one begins, with Reclaim or with the drain. There is one
// at most, beside what is still under way of earlier ones.
type migration struct {
	session atomic.Pointer[migrator] // nil: no connection migrates
	number  atomic.Uint64            // of the latest session

	changing sync.Mutex          // held while a session begins or ends
	sessions []*migrator         // those of which something may be under way
	before   map[Protocol]uint64 // what had migrated when Share was called first; nil: it was not
	unserved []unserved          // since Share was called with 1
}

// begin begins a session, which the caller then starts, or none with nil. It ends the one before.
// It is called with the lock held.
func (m *migration) begin(next *migrator) {
	m.sessions = slices.DeleteFunc(m.sessions, (*migrator).isDone)
	if next != nil {
		next.number = m.number.Add(1)
		m.sessions = append(m.sessions, next)
	}
	if last := m.session.Swap(next); last != nil {
		last.end()
	}
}

// stop ends the migration at the end of a drain. What is under way counts as taken, unless
// Migrate knows better.
func (m *migration) stop() {
	for _, session := range m.sessions {
		session.end()
		session.cancel()
	}
	awaitAnswers(m.sessions, afterDeadline)
}

// awaitAnswers waits until the successor has answered in sessions that have ended, for as long as
// patience.
func awaitAnswers(sessions []*migrator, patience time.Duration) {
	longest := time.NewTimer(patience)
	defer longest.Stop()
	for _, m := range sessions {
		select {
		case <-m.done:
		case <-longest.C:
			return
		}
	}
}

// abandon lets the readers of connections go on that still have no answer.
func (m *migration) abandon() {
	for _, session := range m.sessions {
		session.abandon()
	}
}
