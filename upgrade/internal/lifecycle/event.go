package lifecycle

import "time"

// Kind says what has happened. The comment at each kind names the fields of [Event] that it
// uses beside Now.
type Kind int

const (
	// Of the start.

	Begun         Kind = iota // the generation begins
	CheckPassed               // the service and the program have checked themselves
	CheckFailed               // Err
	Prepared                  // all that can fail before the takeover is done
	PrepareFailed             // Err

	// Of the outside.

	SignalTrigger  // SIGHUP, here or at a predecessor that passed it on: Origin
	ControlTrigger // a caller on the control socket: Waiter
	StopSignal     // SIGTERM or SIGINT to this process: By
	StopMessage    // the predecessor sends that a stop was requested: By
	TakeOver       // the predecessor sends that this generation shall accept
	TakeBack       // the predecessor sends that it shall return what it has: Text
	CommitMessage  // the predecessor sends that it will not take back any more
	GateOpened     // tableflip allows an upgrade
	Relieved       // the predecessor answers on the control socket no more
	Promote        // a caller ends a trial or a watch as good: Waiter
	Abort          // a caller ends it as bad: Waiter, Text
	Drained        // this generation's drain is complete
	HooksEnded     // so are its hooks

	// Of the successor.

	FlipAccepted        // tableflip: the successor is ready, there is no way back
	FlipFailed          // tableflip: it is not; Err
	Hello               // over the link: PID, Version, Protocol
	SuccessorPrepared   // over the link: it could accept, and waits for the order
	SuccessorServes     // over the link: it accepts connections
	SuccessorUpgrades   // over the link: it has executed a successor of its own
	SuccessorSettles    // over the link: it serves, and has none
	SuccessorDrains     // over the link: it drains: it stops, or has handed over
	SuccessorReturns    // over the link: it has failed or was stopped, and returns what it has
	Judged              // the two were compared in this stage: PID, Stage, Verdict, Cause, Text
	SuccessorLinkEnded  // the link has ended, and nothing had announced that
	SuccessorLinkClosed // the link has ended after the successor reported a drain, or its process is unknown
	SuccessorLost       // the link has ended, and the process lives on
	RescueFailed        // the process that was to take over in its place could not be executed, or has died; Err
	SuccessorExited     // the process has exited; InGrace, Younger

	// Of a predecessor: ID.

	PredecessorAdded    // the predecessor gave its link to this generation: Member
	PredecessorDrained  // its last report: it is about to exit
	PredecessorUnlinked // its link has ended
	PredecessorLost     // its link has ended, and the process lives on
	PredecessorExited   // its process has exited
	LinkReleased        // nobody here reads its link; what was read before has been handled
	LinkPassed          // the successor has its link
	LinkKept            // the successor could not be given its link

	// Of the clock: each is the timer of the same name. See [Arm].

	DelayOver      // of a stop: clients and load balancers have had time to notice it
	PatienceOver   // of a stop: the successor has had time to end by itself
	StartLate      // the successor should be a step further
	StageOver      // the trial, or the watch, is over
	JudgeDue       // the two should be compared
	ReturnLate     // a successor that was taken back should have exited
	PredecessorDue // a predecessor should have exited
	ReliefOver     // the predecessor has had time to leave the control socket
	ReportDue      // the successor and the waiters should hear of this generation

	kinds
)

// Event is one thing that has happened to a generation. Which fields are set follows from Kind.
type Event struct {
	Kind     Kind
	Now      time.Time
	By       string // what requested a stop
	Text     string // a reason, or numbers
	Stage    Stage
	Verdict  Verdict
	Cause    Cause
	Trial    *Trial // of a trigger: how this upgrade is tried; nil: as usual
	Origin   int    // the generation that got the signal; 0: unknown
	Waiter   Waiter
	Err      error
	PID      int
	Version  string
	Protocol int  // of the link, which both sides speak
	InGrace  bool // the successor exited by itself, before it was killed
	Younger  bool // a generation lives that drains and was executed after this one: it has executed the successor, or knows who has
	ID       ID
	Member   Member
}

// Waiter is a caller who waits for the outcome of an upgrade. The machine does not look into
// it; each one gets exactly one final answer: [Refuse], [Forward], [Fail],
// [Succeed] or [Revoke].
type Waiter any

// ID names a predecessor.
type ID int

// Member is what a generation knows of a predecessor.
type Member struct {
	ID         ID
	Generation int
	PID        int
	Protocol   int           // of its link
	Drain      time.Duration // how long its drain may take, hooks included; 0: unknown
	Due        time.Time     // when it should have exited; zero: unknown
}

// Trigger is one upgrade that was requested, perhaps several times.
type Trigger struct {
	By      string // the first request: BySignal or ByControl
	At      time.Time
	Origins []int // generations that got the signal; nil: no signal was among the requests
	Waiters []Waiter
	Trial   *Trial // how this upgrade is tried; nil: as usual
}
