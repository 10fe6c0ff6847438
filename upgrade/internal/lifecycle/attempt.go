package lifecycle

import (
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Attempt is what a generation knows of its successor.
type Attempt int

const (
	// None: there is no successor.
	None Attempt = iota
	// Executing: it was executed, and nothing was heard of it.
	Executing
	// ExecutingUnlinked: nor will be, since its link has ended: a release that has no link,
	// or one that has failed. tableflip will say which.
	ExecutingUnlinked
	// Greeted: it has said hello over the link.
	Greeted
	// TakingOver: it was told to accept. This generation accepts as well until the successor has
	// committed, so that one that dies before costs no more than what it has accepted itself.
	TakingOver
	// Confirmed: it serves, was told to commit, and tableflip has not said so yet.
	Confirmed
	// ConfirmedUnlinked: as Confirmed, and its link has ended since.
	ConfirmedUnlinked
	// ConfirmedStopped: as Confirmed, and it has stopped since.
	ConfirmedStopped
	// Ready: tableflip has passed the point of no return, and nothing was heard of it.
	Ready
	// ReadyGreeted: as Ready, and it has said hello. This generation accepts as well until
	// the successor serves, so that one that dies as it becomes ready costs nothing.
	ReadyGreeted
	// Dismissed: it was given up. The attempt is over when its process has exited, so that
	// one generation is left, and when tableflip has returned.
	Dismissed
	// DismissedExited: tableflip has yet to return.
	DismissedExited
	// DismissedReturned: the process has yet to exit.
	DismissedReturned
	// Succeeded: it serves, and this generation drains.
	Succeeded
	// SucceededUnlinked: as Succeeded, and its link has ended. Why is being found out.
	SucceededUnlinked
	// SucceededLost: as Succeeded, and its link is lost. It lives.
	SucceededLost
	// SucceededGone: as Succeeded, and no more will be heard of it.
	SucceededGone
)

// successor is the data of an attempt.
type successor struct {
	trigger  Trigger
	begun    time.Time
	took     time.Duration // from the trigger until it served
	reason   string        // why it was dismissed
	version  string
	pid      int
	protocol int // of the link; 0: unknown
}

// attemptRule is what an event does to an attempt: the next state, and what goes with it.
type attemptRule struct {
	to Attempt
	do rule // nil: nothing
}

// attemptRules is the table of attempts.
var attemptRules = map[Attempt]map[Kind]attemptRule{
	Executing: {
		Hello:               {Greeted, (*Machine).noteHello},
		SuccessorLinkEnded:  {ExecutingUnlinked, nil},
		SuccessorLinkClosed: {ExecutingUnlinked, nil},
		FlipAccepted:        {Ready, (*Machine).awaitServing},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver:        {Executing, emits(StopFlip)},
	},
	ExecutingUnlinked: {
		FlipAccepted: {SucceededGone, (*Machine).handOverUnlinked},
		FlipFailed:   {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver: {ExecutingUnlinked, emits(StopFlip)},
	},
	Greeted: {
		SuccessorPrepared:   {TakingOver, (*Machine).letTakeOver},
		SuccessorServes:     {Confirmed, (*Machine).confirm},
		SuccessorLinkEnded:  {Dismissed, (*Machine).dismissUnlinked},
		SuccessorLinkClosed: {Dismissed, (*Machine).dismissUnlinked},
		FlipAccepted:        {ReadyGreeted, (*Machine).awaitServing},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver:        {Greeted, emits(StopFlip)},
	},
	TakingOver: {
		SuccessorServes:     {Confirmed, (*Machine).confirmAndCommit},
		SuccessorLinkEnded:  {Dismissed, (*Machine).dismissUnlinked},
		SuccessorLinkClosed: {Dismissed, (*Machine).dismissUnlinked},
		FlipAccepted:        {ReadyGreeted, (*Machine).awaitServing},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver:        {TakingOver, emits(StopFlip)},
	},
	Confirmed: {
		SuccessorLinkEnded:  {ConfirmedUnlinked, nil},
		SuccessorLinkClosed: {ConfirmedStopped, nil},
		FlipAccepted:        {Succeeded, (*Machine).handOver},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver:        {Confirmed, emits(StopFlip)},
	},
	ConfirmedUnlinked: {
		FlipAccepted: {SucceededUnlinked, (*Machine).handOver},
		FlipFailed:   {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver: {ConfirmedUnlinked, emits(StopFlip)},
	},
	ConfirmedStopped: {
		FlipAccepted: {SucceededGone, (*Machine).handOver},
		FlipFailed:   {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver: {ConfirmedStopped, emits(StopFlip)},
	},
	Ready: {
		Hello:               {ReadyGreeted, (*Machine).noteHello},
		SuccessorLinkEnded:  {SucceededGone, (*Machine).handOverUnlinked},
		SuccessorLinkClosed: {SucceededGone, (*Machine).handOverUnlinked},
		// It cannot be killed, since its pid is not known: tableflip's word has to do.
		ReadyLate:    {Succeeded, (*Machine).handOverUnheard},
		PatienceOver: {Succeeded, (*Machine).handOverUnheard},
	},
	ReadyGreeted: {
		SuccessorServes:     {Succeeded, (*Machine).confirmAndHandOver},
		SuccessorLinkEnded:  {DismissedReturned, (*Machine).dismissVanished},
		SuccessorLinkClosed: {DismissedReturned, (*Machine).dismissVanished},
		ReadyLate:           {DismissedReturned, (*Machine).dismissLate},
		PatienceOver:        {DismissedReturned, (*Machine).dismissForStop},
	},
	Dismissed: {
		SuccessorExited: {DismissedExited, (*Machine).noteExit},
		FlipAccepted:    {DismissedReturned, nil},
		FlipFailed:      {DismissedReturned, nil},
		PatienceOver:    {Dismissed, emits(StopFlip)},
	},
	DismissedExited: {
		FlipAccepted: {None, (*Machine).concludeDismissal},
		FlipFailed:   {None, (*Machine).concludeDismissal},
		PatienceOver: {DismissedExited, emits(StopFlip)},
	},
	DismissedReturned: {
		SuccessorExited: {None, (*Machine).concludeDismissal},
	},
	Succeeded: {
		Hello:               {Succeeded, (*Machine).noteAnother},
		SuccessorLinkEnded:  {SucceededUnlinked, emits(WatchSuccessor)},
		SuccessorLinkClosed: {SucceededGone, nil},
	},
	SucceededUnlinked: {
		SuccessorLost:   {SucceededLost, (*Machine).lose},
		SuccessorExited: {SucceededGone, (*Machine).orphan},
	},
	SucceededLost: {
		SuccessorExited: {SucceededGone, nil}, // it may have stopped, or handed over
	},
	SucceededGone: {},
}

// handleSuccessor takes an event of the attempt.
func (m *Machine) handleSuccessor(e Event) {
	s, ok := attemptRules[m.attempt][e.Kind]
	if !ok {
		return
	}
	m.attempt = s.to
	if s.do != nil {
		s.do(m, e)
	}
}

// linked reports whether the successor can be sent something.
func (a Attempt) linked() bool {
	return slices.Contains([]Attempt{Executing, Greeted, TakingOver, Confirmed, Ready, ReadyGreeted, Succeeded}, a)
}

// execute begins an upgrade.
func (m *Machine) execute(t Trigger) {
	m.enter(Upgrading)
	m.attempt = Executing
	if len(t.Origins) > 0 {
		t.Origins = slices.Clone(m.hangup.origins)
	}
	m.successor = successor{trigger: t, begun: m.now}
	m.log("upgrade started", "by", t.By)
	m.emit(Action{Do: Progress, Trigger: t, Text: fmt.Sprintf("generation %d starts", m.config.Generation+1)})
	m.emit(Action{Do: Execute, Trigger: t})
}

func (m *Machine) noteHello(e Event) {
	s := &m.successor
	s.pid, s.version, s.protocol = e.PID, e.Version, e.Protocol
	m.emit(Action{Do: Report})
	m.arm(ReportDue, reportInterval)
	m.log("successor started", "successor_pid", e.PID, "successor_version", e.Version)
	m.emit(Action{Do: Progress, Trigger: s.trigger,
		Text: fmt.Sprintf("generation %d (pid %d, version %s) starts", m.config.Generation+1, e.PID, e.Version)})
}

func (m *Machine) noteAnother(e Event) {
	m.log("another generation serves already", "successor_pid", e.PID, "successor_version", e.Version)
}

// report sends what this generation has counted to the successor, and what the drain waits
// for to the waiters.
func (m *Machine) report() {
	if m.attempt == None {
		return
	}
	if m.attempt.linked() {
		m.emit(Action{Do: Report})
	}
	if m.phase.handedOver() {
		m.emit(Action{Do: DrainProgress, Trigger: m.successor.trigger, Duration: m.successor.took})
	}
	m.arm(ReportDue, reportInterval)
}

// letTakeOver has the successor accept, unless the service stops.
func (m *Machine) letTakeOver(Event) {
	if m.phase != Upgrading {
		m.attempt = Greeted
		return
	}
	m.emit(Action{Do: SendTakeOver})
}

// committing reports whether the successor serves, or is about to, and will commit.
func (m *Machine) committing() bool {
	return m.attempt == TakingOver || m.attempt == Confirmed && m.successor.protocol >= ordersSince
}

func (m *Machine) confirmAndCommit(e Event) {
	m.confirm(e)
	m.emit(Action{Do: SendCommit})
}

func (m *Machine) confirm(Event) { m.successor.took = m.now.Sub(m.successor.trigger.At) }

// awaitServing gives a successor that is ready the rest of its time to serve; tableflip does
// so only before that.
func (m *Machine) awaitServing(Event) {
	m.arm(ReadyLate, m.config.UpgradeTimeout-m.now.Sub(m.successor.begun))
}

// dismiss gives a successor up. After the grace it is killed.
func (m *Machine) dismiss(reason string, grace time.Duration) {
	m.successor.reason = reason
	m.disarm(ReadyLate)
	m.emit(Action{Do: Dismiss, Duration: grace})
}

func (m *Machine) dismissFailed(e Event) {
	limit := m.config.UpgradeTimeout
	if m.now.Sub(m.successor.begun) >= limit {
		m.dismiss(fmt.Sprintf("successor was not ready within %s and was killed", limit), 0)
		return
	}
	m.dismiss(fmt.Sprintf("successor failed: %v", e.Err), 0)
}

func (m *Machine) dismissUnlinked(Event) {
	m.dismiss("link to the successor ended before it was ready; it was killed", 0)
}

func (m *Machine) dismissVanished(Event) {
	m.dismiss("link to the successor broke as it became ready; it was killed", exitGrace)
}

func (m *Machine) dismissLate(Event) {
	m.dismiss(fmt.Sprintf("successor was ready but did not serve within %s and was killed", m.config.UpgradeTimeout), 0)
}

func (m *Machine) dismissForStop(Event) {
	m.emit(Action{Do: StopFlip})
	m.dismiss("the service stops", 0)
}

func (m *Machine) noteExit(e Event) {
	if e.InGrace {
		m.successor.reason = "successor died as it became ready"
	}
}

// concludeDismissal ends an attempt whose successor has exited and of which tableflip has
// returned: this generation serves on, or stops.
func (m *Machine) concludeDismissal(e Event) {
	m.noteExit(e)
	s := m.successor
	m.successor = successor{}
	m.disarm(ReportDue)
	switch m.phase {
	case Stopping, StopDue:
		m.disarm(PatienceOver)
		m.emit(Action{Do: Abandon})
		m.emit(Action{Do: Refuse, Trigger: s.trigger})
		if m.phase == StopDue {
			m.drainForStop()
		}
	default:
		m.emit(Action{Do: Fail, Trigger: s.trigger, Text: s.reason})
		m.enter(Serving)
		m.startPending(e)
	}
}

func (m *Machine) lose(Event) { m.warn("link to the serving generation is lost") }

func (m *Machine) orphan(Event) {
	m.emit(Action{Do: Log, Level: slog.LevelError, Text: "successor died after the takeover; no process accepts connections now"})
	m.emit(Action{Do: Orphaned})
}
