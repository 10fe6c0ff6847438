package lifecycle

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// Predecessor is what a generation knows of one before it.
type Predecessor int

const (
	// Linked: it lives, and can be heard.
	Linked Predecessor = iota
	// Reported: it has sent its last report, and is about to exit.
	Reported
	// Unlinked: its link has ended. Why is being found out.
	Unlinked
	// Lost: its link has ended, and it lives. It drains, or does not know that it should: it
	// may not stay beyond the time for that.
	Lost
	// Releasing: its link is about to be given to the successor.
	Releasing
	// ReleasingReported: as Releasing, and it has sent its last report.
	ReleasingReported
	// InTransit: its link is given to the successor.
	InTransit
	// Passed: the successor has its link.
	Passed
	// Gone: it has exited.
	Gone
)

// predecessor is one of them.
type predecessor struct {
	Member
	state Predecessor
}

// setDue sets when it should have exited, if that is not known yet.
func (p *predecessor) setDue(now time.Time) {
	if p.Due.IsZero() && p.Drain > 0 {
		p.Due = now.Add(p.Drain + overstay)
	}
}

// predecessorRule is what an event does to a predecessor: the next state, and what goes with it.
type predecessorRule struct {
	to Predecessor
	do func(*Machine, *predecessor) // nil: nothing
}

// predecessorRules is the table of predecessors.
var predecessorRules = map[Predecessor]map[Kind]predecessorRule{
	Linked: {
		PredecessorDrained:  {Reported, nil},
		PredecessorUnlinked: {Unlinked, (*Machine).watch},
		PredecessorLost:     {Lost, (*Machine).losePredecessor},
		PredecessorExited:   {Gone, (*Machine).forgetUnreported},
	},
	Reported: {
		PredecessorUnlinked: {Gone, (*Machine).forgetReported},
		PredecessorExited:   {Gone, (*Machine).forgetReported},
	},
	Unlinked: {
		PredecessorLost:   {Lost, (*Machine).losePredecessor},
		PredecessorExited: {Gone, (*Machine).forgetUnreported},
	},
	Lost: {
		PredecessorExited: {Gone, (*Machine).forgetUnreported},
	},
	Releasing: {
		PredecessorDrained: {ReleasingReported, nil},
		LinkReleased:       {InTransit, (*Machine).passLink},
	},
	ReleasingReported: {
		LinkReleased: {Reported, acts(FollowLink)},
	},
	InTransit: {
		LinkPassed: {Passed, nil},
		LinkKept:   {Linked, acts(FollowLink)},
	},
}

// acts is what one action does about a predecessor.
func acts(do Verb) func(*Machine, *predecessor) {
	return func(m *Machine, p *predecessor) { m.emit(Action{Do: do, ID: p.ID}) }
}

// handlePredecessor takes an event of a predecessor.
func (m *Machine) handlePredecessor(e Event) {
	if e.Kind == PredecessorAdded {
		m.add(e.Member)
		m.watchDue()
		return
	}
	i := slices.IndexFunc(m.predecessors, func(p *predecessor) bool { return p.ID == e.ID })
	if i < 0 {
		return
	}
	p := m.predecessors[i]
	next, ok := predecessorRules[p.state][e.Kind]
	if !ok {
		return
	}
	p.state = next.to
	if p.state == Passed || p.state == Gone {
		m.predecessors = slices.Delete(m.predecessors, i, i+1)
	}
	if next.do != nil {
		next.do(m, p)
	}
	m.drainToSuccessor()
}

func (m *Machine) add(member Member) {
	m.predecessors = append(m.predecessors, &predecessor{Member: member})
	slices.SortStableFunc(m.predecessors, func(a, b *predecessor) int { return cmp.Compare(a.Generation, b.Generation) })
}

// unknown reports whether there is a predecessor of which nobody knows whether it lives.
func (m *Machine) unknown() bool {
	return slices.ContainsFunc(m.predecessors, func(p *predecessor) bool { return p.state == Unlinked })
}

// passing reports whether it is not settled yet which predecessors the successor follows.
func (m *Machine) passing() bool {
	return slices.ContainsFunc(m.predecessors, func(p *predecessor) bool {
		return p.state == Releasing || p.state == ReleasingReported || p.state == InTransit
	})
}

// startPassing gives the link to a predecessor to the successor. One that cannot be given, or has
// nothing more to do than to exit, is followed on, which keeps this generation alive as long.
func (m *Machine) startPassing(p *predecessor) {
	switch {
	case p.state == Unlinked, p.state == Lost:
	case p.state == Linked && m.successor.protocol >= 2 && p.Protocol >= 2 && m.attempt.linked():
		p.state = Releasing
		m.emit(Action{Do: ReleaseLink, ID: p.ID})
	default:
		m.emit(Action{Do: ReportTo, ID: p.ID})
	}
}

func (m *Machine) passLink(p *predecessor) { m.emit(Action{Do: PassLink, ID: p.ID, At: p.Due}) }

func (m *Machine) watch(p *predecessor) {
	m.leaveControl(p)
	m.emit(Action{Do: Watch, ID: p.ID})
}

var errLost = errors.New("the link to the predecessor is lost, and the predecessor still serves")

func (m *Machine) losePredecessor(p *predecessor) {
	m.leaveControl(p)
	if m.phase.starting() {
		if m.failure == nil {
			m.unfit(Event{Err: errLost}) // the predecessor serves, and could not tell it to stop
		}
		return
	}
	m.warn("link to the predecessor is lost; waiting for it to exit", "predecessor", p.Generation, "predecessor_pid", p.PID)
	p.setDue(m.now)
	m.watchDue()
}

func (m *Machine) forgetUnreported(p *predecessor) {
	m.forget(p)
	m.warn("predecessor exited without a report; its requests and connections are lost", "predecessor", p.Generation)
	m.resume(Event{})
}

func (m *Machine) forgetReported(p *predecessor) {
	m.forget(p)
	m.log("predecessor exited", "predecessor", p.Generation)
	m.resume(Event{})
}

func (m *Machine) forget(p *predecessor) {
	m.leaveControl(p)
	if m.phase.starting() { // nobody reads the pipe any more
		m.emit(Action{Do: RestoreStderr})
	}
	m.emit(Action{Do: Forget, ID: p.ID})
}

// leaveControl notes that the predecessor which executed this generation does not answer on
// the control socket any more.
func (m *Machine) leaveControl(p *predecessor) {
	if d := m.config.Predecessor; d != nil && d.ID == p.ID {
		m.relieve()
	}
}

// reportToAll has all predecessors know in which state this generation is, whatever becomes of it.
func (m *Machine) reportToAll() {
	for _, p := range m.predecessors {
		m.emit(Action{Do: ReportTo, ID: p.ID})
	}
}

// watchDue arms the timer for the next predecessor that should have exited.
func (m *Machine) watchDue() {
	var next time.Time
	for _, p := range m.predecessors {
		if !p.Due.IsZero() && (next.IsZero() || p.Due.Before(next)) {
			next = p.Due
		}
	}
	if next.IsZero() {
		m.disarm(PredecessorDue)
		return
	}
	m.arm(PredecessorDue, next.Sub(m.now))
}

// killOverdue ends predecessors that hang or were stopped: while they live, others may have
// to wait.
func (m *Machine) killOverdue() {
	for _, p := range m.predecessors {
		if p.Due.IsZero() || m.now.Before(p.Due) {
			continue
		}
		p.Due = time.Time{}
		m.warn("predecessor has outlived its drain; killing it", "predecessor", p.Generation, "predecessor_pid", p.PID)
		m.emit(Action{Do: Kill, ID: p.ID})
	}
	m.watchDue()
}
