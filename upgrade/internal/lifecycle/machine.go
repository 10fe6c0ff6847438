package lifecycle

import (
	"fmt"
	"log/slog"
	"slices"
	"time"
)

const (
	// reliefTime is how long a predecessor that does not report that it drains keeps the
	// control socket to itself.
	reliefTime = 2 * time.Second

	// stopPatience is how long a successor that was notified of a stop may take to exit by itself.
	stopPatience = time.Second

	// commitPatience is how long one that was ordered to take over may take to commit at a stop.
	commitPatience = 5 * time.Second

	// reportInterval bounds what is lost with a generation that is killed once it has a
	// successor.
	reportInterval = 200 * time.Millisecond

	// overstay is added to the limit of a drain before a predecessor that still lives is killed.
	overstay = 5 * time.Second

	// ordersSince is the version of the link since which a predecessor decides when its successor
	// takes over, and when it commits.
	ordersSince = 4

	// exitGrace is how long a successor whose link has ended may take to exit by itself.
	exitGrace = time.Second
)

// Config is what a generation knows when it begins.
type Config struct {
	Generation     int
	Started        time.Time
	UpgradeTimeout time.Duration // how long a successor may take to serve
	ShutdownDelay  time.Duration // how long a stop goes on serving
	MaxDraining    int           // how many predecessors may drain when an upgrade begins
	ReturnTime     time.Duration // how long a successor that is taken back may take to exit
	Trial          Trial         // how a successor is tried
	Gate           Gate
	// Predecessor is the generation that executed this one, if they have a link.
	Predecessor *Member
	// Origins are the generations that got the signal which has led to this generation.
	Origins []int
	// Begun and Deadline are when the predecessor executed this generation, and when it
	// kills it; zero: unknown.
	Begun, Deadline time.Time
}

// Gate says whether tableflip allows an upgrade.
type Gate int

const (
	// GateOpen: it does.
	GateOpen Gate = iota
	// GateHeld: not before the predecessor has exited or let go of its pipe.
	GateHeld
	// GateHeldUnlinked: the same, and there is no link: only the gate reports the
	// predecessor's exit.
	GateHeldUnlinked
)

// Control says who answers on the control socket: a client that this generation has answered
// must not be answered by its predecessor afterwards.
type Control int

const (
	// ControlTheirs: the predecessor, and this generation does not accept yet.
	ControlTheirs Control = iota
	// ControlFree: the predecessor answers no more, and this generation does not accept yet.
	ControlFree
	// ControlAwaited: this generation serves and leaves the socket to its predecessor a little longer.
	ControlAwaited
	// ControlOurs: this generation, until it has handed over.
	ControlOurs
)

// relieved has what becomes of the control socket when the predecessor has left it, and
// serving what becomes of it when this generation serves.
var (
	relieved = map[Control]Control{ControlTheirs: ControlFree, ControlAwaited: ControlOurs}
	serving  = map[Control]Control{ControlTheirs: ControlAwaited, ControlFree: ControlOurs}
)

// Urgency says how often a signal to this process requested a stop. That of the predecessor
// does not count.
type Urgency int

const (
	// NoSignal: never.
	NoSignal Urgency = iota
	// OneSignal: once.
	OneSignal
	// Urgent: again. Nothing is waited for any more.
	Urgent
)

var moreUrgent = map[Urgency]Urgency{NoSignal: OneSignal, OneSignal: Urgent, Urgent: Urgent}

// Machine is the lifecycle of one generation. It must be used by one goroutine at a time. It
// has a field for each part of the state, which is all in one place.
type Machine struct {
	config       Config
	phase        Phase
	attempt      Attempt
	successor    successor
	predecessors []*predecessor // oldest first
	urgency      Urgency
	gate         Gate
	control      Control
	hangup       hangup
	pending      *Trigger // waits until an upgrade can begin
	failure      error    // why this generation never served
	now          time.Time
	actions      []Action // of the event that is being handled
}

// New returns the machine of a generation that begins.
func New(config Config) *Machine {
	m := &Machine{config: config, gate: config.Gate, control: ControlFree}
	if p := config.Predecessor; p != nil {
		m.control = ControlTheirs
		m.add(*p)
	}
	if len(config.Origins) > 0 {
		// Predecessors may yet pass on the signal that has led here. One that comes to this
		// process is another: the process was not there then.
		m.hangup = hangup{at: config.Started, origins: append(slices.Clone(config.Origins), config.Generation)}
	}
	return m
}

// Phase returns where the generation stands.
func (m *Machine) Phase() Phase { return m.phase }

// Handle takes an event and returns what to do, in this order. Actions that fail or that
// complete later are answered by other events.
func (m *Machine) Handle(e Event) []Action {
	m.now, m.actions = e.Now, nil
	if m.phase.Ended() {
		return nil
	}
	switch {
	case e.Kind >= PredecessorAdded && e.Kind <= LinkKept:
		m.handlePredecessor(e)
	case e.Kind >= FlipAccepted && e.Kind <= SuccessorExited, e.Kind >= StartLate && e.Kind <= ReturnLate, e.Kind == PatienceOver:
		m.handleSuccessor(e)
	case e.Kind == Promote, e.Kind == Abort:
		m.decide(e)
	case e.Kind == PredecessorDue:
		m.killOverdue()
	case e.Kind == ReportDue:
		m.report()
	case e.Kind == Relieved, e.Kind == ReliefOver:
		m.relieve()
	default:
		m.handleOwn(e)
	}
	return m.actions
}

// handleOwn takes an event of the generation as a whole.
func (m *Machine) handleOwn(e Event) {
	rules := phaseRules[m.phase]
	rule := rules.on[e.Kind]
	switch e.Kind {
	case GateOpened:
		m.gate = GateOpen
		rule = (*Machine).resume
	case StopSignal, StopMessage:
		if e.Kind == StopSignal {
			m.urgency = moreUrgent[m.urgency]
		}
		rule = rules.stop
	case ControlTrigger:
		rule = rules.trigger
	case SignalTrigger:
		if m.hangup.isSame(e.Origin, e.Now) {
			m.log("upgrade already requested", "by", BySignal, "origin", e.Origin)
			return
		}
		rule = rules.trigger
	}
	if rule != nil {
		rule(m, e)
	}
}

// resume goes on with what may have waited for a predecessor.
func (m *Machine) resume(e Event) {
	m.recheck()
	m.startPending(e)
	m.close(e)
}

func (m *Machine) emit(a Action) { m.actions = append(m.actions, a) }

func (m *Machine) log(text string, attrs ...any) {
	m.emit(Action{Do: Log, Level: slog.LevelInfo, Text: text, Attrs: attrs})
}

func (m *Machine) warn(text string, attrs ...any) {
	m.emit(Action{Do: Log, Level: slog.LevelWarn, Text: text, Attrs: attrs})
}

func (m *Machine) arm(timer Kind, after time.Duration) {
	m.emit(Action{Do: Arm, Timer: timer, At: m.now.Add(after)})
}

func (m *Machine) disarm(timer Kind) { m.emit(Action{Do: Disarm, Timer: timer}) }

// checked goes on after the checks, unless it is not known whether the predecessor lives:
// then two might serve that do not know of each other.
func (m *Machine) checked(Event) {
	if m.unknown() {
		m.enter(Checked)
		return
	}
	m.enter(Preparing)
	m.emit(Action{Do: Prepare})
}

// recheck goes on after the predecessor is known to have exited.
func (m *Machine) recheck() {
	switch {
	case m.unknown():
	case m.phase == Checked:
		m.enter(Preparing)
		m.emit(Action{Do: Prepare})
	case m.linked() != nil: // it decides
	case m.phase == Standby:
		m.takeOverAtOnce()
	case m.phase == Probation:
		m.commit(Event{})
	}
}

// prepared leaves it to the predecessor when this generation takes over. Close to its deadline
// it does not: it might be killed in the very moment in which it is ready.
func (m *Machine) prepared(Event) {
	c := m.config
	if !c.Deadline.IsZero() && c.Deadline.Sub(m.now) < c.Deadline.Sub(c.Begun)/20 {
		m.abort(Event{Err: fmt.Errorf("generation %d was not ready within %s; it exits shortly before it would be killed",
			c.Generation, m.now.Sub(c.Begun).Round(time.Millisecond))})
		return
	}
	if p := m.linked(); p != nil && p.Protocol >= ordersSince {
		m.enter(Standby)
		m.emit(Action{Do: SendPrepared})
		return
	}
	m.takeOverAtOnce()
}

// linked returns the predecessor that executed this generation, if it can be heard.
func (m *Machine) linked() *predecessor {
	for _, p := range m.predecessors {
		if d := m.config.Predecessor; d != nil && d.ID == p.ID && p.state == Linked {
			return p
		}
	}
	return nil
}

// accept takes over, and leaves it to the predecessor whether that is for good.
func (m *Machine) accept(Event) {
	m.enter(Probation)
	m.emit(Action{Do: Serve})
	m.emit(Action{Do: SendServing})
}

// takeOverAtOnce takes over for good, since no predecessor decides: there is none, or it is of
// a release that does not.
func (m *Machine) takeOverAtOnce() {
	m.emit(Action{Do: Commit})
	m.enter(Serving)
	m.emit(Action{Do: Serve})
	m.begin()
	if m.linked() != nil {
		m.emit(Action{Do: SendServing})
	}
	m.resume(Event{})
}

// commit makes the takeover one for good. Whoever asks for the generation that serves is led here
// before the predecessor hears that it may go.
func (m *Machine) commit(Event) {
	m.enter(Serving)
	m.begin()
	m.emit(Action{Do: Commit})
	m.resume(Event{})
}

// begin begins what only the generation does that decides.
func (m *Machine) begin() {
	m.control = serving[m.control]
	switch m.control {
	case ControlOurs:
		m.emit(Action{Do: OpenControl})
	case ControlAwaited:
		m.arm(ReliefOver, reliefTime)
	}
	m.emit(Action{Do: Announce})
	for _, p := range m.predecessors {
		p.setDue(m.now)
	}
	m.watchDue()
}

// relieve takes over the control socket.
func (m *Machine) relieve() {
	next, ok := relieved[m.control]
	if !ok {
		return
	}
	m.control = next
	if next == ControlOurs {
		m.disarm(ReliefOver)
		m.emit(Action{Do: OpenControl})
	}
}

func (m *Machine) stopEarly(e Event) {
	m.unfit(Event{Err: fmt.Errorf("stopped by %v before it was ready", e.By)})
}

func (m *Machine) unfit(e Event) {
	m.abort(Event{Err: fmt.Errorf("generation %d failed: %w", m.config.Generation, e.Err)})
}

// abort ends a generation that has not committed.
func (m *Machine) abort(e Event) {
	m.failure = e.Err
	if t := m.pending; t != nil {
		m.pending = nil
		m.emit(Action{Do: Refuse, Trigger: *t})
	}
	if m.phase == Standby || m.phase == Probation {
		m.enter(Returning)
		m.emit(Action{Do: SendReturning, Text: e.Err.Error()})
		m.emit(Action{Do: DrainToPredecessor})
		return
	}
	m.enter(Aborting)
	m.emit(Action{Do: CancelCheck})
	m.emit(Action{Do: RunHooks})
}

// returned goes on when nothing is left here.
func (m *Machine) returned(Event) { m.runHooks() }

// fail ends a generation that has not committed.
func (m *Machine) fail(Event) {
	m.enter(map[Phase]Phase{Aborting: Failed, Returning: Exited}[m.phase])
	m.emit(Action{Do: Exit, Err: m.failure})
}

// exit ends the generation. Nothing happens after that.
func (m *Machine) exit(Event) {
	if m.phase == Closing {
		m.emit(Action{Do: ReportDrained})
		m.emit(Action{Do: Succeed, Trigger: m.successor.trigger, Duration: m.successor.took})
	}
	m.emit(Action{Do: Finish})
	m.enter(Exited)
	m.emit(Action{Do: Exit})
}
