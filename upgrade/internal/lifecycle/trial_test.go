package lifecycle

import (
	"testing"
	"time"
)

// tried is the configuration of a first generation that tries its successors.
func tried() Config {
	c := first()
	c.ReturnTime = 40 * time.Second
	c.Trial = Trial{Share: 0.1, Time: 30 * time.Second, Watch: 10 * time.Second}
	return c
}

// A successor is tried on a share of the connections, takes over, is watched, and commits. Up to
// that point it can be taken back.
func TestTrialRaces(t *testing.T) {
	var (
		hello    = Event{Kind: Hello, Protocol: ordersSince, PID: 200, Version: "v"}
		greeted  = then(begin, ask, hello)
		trying   = then(greeted, is(SuccessorPrepared))
		over     = then(trying, is(StageOver))
		watching = then(over, is(SuccessorServes))
		passed   = then(watching, is(StageOver))
		bad      = Event{Kind: Judged, PID: 200, Stage: StageTrial, Verdict: Bad, Text: "5 of 12 requests failed"}
		good     = Event{Kind: Judged, PID: 200, Stage: StageTrial, Verdict: Good, Text: "12 requests, 0 failed"}
		worse    = Event{Kind: Judged, PID: 200, Stage: StageWatch, Verdict: Bad, Text: "5 of 12 requests failed"}
		hangs    = Event{Kind: Judged, PID: 200, Stage: StageTrial, Verdict: Bad, Cause: Death, Text: "no answer"}
		aborted  = Event{Kind: Abort, Waiter: "a", Text: "slow"}
		promoted = Event{Kind: Promote, Waiter: "p"}
		returns  = Event{Kind: SuccessorReturns, Text: "terminated"}
		takeBack = Event{Kind: TakeBack, Text: "trial: bad"}
		standby  = begin
		accepts  = then(standby, is(TakeOver))
	)
	abort := tried()
	abort.Trial.AbortUndecided = true
	watchOnly := tried()
	watchOnly.Trial.Share = 0
	const handed = "hand over; hold listeners; release pipe; drain to successor"
	const taken = "reclaim; send take back: "
	const numbers = "5 of 12 requests failed"
	for _, r := range []race{
		{"all is well", tried(), greeted, []Event{is(SuccessorPrepared), good, is(StageOver), is(SuccessorServes), good, is(StageOver), is(FlipAccepted)},
			"share 0.1; send take over; share 1; send commit; " + handed, Draining, Succeeded, "trial passed"},
		{"watched only", watchOnly, greeted, []Event{is(SuccessorPrepared), is(SuccessorServes), is(StageOver), is(FlipAccepted)},
			"send take over; share 1; send commit; " + handed, Draining, Succeeded, "watch passed"},
		{"this upgrade is not tried", tried(), begin, []Event{{Kind: ControlTrigger, Waiter: "w", Trial: &Trial{}}, hello, is(SuccessorPrepared), is(SuccessorServes)},
			"execute [w]; send take over; send commit", Upgrading, Confirmed, ""},
		{"this upgrade alone is tried", first(), begin, []Event{{Kind: ControlTrigger, Waiter: "w", Trial: &Trial{Share: 0.5}}, hello, is(SuccessorPrepared)},
			"execute [w]; share 0.5", Upgrading, Trying, ""},
		{"a release that decides by itself", tried(), then(begin, ask, is(Hello)), []Event{is(SuccessorServes), is(FlipAccepted)}, handed, Draining, Succeeded, ""},
		{"they are compared again and again", tried(), trying, []Event{is(JudgeDue), good, {Kind: Judged, PID: 100, Stage: StageTrial, Verdict: Bad}, is(JudgeDue), good}, "judge; judge", Upgrading, Trying, ""},

		// The trial.
		{"bad in the trial", tried(), trying, []Event{bad, returns, is(SuccessorLinkClosed), failed(FlipFailed), early, ask},
			taken + "trial: " + numbers + "; dismiss 1s; fail [waiter]: trial: " + numbers + "; execute [waiter]", Upgrading, Executing, "successor is taken back"},
		{"bad, and tableflip is first", tried(), trying, []Event{bad, failed(FlipFailed), is(SuccessorLinkClosed), early},
			taken + "trial: " + numbers + "; dismiss 1s; fail [waiter]: trial: " + numbers, Serving, None, ""},
		{"bad, and it does not return", tried(), trying, []Event{bad, later(40*time.Second, is(ReturnLate)), failed(FlipFailed), is(SuccessorExited)},
			taken + "trial: " + numbers + "; dismiss; fail [waiter]: trial: " + numbers, Serving, None, ""},
		{"it hangs in the trial", tried(), trying, []Event{hangs, returns, failed(FlipFailed), is(SuccessorExited)},
			"reclaim; dismiss; fail [waiter]: trial: no answer; it was killed", Serving, None, ""},
		{"another hung", tried(), trying, []Event{{Kind: Judged, PID: 100, Stage: StageTrial, Verdict: Bad, Cause: Death}}, "", Upgrading, Trying, ""},
		{"undecided", abort, trying, []Event{{Kind: Judged, PID: 200, Stage: StageTrial, Text: "0 requests"}, is(StageOver)}, taken + "trial: undecided: 0 requests", Upgrading, TakingBack, ""},
		{"undecided is good enough", tried(), trying, []Event{is(StageOver)}, "send take over", Upgrading, TakingOver, ""},
		{"promoted", tried(), trying, []Event{promoted, is(StageOver)}, "send take over; answer", Upgrading, TakingOver, "trial ended as good on request"},
		{"aborted", tried(), trying, []Event{aborted, promoted}, taken + "trial: aborted on request: slow; answer; answer: no trial or watch is under way", Upgrading, TakingBack, ""},
		{"aborted too early", tried(), greeted, []Event{aborted}, "answer: no trial or watch is under way", Upgrading, Greeted, ""},
		{"it dies", tried(), trying, []Event{failed(FlipFailed), is(SuccessorLinkEnded), is(SuccessorExited)},
			"reclaim; dismiss; fail [waiter]: successor died in the trial: broken", Serving, None, ""},
		{"it dies, and the link is first", tried(), trying, []Event{is(SuccessorLinkEnded), failed(FlipFailed), early},
			"reclaim; dismiss 1s; fail [waiter]: successor died in the trial: broken", Serving, None, ""},
		{"its link breaks", tried(), trying, []Event{is(SuccessorLinkEnded), is(SuccessorExited), failed(FlipFailed)},
			"reclaim; dismiss 1s; fail [waiter]: link to the successor ended in the trial; it was killed", Serving, None, ""},
		{"it gives up", tried(), trying, []Event{returns, is(SuccessorLinkClosed), failed(FlipFailed), early},
			"reclaim; dismiss 1s; fail [waiter]: successor gave up: terminated", Serving, None, ""},
		{"a trigger waits for its end", tried(), trying, []Event{control("b"), bad, failed(FlipFailed), early},
			taken + "trial: " + numbers + "; dismiss 1s; fail [waiter]: trial: " + numbers + "; execute [b]", Upgrading, Executing, "upgrade waiting"},
		{"a stop", tried(), trying, []Event{is(StopSignal), failed(FlipFailed), is(SuccessorExited), is(DelayOver)},
			"begin stop; " + taken + "the service stops; dismiss 1s; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
		{"a stop in a take-back", tried(), then(trying, bad), []Event{is(StopSignal), is(DelayOver), failed(FlipFailed), is(SuccessorExited)},
			"begin stop; dismiss 1s; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
		{"a stop, and a second one", tried(), trying, []Event{is(StopSignal), is(StopSignal), failed(FlipFailed), is(SuccessorExited)},
			"begin stop; " + taken + "the service stops; stop flip; dismiss 1s; abandon; refuse [waiter]; drain for stop; cut drain", StopDraining, None, ""},
		{"a comparison comes late", tried(), over, []Event{bad}, "", Upgrading, TakingOver, ""},

		// The watch.
		{"bad in the watch", tried(), watching, []Event{bad, worse, failed(FlipFailed), early},
			taken + "watch: " + numbers + "; dismiss 1s; fail [waiter]: watch: " + numbers, Serving, None, ""},
		{"it dies in the watch", tried(), watching, []Event{failed(FlipFailed), is(SuccessorExited)},
			"reclaim; dismiss; fail [waiter]: successor died in the watch: broken", Serving, None, ""},
		{"it dies between trial and watch", tried(), over, []Event{failed(FlipFailed), is(SuccessorExited)},
			"reclaim; dismiss; fail [waiter]: successor failed: broken", Serving, None, ""},
		{"it dies as it commits", tried(), passed, []Event{failed(FlipFailed), is(SuccessorExited)},
			"reclaim; dismiss; fail [waiter]: successor failed: broken", Serving, None, ""},
		{"a stop as it takes over", tried(), over, []Event{is(StopSignal), is(SuccessorServes), is(FlipAccepted)},
			"begin stop; send commit; hand over; send stop; release pipe; drain to successor", Draining, Succeeded, ""},
		{"a stop in the watch", tried(), watching, []Event{is(StopSignal), failed(FlipFailed), is(SuccessorExited), is(DelayOver)},
			"begin stop; " + taken + "the service stops; dismiss 1s; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
		{"promoted in the watch", tried(), watching, []Event{promoted, is(FlipAccepted)}, "send commit; answer; " + handed, Draining, Succeeded, ""},

		// The successor.
		{"taken back from a trial", ordered(), standby, []Event{takeBack, is(Drained), is(HooksEnded)},
			"send returning; drain to predecessor; run hooks; exit: generation 2 was taken back: trial: bad", Exited, None, ""},
		{"taken back from a watch", ordered(), accepts, []Event{takeBack, is(CommitMessage), is(Drained), is(HooksEnded)},
			"send returning; drain to predecessor; run hooks; exit: generation 2 was taken back: trial: bad", Exited, None, ""},
		{"predecessor dies in the trial", ordered(), standby, []Event{is(PredecessorUnlinked), is(PredecessorExited), takeBack},
			"watch 1; restore stderr; forget 1; commit; serve; open control; announce", Serving, None, ""},
	} {
		t.Run(r.name, r.test)
	}
}

// A stop of the whole group in the moment of the takeover: the successor returns what it has, and is given the time for that.
func TestStopLeavesAReturnItsTime(t *testing.T) {
	m, now := New(first()), epoch
	actions := play(m, &now, then(begin, ask, is(Hello), is(SuccessorPrepared), is(StopSignal), is(SuccessorReturns)))
	armed := make(map[Kind]bool)
	for _, a := range actions {
		if a.Do == Arm || a.Do == Disarm {
			armed[a.Timer] = a.Do == Arm
		}
	}
	if m.attempt != TakingBack || !armed[ReturnLate] || armed[PatienceOver] {
		t.Errorf("got attempt %v, timers %v, want it taken back, and no timer but ReturnLate to end it", m.attempt, armed)
	}
}
