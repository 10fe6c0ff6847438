package lifecycle

import "log/slog"

// Reserve says whether a generation that drains still has the listeners from which its
// successor accepts. Should that one die, they go to another process of this generation's own
// program, and no client is refused.
type Reserve int

const (
	// NoReserve: the successor does not serve yet.
	NoReserve Reserve = iota
	// Reserved: it has them.
	Reserved
	// Doubtful: it has them, but the successor has executed one of its own. If the successor
	// dies now, that one takes over.
	Doubtful
	// Released: it has closed them, or does not need them any more: the successor has stopped or
	// handed over, or a stop was requested.
	Released
)

// hold keeps the listeners of a successor that serves, if it will be known how that one ends.
func (m *Machine) hold() {
	s := &m.successor
	if s.reserve != NoReserve || s.pid == 0 || m.phase != Upgrading || m.attempt != Succeeded && m.attempt != SucceededUnlinked {
		return
	}
	s.reserve = Reserved
	m.emit(Action{Do: HoldListeners})
}

// release closes them: whoever stops the service wants its clients to be refused.
func (m *Machine) release(Event) {
	s := &m.successor
	if s.reserve == Reserved || s.reserve == Doubtful {
		m.emit(Action{Do: ReleaseListeners})
	}
	s.reserve = Released
}

// doubt notes that the successor has executed one of its own.
func (m *Machine) doubt(Event) {
	if s := &m.successor; s.reserve == Reserved {
		s.reserve = Doubtful
	}
}

// settle notes that it has not, or that this one has failed.
func (m *Machine) settle(Event) {
	if s := &m.successor; s.reserve == Doubtful {
		s.reserve = Reserved
	}
}

// replace has another process take over from a successor that has died.
func (m *Machine) replace(e Event) {
	s := &m.successor
	switch {
	case e.Younger:
		m.attempt = SucceededGone
		m.warn("serving generation died; the one that has executed it decides", "successor_pid", s.pid)
	case s.reserve != Reserved:
		m.attempt = SucceededGone
		m.release(e)
		m.orphan(e)
	default:
		s.reserve = Released
		m.emit(Action{Do: Log, Level: slog.LevelError, Text: "successor died after the takeover; executing this program again", Attrs: []any{"successor_pid", s.pid}})
		m.emit(Action{Do: Rescue, Trigger: s.trigger})
		m.emit(Action{Do: Revoke, Trigger: s.trigger})
		s.trigger.Waiters = nil
	}
}

// orphan gives up: whoever manages the service has to start it again.
func (m *Machine) orphan(e Event) {
	var attrs []any
	if e.Err != nil {
		attrs = []any{"error", e.Err}
	}
	m.emit(Action{Do: Log, Level: slog.LevelError, Text: "successor died after the takeover; no process accepts connections now", Attrs: attrs})
	m.emit(Action{Do: Orphaned})
}
