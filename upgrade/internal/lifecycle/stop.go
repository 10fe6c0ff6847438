package lifecycle

// stop begins the end of the service.
func (m *Machine) stop(e Event) {
	m.log("stop requested", "by", e.By, "delay", m.config.ShutdownDelay.String())
	m.emit(Action{Do: BeginStop})
	m.enter(Stopping)
	m.reportToAll()
	if t := m.pending; t != nil {
		m.pending = nil
		m.emit(Action{Do: Refuse, Trigger: *t})
	}
	m.arm(DelayOver, m.config.ShutdownDelay)
	switch {
	case m.committing(): // it hears of the stop after that
		m.arm(PatienceOver, commitPatience)
	case m.attempt == Trying, m.attempt == Watching:
		m.takeBack(Request, "the service stops")
	case m.attempt != None && m.attempt != TakingBack:
		// It may serve already, and must not be killed then: it ends by itself, in whichever
		// way is right for it.
		m.emit(Action{Do: SendStop})
		m.arm(PatienceOver, stopPatience)
	}
}

// stopAgain takes another request to stop. A second signal to this process ends all waiting.
func (m *Machine) stopAgain(e Event) {
	if m.urgency < Urgent {
		m.log("stop requested; already stopping", "by", e.By)
		return
	}
	m.warn("stop requested again; closing connections forcibly", "by", e.By)
	switch m.phase {
	case Stopping, StopDue:
		m.disarm(PatienceOver)
		m.handleSuccessor(Event{Kind: PatienceOver, Now: m.now})
		if m.phase == Stopping {
			m.disarm(DelayOver)
			m.delayOver(e)
		}
	case StopDraining:
		m.emit(Action{Do: CutDrain})
	case StopWaiting:
		m.close(e)
	}
}

// stopElsewhere takes a request to stop when a successor serves.
func (m *Machine) stopElsewhere(e Event) {
	m.release(e)
	if m.urgency < Urgent {
		m.log("stop requested; draining continues, since a successor serves", "by", e.By)
		return
	}
	m.warn("stop requested again; closing connections forcibly", "by", e.By)
	switch m.phase {
	case Draining:
		m.emit(Action{Do: CutDrain})
	case Waiting:
		m.close(e)
	}
}

func (m *Machine) delayOver(Event) {
	if m.attempt != None {
		m.enter(StopDue)
		return
	}
	m.drainForStop()
}

// drainForStop drains: the shutdown delay is over, and no successor can take over any more.
func (m *Machine) drainForStop() {
	m.enter(StopDraining)
	m.emit(Action{Do: DrainForStop})
	if m.urgency == Urgent {
		m.emit(Action{Do: CutDrain})
	}
}

// drained goes on after the drain, with the hooks or with waiting for predecessors that no
// successor looks after: with the last generation systemd, or a container, ends all that is
// left.
func (m *Machine) drained(e Event) {
	if !m.waits() {
		m.enter(map[Phase]Phase{StopDraining: StopClosing, Draining: Closing}[m.phase])
		m.runHooks()
		return
	}
	m.enter(map[Phase]Phase{StopDraining: StopWaiting, Draining: Waiting}[m.phase])
	m.log("drained; waiting for predecessors that are still draining")
}

// close ends the waiting if nothing is left to wait for.
func (m *Machine) close(Event) {
	next, ok := map[Phase]Phase{StopWaiting: StopClosing, Waiting: Closing}[m.phase]
	if ok && !m.waits() {
		m.enter(next)
		m.runHooks()
	}
}

func (m *Machine) waits() bool {
	return (len(m.predecessors) > 0 || m.gate == GateHeldUnlinked) && m.urgency != Urgent
}

func (m *Machine) runHooks() {
	do := RunHooks
	if m.phase == StopClosing {
		do = RunStopHooks
	}
	m.emit(Action{Do: Account})
	m.emit(Action{Do: do})
}
