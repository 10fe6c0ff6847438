package lifecycle

import (
	"cmp"
	"fmt"
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
	// Trying: it serves a share of the connections, and accepts none.
	Trying
	// TakingOver: it was ordered to accept. This generation accepts as well until the successor has
	// committed, so that one that dies before costs no more than what it has accepted itself.
	TakingOver
	// Watching: it accepts in place of this generation, which can take back.
	Watching
	// TakingBack: it returns what it has, and is to exit. This generation accepts.
	TakingBack
	// Confirmed: it serves, was ordered to commit, and tableflip has not said so yet.
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
	// Replaced: it has died, and another process takes over. This generation drains.
	Replaced
	// SucceededGone: as Succeeded, and no more will be heard of it.
	SucceededGone
)

// successor is the data of an attempt: what each stage leaves for those after it, and for the account.
type successor struct {
	trigger  Trigger
	begun    time.Time
	took     time.Duration // from the trigger until it served
	stage    Stage
	shared   bool      // connections are, or were, shared with it
	ends     time.Time // the stage
	verdict  Verdict
	numbers  string // of the last comparison
	shown    time.Time
	reserve  Reserve
	reason   string // why it was dismissed
	early    string // why it was, if it has exited before it was killed; empty: the same
	version  string
	pid      int
	protocol int // of the link; 0: unknown
}

// attemptRule is what an event does to an attempt: the next state, and what goes with it, which
// may lead further at once, as the end of a trial does that was not asked for.
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
		FlipAccepted:        {Ready, nil},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		StartLate:           {Executing, (*Machine).killUnknown},
		PatienceOver:        {Executing, emits(StopFlip)},
	},
	ExecutingUnlinked: {
		FlipAccepted: {SucceededGone, (*Machine).handOverUnlinked},
		FlipFailed:   {DismissedReturned, (*Machine).dismissFailed},
		StartLate:    {ExecutingUnlinked, (*Machine).killUnknown},
		PatienceOver: {ExecutingUnlinked, emits(StopFlip)},
	},
	Greeted: {
		SuccessorPrepared:   {Trying, (*Machine).try},
		SuccessorServes:     {Confirmed, (*Machine).confirm},
		SuccessorLinkEnded:  {Dismissed, (*Machine).dismissUnlinked},
		SuccessorLinkClosed: {Dismissed, (*Machine).dismissUnlinked},
		FlipAccepted:        {ReadyGreeted, nil},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		StartLate:           {Dismissed, (*Machine).dismissLate},
		PatienceOver:        {Greeted, emits(StopFlip)},
	},
	Trying: {
		Judged:              {Trying, (*Machine).judged},
		JudgeDue:            {Trying, emits(Judge)},
		StageOver:           {TakingOver, (*Machine).endTrial},
		Promote:             {TakingOver, (*Machine).promoteTrial},
		Abort:               {TakingBack, (*Machine).abortStage},
		SuccessorReturns:    {TakingBack, (*Machine).noteReturn},
		SuccessorLinkEnded:  {Dismissed, (*Machine).dismissDead},
		SuccessorLinkClosed: {Dismissed, (*Machine).dismissDead},
		FlipAccepted:        {ReadyGreeted, (*Machine).endEarly},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver:        {Trying, emits(StopFlip)},
	},
	TakingOver: {
		SuccessorServes:     {Watching, (*Machine).watchIt},
		SuccessorReturns:    {TakingBack, (*Machine).noteReturn},
		SuccessorLinkEnded:  {Dismissed, (*Machine).dismissUnlinked},
		SuccessorLinkClosed: {Dismissed, (*Machine).dismissUnlinked},
		FlipAccepted:        {ReadyGreeted, nil},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		StartLate:           {Dismissed, (*Machine).dismissLate},
		PatienceOver:        {TakingOver, emits(StopFlip)},
	},
	Watching: {
		Judged:              {Watching, (*Machine).judged},
		JudgeDue:            {Watching, emits(Judge)},
		StageOver:           {Confirmed, (*Machine).endWatch},
		Promote:             {Confirmed, (*Machine).promoteWatch},
		Abort:               {TakingBack, (*Machine).abortStage},
		SuccessorReturns:    {TakingBack, (*Machine).noteReturn},
		SuccessorLinkEnded:  {Dismissed, (*Machine).dismissDead},
		SuccessorLinkClosed: {Dismissed, (*Machine).dismissDead},
		FlipAccepted:        {Succeeded, (*Machine).handOver},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		PatienceOver:        {Watching, emits(StopFlip)},
	},
	TakingBack: {
		SuccessorLinkEnded:  {Dismissed, (*Machine).dismissReturned},
		SuccessorLinkClosed: {Dismissed, (*Machine).dismissReturned},
		FlipAccepted:        {DismissedReturned, (*Machine).dismissReturned},
		FlipFailed:          {DismissedReturned, (*Machine).dismissReturned},
		ReturnLate:          {Dismissed, (*Machine).dismissUnreturned},
		PatienceOver:        {TakingBack, emits(StopFlip)},
	},
	Confirmed: {
		SuccessorReturns:    {TakingBack, (*Machine).noteReturn},
		SuccessorDrains:     {Confirmed, (*Machine).release},
		SuccessorLinkEnded:  {ConfirmedUnlinked, nil},
		SuccessorLinkClosed: {ConfirmedStopped, nil},
		FlipAccepted:        {Succeeded, (*Machine).handOver},
		FlipFailed:          {DismissedReturned, (*Machine).dismissFailed},
		StartLate:           {Dismissed, (*Machine).dismissLate},
		PatienceOver:        {Confirmed, emits(StopFlip)},
	},
	ConfirmedUnlinked: {
		FlipAccepted: {SucceededUnlinked, (*Machine).handOver},
		FlipFailed:   {DismissedReturned, (*Machine).dismissFailed},
		StartLate:    {Dismissed, (*Machine).dismissLate},
		PatienceOver: {ConfirmedUnlinked, emits(StopFlip)},
	},
	ConfirmedStopped: {
		FlipAccepted: {SucceededGone, (*Machine).handOver},
		FlipFailed:   {DismissedReturned, (*Machine).dismissFailed},
		StartLate:    {Dismissed, (*Machine).dismissLate},
		PatienceOver: {ConfirmedStopped, emits(StopFlip)},
	},
	Ready: {
		Hello:               {ReadyGreeted, (*Machine).noteHello},
		SuccessorLinkEnded:  {SucceededGone, (*Machine).handOverUnlinked},
		SuccessorLinkClosed: {SucceededGone, (*Machine).handOverUnlinked},
		// It cannot be killed, since its pid is not known: tableflip's word has to do.
		StartLate:    {Succeeded, (*Machine).handOverUnheard},
		PatienceOver: {Succeeded, (*Machine).handOverUnheard},
	},
	ReadyGreeted: {
		SuccessorServes:     {Succeeded, (*Machine).confirmAndHandOver},
		SuccessorLinkEnded:  {DismissedReturned, (*Machine).dismissVanished},
		SuccessorLinkClosed: {DismissedReturned, (*Machine).dismissVanished},
		StartLate:           {DismissedReturned, (*Machine).dismissUnserved},
		PatienceOver:        {DismissedReturned, (*Machine).dismissForStop},
	},
	Dismissed: {
		SuccessorExited: {DismissedExited, (*Machine).noteExit},
		FlipAccepted:    {DismissedReturned, nil},
		FlipFailed:      {DismissedReturned, (*Machine).noteStatus},
		PatienceOver:    {Dismissed, emits(StopFlip)},
	},
	DismissedExited: {
		FlipAccepted: {None, (*Machine).concludeDismissal},
		FlipFailed:   {None, (*Machine).noteStatusAndConclude},
		PatienceOver: {DismissedExited, emits(StopFlip)},
	},
	DismissedReturned: {
		SuccessorExited: {None, (*Machine).concludeDismissal},
	},
	Succeeded: {
		Hello:               {Succeeded, (*Machine).noteAnother},
		SuccessorUpgrades:   {Succeeded, (*Machine).doubt},
		SuccessorSettles:    {Succeeded, (*Machine).settle},
		SuccessorDrains:     {Succeeded, (*Machine).release},
		SuccessorLinkEnded:  {SucceededUnlinked, emits(WatchSuccessor)},
		SuccessorLinkClosed: {SucceededGone, (*Machine).release},
	},
	SucceededUnlinked: {
		SuccessorLost:   {SucceededLost, (*Machine).lose},
		SuccessorExited: {Replaced, (*Machine).replace},
	},
	SucceededLost: {
		SuccessorExited: {SucceededGone, nil}, // it may have stopped, or handed over
	},
	Replaced: {
		RescueFailed: {SucceededGone, (*Machine).orphan},
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
	return slices.Contains([]Attempt{Executing, Greeted, Trying, TakingOver, Watching, TakingBack, Confirmed, Ready, ReadyGreeted, Succeeded}, a)
}

// execute begins an upgrade.
func (m *Machine) execute(t Trigger) {
	m.enter(Upgrading)
	m.attempt = Executing
	if len(t.Origins) > 0 {
		t.Origins = slices.Clone(m.hangup.origins)
	}
	m.successor = successor{trigger: t, begun: m.now}
	m.arm(StartLate, m.config.UpgradeTimeout)
	m.log("upgrade started", "by", t.By)
	m.emit(Action{Do: Progress, Trigger: t, Text: fmt.Sprintf("generation %d starts", m.config.Generation+1)})
	m.reportToAll()
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
	m.release(e)
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

// committing reports whether the successor serves, or is about to, and will commit.
func (m *Machine) committing() bool {
	return m.attempt == TakingOver || m.attempt == Confirmed && m.successor.protocol >= ordersSince
}

func (m *Machine) confirm(Event) { m.successor.took = m.now.Sub(m.successor.trigger.At) }

// dismiss gives a successor up, if it was not for another reason. After the grace it is killed.
func (m *Machine) dismiss(reason string, grace time.Duration) {
	m.successor.reason = cmp.Or(m.successor.reason, reason)
	m.endStage(Bad, m.successor.reason)
	m.disarm(StartLate)
	m.reclaim(Death)
	m.emit(Action{Do: Dismiss, Duration: grace})
}

func (m *Machine) dismissFailed(e Event) {
	if s := m.successor.stage; s != NoStage {
		m.dismiss(fmt.Sprintf("successor died in the %v: %v", s, e.Err), 0)
		return
	}
	m.dismiss(fmt.Sprintf("successor failed: %v", e.Err), 0)
}

func (m *Machine) dismissUnlinked(Event) {
	m.dismiss("link to the successor ended before it was ready; it was killed", 0)
}

func (m *Machine) dismissVanished(Event) {
	m.successor.early = "successor died as it became ready"
	m.dismiss("link to the successor broke as it became ready; it was killed", exitGrace)
}

func (m *Machine) dismissLate(Event) { m.dismiss(m.lateness(), 0) }

func (m *Machine) dismissUnserved(Event) {
	m.dismiss(fmt.Sprintf("successor was ready but did not serve within %s and was killed", m.config.UpgradeTimeout), 0)
}

// killUnknown kills a successor of which nothing was heard in all its time.
func (m *Machine) killUnknown(Event) {
	m.successor.reason = m.lateness()
	m.emit(Action{Do: KillUnknown})
}

func (m *Machine) lateness() string {
	return fmt.Sprintf("successor was not ready within %s and was killed", m.config.UpgradeTimeout)
}

func (m *Machine) dismissForStop(Event) {
	m.emit(Action{Do: StopFlip})
	m.dismiss("the service stops", 0)
}

func (m *Machine) noteExit(e Event) {
	if s := &m.successor; e.InGrace {
		s.reason = cmp.Or(s.early, s.reason)
	}
}

// noteStatus adds how a successor has ended to the reason for which it was given up, if that was
// its end.
func (m *Machine) noteStatus(e Event) {
	s := &m.successor
	if s.early == "" {
		return
	}
	early := fmt.Sprintf("%s: %v", s.early, e.Err)
	if s.reason == s.early { // it has exited already
		s.reason = early
	}
	s.early = early
}

func (m *Machine) noteStatusAndConclude(e Event) {
	m.noteStatus(e)
	m.concludeDismissal(e)
}

// concludeDismissal ends an attempt whose successor has exited and of which tableflip has
// returned: this generation serves on, or stops.
func (m *Machine) concludeDismissal(e Event) {
	m.noteExit(e)
	s := m.successor
	m.successor = successor{}
	m.disarm(ReportDue)
	m.disarm(ReturnLate)
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
		m.reportToAll()
		m.startPending(e)
	}
}

func (m *Machine) lose(e Event) {
	m.warn("link to the serving generation is lost")
	m.release(e)
}
