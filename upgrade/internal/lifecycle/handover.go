package lifecycle

// confirmAndHandOver hands over to a successor of which tableflip has spoken already.
func (m *Machine) confirmAndHandOver(e Event) {
	m.confirm(e)
	m.handOver(e)
}

// handOverUnlinked hands over to a release that has no link to say what it claims.
func (m *Machine) handOverUnlinked(e Event) {
	m.confirm(e)
	m.emit(Action{Do: AssumeServing})
	m.handOver(e)
}

func (m *Machine) handOverUnheard(e Event) {
	if e.Kind == PatienceOver {
		m.emit(Action{Do: StopFlip})
	}
	m.warn("successor is ready but has sent nothing over the link; assuming that it serves")
	m.handOverUnlinked(e)
}

// handOver begins the end of this generation: the successor serves. First it gets what else
// belongs to the generation that serves: triggers, and the links to predecessors.
func (m *Machine) handOver(Event) {
	s := &m.successor
	m.endUnawaited()
	m.emit(Action{Do: HandOver, Trigger: s.trigger, Duration: s.took})
	m.hold()
	for _, timer := range []Kind{StartLate, DelayOver, PatienceOver, ReliefOver} {
		m.disarm(timer)
	}
	m.control = ControlOurs // the socket is closed: nothing opens it again
	if m.phase != Upgrading && s.protocol >= ordersSince {
		m.emit(Action{Do: SendStop})
	}
	m.enter(Passing) // from a stop as well: the successor was ready before it heard of that, and it will
	if t := m.pending; t != nil {
		m.pending = nil
		m.emit(Action{Do: Forward, Trigger: *t})
	}
	for _, p := range m.predecessors {
		m.startPassing(p)
	}
	m.drainToSuccessor()
}

// drainToSuccessor begins the drain when it is settled which predecessors the successor follows.
func (m *Machine) drainToSuccessor() {
	if m.phase != Passing || m.passing() {
		return
	}
	m.enter(Draining)
	m.emit(Action{Do: ReleasePipe})
	m.emit(Action{Do: DrainToSuccessor})
	if m.urgency == Urgent {
		m.emit(Action{Do: CutDrain})
	}
	m.report()
	if m.attempt == SucceededUnlinked {
		m.emit(Action{Do: WatchSuccessor})
	}
}
