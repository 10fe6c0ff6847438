package server

import (
	"sync"
	"sync/atomic"
	"time"
)

// migration is the sessions of a Server in which connections migrate. A session begins with a
// drain. There is one at most at a time.
type migration struct {
	session atomic.Pointer[migrator] // nil: no connection migrates

	changing sync.Mutex
	number   uint64      // of the latest session
	sessions []*migrator // those of which something may be under way
}

// begin begins a session, which ends the one before. With nil none follows. The caller then
// starts the migrator.
func (m *migration) begin(next *migrator) {
	m.changing.Lock()
	defer m.changing.Unlock()
	if next != nil {
		m.number++
		next.number = m.number
		m.sessions = append(m.sessions, next)
	}
	if last := m.session.Swap(next); last != nil {
		last.end()
	}
}

// underway returns the sessions of which something may be under way.
func (m *migration) underway() []*migrator {
	m.changing.Lock()
	defer m.changing.Unlock()
	return m.sessions
}

// stop ends the migration at the end of a drain. What is under way counts as taken, unless
// Migrate knows better.
func (m *migration) stop() {
	patience := time.NewTimer(afterDeadline)
	defer patience.Stop()
	for _, session := range m.underway() {
		session.end()
		session.cancel()
	}
	for _, session := range m.underway() {
		select {
		case <-session.done:
		case <-patience.C:
			return
		}
	}
}

// abandon lets the readers of connections go on that still have no answer.
func (m *migration) abandon() {
	for _, session := range m.underway() {
		session.abandon()
	}
}
