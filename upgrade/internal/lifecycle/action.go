package lifecycle

import (
	"log/slog"
	"time"
)

// Verb says what to do. The comment at each verb names the fields of [Action] that it uses,
// and the events that answer it.
type Verb int

const (
	Log    Verb = iota // Level, Text, Attrs
	Enter              // From, To
	Arm                // Timer, At: deliver an event of that kind then, unless it is armed anew or disarmed
	Disarm             // Timer

	// The start and the end.

	Check              // the service and the program check themselves: CheckPassed or CheckFailed
	CancelCheck        // nothing waits for them any more
	Prepare            // do what can fail before the takeover: Prepared or PrepareFailed
	SendPrepared       // notify the predecessor of that: TakeOver
	Serve              // accept connections
	SendServing        // notify the predecessor of that: CommitMessage or TakeBack
	SendReturning      // notify it that this generation returns what it has: Text
	Commit             // report to tableflip that this generation is ready; there is no way back
	OpenControl        // accept on the control socket
	Announce           // publish the PID, store the listeners
	RestoreStderr      // standard error is a pipe that nothing reads any more
	BeginStop          // take no more requests, as a readiness probe sees it
	DrainForStop       // stop accepting and drain: Drained
	DrainToSuccessor   // stop accepting and drain, with a successor to migrate to: Drained
	DrainToPredecessor // stop accepting and drain; the predecessor accepts: Drained
	CutDrain           // close forcibly what still drains
	Account            // log what the drain has done
	RunHooks           // those of the exit: HooksEnded
	RunStopHooks       // those of the exit and of the stop: HooksEnded
	Finish             // close what is left, after the last report
	Exit               // Err: why it never served, or nil

	// Waiters and triggers.

	Progress      // Trigger, Text: progress
	DrainProgress // Trigger, Duration: progress, with what this generation still has in hand
	Refuse        // Trigger: final
	Forward       // Trigger: final here; the successor decides on it
	Fail          // Trigger, Text: final; forget the successor, this generation serves on
	Succeed       // Trigger, Duration: final; with the account of the drain
	Answer        // Waiter, Text: why what it asked for is not done; empty: it is

	// The successor.

	Execute          // Trigger: FlipAccepted or FlipFailed, and what comes over the link
	Share            // share connections with it, and tell how long: Stage, Share, At
	EndStage         // a trial or a watch is over: Verdict, Text
	Reclaim          // accept again, and give it nothing more: Cause
	Judge            // compare the two: Judged
	SendTakeOver     // it shall accept: SuccessorServes
	SendTakeBack     // it shall return what it has: Text; SuccessorExited
	SendCommit       // it shall commit: FlipAccepted or FlipFailed
	SendStop         // notify it of the stop
	StopFlip         // tableflip kills a successor that is not ready, and allows no other
	KillUnknown      // kill a successor of which nothing was heard: FlipFailed
	Dismiss          // Duration: kill it after this grace, if it has not exited: SuccessorExited
	Abandon          // forget it
	AssumeServing    // it cannot report its claims: it is taken to have all listeners
	HandOver         // Trigger, Duration: it serves
	ReleasePipe      // let tableflip upgrade it before this process has exited
	Report           // send it a report
	ReportDrained    // send it the last one
	WatchSuccessor   // SuccessorExited, or SuccessorLost and later SuccessorExited
	HoldListeners    // keep duplicates of the listeners that it has
	ReleaseListeners // close those
	Rescue           // it died: execute this program again, with those: RescueFailed, if at all
	Revoke           // Trigger: final; it died after all
	Orphaned         // it died, and nobody accepts connections

	// A predecessor: ID.

	ReportTo    // send it a report, so that this generation's end surprises nobody
	Watch       // PredecessorExited, or PredecessorLost and later PredecessorExited
	Kill        // end its process
	Forget      // it has exited
	ReleaseLink // stop reading from its link: what was read, then LinkReleased
	PassLink    // give its link to the successor, and when it is due, At: LinkPassed or LinkKept
	FollowLink  // read from its link again

	verbs
)

// Action is one thing that the owner of a [Machine] has to do. Which fields are set follows from Do.
type Action struct {
	Do       Verb
	From, To Phase
	Timer    Kind
	At       time.Time
	ID       ID
	Trigger  Trigger
	Waiter   Waiter
	Stage    Stage
	Verdict  Verdict
	Cause    Cause
	Share    float64       // of the connections; 1: nothing is accepted any more
	Duration time.Duration // from the trigger to the takeover, or of a grace
	Text     string        // of a log line, progress or reason
	Level    slog.Level
	Attrs    []any
	Err      error
}
