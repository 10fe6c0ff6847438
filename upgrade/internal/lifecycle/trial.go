package lifecycle

import (
	"fmt"
	"math"
	"time"
)

// Trial says how a successor is tried before it commits. The zero value is not at all.
type Trial struct {
	Share          float64       // of the connections that it gets before it takes over, from 0 to 1
	Time           time.Duration // how long it is tried on those
	Watch          time.Duration // how long after the takeover this generation can take back
	AbortUndecided bool          // what is undecided at the end counts as bad
}

// Stage is a part of an upgrade in which the successor is tried.
type Stage int

const (
	// NoStage: it is not tried.
	NoStage Stage = iota
	// StageTrial: it serves a share of the connections.
	StageTrial
	// StageWatch: it serves in place of this generation.
	StageWatch
)

// String returns the stage's name.
func (s Stage) String() string { return [...]string{"start", "trial", "watch"}[s] }

// Verdict says what a comparison of successor and predecessor has shown.
type Verdict int

const (
	// Undecided: too little.
	Undecided Verdict = iota
	// Good: the successor is not worse.
	Good
	// Bad: it is.
	Bad
)

// String returns the verdict's name.
func (v Verdict) String() string { return [...]string{"undecided", "good", "bad"}[v] }

// Cause is why a verdict is Bad.
type Cause int

const (
	// NoCause: it is not.
	NoCause Cause = iota
	// Failures: requests of the successor fail.
	Failures
	// Slowness: it is slow.
	Slowness
	// Doubt: it is undecided at the end, and that counts as bad.
	Doubt
	// Death: it has died, hangs, or gave up.
	Death
	// Request: a caller has ended it, or the service stops.
	Request
)

const (
	// judgeInterval is how often the two are compared.
	judgeInterval = 200 * time.Millisecond
	// showInterval is how often callers who wait hear of that.
	showInterval = time.Second
)

// plan returns how the present upgrade is tried.
func (m *Machine) plan() Trial {
	switch s := m.successor; {
	case s.protocol < ordersSince:
		return Trial{}
	case s.trigger.Trial != nil:
		return *s.trigger.Trial
	}
	return m.config.Trial
}

// try has the successor serve a share of the connections, or take over if it is not tried on that.
func (m *Machine) try(e Event) {
	t := m.plan()
	switch {
	case m.phase != Upgrading: // the service stops
		m.attempt = Greeted
	case t.Share > 0:
		m.disarm(StartLate)
		m.startStage(StageTrial, t.Share, t.Time)
	default:
		m.letTakeOver()
	}
}

func (m *Machine) letTakeOver() {
	m.attempt = TakingOver
	m.arm(StartLate, m.config.UpgradeTimeout)
	m.emit(Action{Do: SendTakeOver})
}

// watchIt leaves the connections to the successor, which accepts, but can take them back for a time.
func (m *Machine) watchIt(e Event) {
	m.confirm(e)
	t := m.plan()
	if m.phase != Upgrading || t.Watch <= 0 {
		m.letCommit()
		return
	}
	m.disarm(StartLate)
	m.startStage(StageWatch, 1, t.Watch)
}

func (m *Machine) letCommit() {
	m.attempt = Confirmed
	m.arm(StartLate, m.config.UpgradeTimeout)
	m.emit(Action{Do: SendCommit})
}

func (m *Machine) startStage(stage Stage, share float64, length time.Duration) {
	s := &m.successor
	s.stage, s.shared, s.ends, s.verdict, s.numbers, s.shown = stage, true, m.now.Add(length), Undecided, "", m.now
	m.log(stage.String()+" started", "share", share, "length", length.String(), "successor_pid", s.pid)
	m.emit(Action{Do: Share, Stage: stage, Share: share, At: s.ends})
	m.arm(StageOver, length)
	m.arm(JudgeDue, judgeInterval)
}

// endStage ends a trial or a watch, if there is one.
func (m *Machine) endStage(v Verdict, text string) {
	if m.successor.stage == NoStage {
		return
	}
	m.successor.stage = NoStage
	m.disarm(StageOver)
	m.disarm(JudgeDue)
	m.emit(Action{Do: EndStage, Verdict: v, Text: text})
}

// judged takes the outcome of a comparison.
func (m *Machine) judged(e Event) {
	s := &m.successor
	if e.Stage != s.stage || e.PID != s.pid { // it comes late
		return
	}
	s.verdict, s.numbers = e.Verdict, e.Text
	switch {
	case s.verdict == Bad && e.Cause == Death: // it could not return anything
		m.attempt = Dismissed
		m.dismiss(fmt.Sprintf("%v: %s; it was killed", s.stage, e.Text), 0)
		return
	case s.verdict == Bad:
		m.takeBack(e.Cause, fmt.Sprintf("%v: %s", s.stage, e.Text))
		return
	}
	if m.now.Sub(s.shown) >= showInterval {
		s.shown = m.now
		m.emit(Action{Do: Progress, Trigger: s.trigger,
			Text: fmt.Sprintf("%v: %s; %.0f s left", s.stage, e.Text, math.Ceil(max(0, s.ends.Sub(m.now).Seconds())))})
	}
	m.arm(JudgeDue, judgeInterval)
}

func (m *Machine) endTrial(Event) { m.pass(m.letTakeOver) }

func (m *Machine) endWatch(Event) { m.pass(m.letCommit) }

// pass ends a trial or a watch that has shown nothing bad.
func (m *Machine) pass(on func()) {
	s := &m.successor
	if s.verdict != Good && m.plan().AbortUndecided {
		m.takeBack(Doubt, fmt.Sprintf("%v: undecided: %s", s.stage, s.numbers))
		return
	}
	m.log(s.stage.String()+" passed", "verdict", s.verdict.String(), "numbers", s.numbers)
	m.endStage(s.verdict, s.numbers)
	on()
}

func (m *Machine) promoteTrial(Event) { m.promote(m.letTakeOver) }

func (m *Machine) promoteWatch(Event) { m.promote(m.letCommit) }

func (m *Machine) promote(on func()) {
	s := &m.successor
	m.log(s.stage.String()+" ended as good on request", "verdict", s.verdict.String(), "numbers", s.numbers)
	m.endStage(Good, "ended as good on request")
	on()
}

// decide takes the decision of a caller on a trial or a watch.
func (m *Machine) decide(e Event) {
	refusal := ""
	if m.attempt == Trying || m.attempt == Watching {
		m.handleSuccessor(e)
	} else {
		refusal = "no trial or watch is under way"
	}
	m.emit(Action{Do: Answer, Waiter: e.Waiter, Text: refusal})
}

func (m *Machine) abortStage(e Event) {
	reason := fmt.Sprintf("%v: aborted on request", m.successor.stage)
	if e.Text != "" {
		reason += ": " + e.Text
	}
	m.takeBack(Request, reason)
}

// takeBack accepts again, and has the successor return what it has.
func (m *Machine) takeBack(c Cause, reason string) {
	m.beginReturn(c, reason)
	m.emit(Action{Do: SendTakeBack, Text: reason})
}

// noteReturn is takeBack from a successor that returns of its own accord.
func (m *Machine) noteReturn(e Event) { m.beginReturn(Death, "successor gave up: "+e.Text) }

func (m *Machine) beginReturn(c Cause, reason string) {
	s := &m.successor
	m.attempt, s.reason = TakingBack, reason
	m.endStage(Bad, reason)
	m.disarm(StartLate)
	m.disarm(PatienceOver) // of a stop: what it has in hand takes longer
	m.warn("successor is taken back", "reason", reason, "successor_pid", s.pid)
	m.reclaim(c)
	m.emit(Action{Do: Progress, Trigger: s.trigger, Text: "takes back: " + reason})
	m.arm(ReturnLate, m.config.ReturnTime)
}

// reclaim has this generation accept again, if it does not.
func (m *Machine) reclaim(c Cause) {
	if s := &m.successor; s.shared {
		s.shared = false
		m.emit(Action{Do: Reclaim, Cause: c})
	}
}

// dismissReturned awaits the exit of a successor that has returned all.
func (m *Machine) dismissReturned(Event) { m.dismiss("", exitGrace) }

func (m *Machine) dismissUnreturned(Event) {
	m.warn("successor has not exited in the time for returning its connections; killing it", "successor_pid", m.successor.pid)
	m.dismiss("", 0)
}

// dismissDead gives up a successor whose link has ended in the trial or the watch.
func (m *Machine) dismissDead(Event) {
	stage := m.successor.stage
	m.successor.early = fmt.Sprintf("successor died in the %v", stage)
	m.dismiss(fmt.Sprintf("link to the successor ended in the %v; it was killed", stage), exitGrace)
}

// endEarly notes that the successor did not wait for the order to commit.
func (m *Machine) endEarly(Event) {
	m.endUnawaited()
	m.arm(StartLate, m.config.UpgradeTimeout)
}

func (m *Machine) endUnawaited() { m.endStage(Undecided, "the successor did not wait for the end") }

// giveBack returns to the predecessor what this generation has.
func (m *Machine) giveBack(e Event) {
	m.abort(Event{Err: fmt.Errorf("generation %d was taken back: %s", m.config.Generation, e.Text)})
}
