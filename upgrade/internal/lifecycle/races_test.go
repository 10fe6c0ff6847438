package lifecycle

import (
	"testing"
	"time"
)

func TestStartRaces(t *testing.T) {
	const took = "commit; serve; open control; announce"
	for _, r := range []race{
		{"a first generation", first(), nil, begin, "check; prepare; " + took, Serving, None, ""},
		{"a successor of a past release", second(), nil, begin, "check; prepare; commit; serve; announce; send serving", Serving, None, ""},
		{"it fails its check", first(), nil, []Event{is(Begun), failed(CheckFailed), is(HooksEnded)},
			"check; cancel check; run hooks; exit: generation 1 failed: broken", Failed, None, ""},
		{"it cannot prepare", first(), nil, []Event{is(Begun), is(CheckPassed), failed(PrepareFailed), is(HooksEnded)},
			"check; prepare; cancel check; run hooks; exit: broken", Failed, None, ""},
		{"it cannot begin", first(), nil, []Event{failed(PrepareFailed), is(HooksEnded)}, "cancel check; run hooks; exit: broken", Failed, None, ""},
		{"stopped by a signal", first(), nil, []Event{is(Begun), is(StopSignal), is(CheckPassed), is(HooksEnded)},
			"check; cancel check; run hooks; exit: generation 1 failed: stopped by terminated before it was ready", Failed, None, ""},
		{"stopped by the predecessor", second(), nil, []Event{is(Begun), {Kind: StopMessage, By: "the predecessor"}, is(HooksEnded)},
			"check; cancel check; run hooks; exit: generation 2 failed: stopped by the predecessor before it was ready", Failed, None, ""},
		{"a moment before it would be killed", second(), nil, []Event{is(Begun), later(58*time.Second, is(CheckPassed)), is(Prepared), is(HooksEnded)},
			"check; prepare; cancel check; run hooks; exit: generation 2 was not ready within 58s; it exits shortly before it would be killed", Failed, None, ""},
		{"a trigger waits for readiness", first(), begin[:1], []Event{signal(1), is(CheckPassed), is(Prepared)},
			"prepare; " + took + "; execute [1]", Upgrading, Executing, "upgrade waiting"},
		{"a caller is refused when the start fails", first(), begin[:1], []Event{ask, failed(CheckFailed), control("late")},
			"refuse [waiter]; cancel check; run hooks; refuse [late]", Aborting, None, ""},

		// The link to the predecessor ends: only when that is known to have exited may a
		// successor serve, since nobody could tell it to stop.
		{"predecessor dies during the checks", second(), begin[:1], []Event{is(PredecessorUnlinked), is(PredecessorExited), is(CheckPassed), is(Prepared)},
			"watch 1; restore stderr; forget 1; prepare; " + took, Serving, None, "predecessor exited without a report; its requests and connections are lost"},
		{"the checks pass before it is known", second(), begin[:1], []Event{is(PredecessorUnlinked), is(CheckPassed), is(PredecessorExited), is(Prepared)},
			"watch 1; restore stderr; forget 1; prepare; " + took, Serving, None, ""},
		{"nobody knows yet", second(), begin[:1], []Event{is(PredecessorUnlinked), is(CheckPassed)}, "watch 1", Checked, None, ""},
		{"predecessor lives without a link", second(), begin[:1], []Event{is(PredecessorUnlinked), is(CheckPassed), is(PredecessorLost), is(HooksEnded)},
			"watch 1; cancel check; run hooks; exit: generation 2 failed: the link to the predecessor is lost, and the predecessor still serves", Failed, None, ""},

		// The control socket.
		{"predecessor leaves the control socket", second(), begin, []Event{is(Relieved), is(ReliefOver)}, "open control", Serving, None, ""},
		{"predecessor does not say so", second(), begin, []Event{is(ReliefOver), is(Relieved)}, "open control", Serving, None, ""},
		{"predecessor dies", second(), begin, []Event{is(PredecessorUnlinked), is(ReliefOver)}, "open control; watch 1", Serving, None, ""},
		{"predecessor had left it before", second(), begin[:1], []Event{is(Relieved), is(CheckPassed), is(Prepared)}, "prepare; " + took + "; send serving", Serving, None, ""},
	} {
		t.Run(r.name, r.test)
	}
}

// The predecessor decides when its successor takes over, and when that is for good.
func TestTakeoverRaces(t *testing.T) {
	var (
		hello    = Event{Kind: Hello, Protocol: ordersSince, PID: 200, Version: "v"}
		standby  = begin
		accepts  = then(standby, is(TakeOver))
		greeted  = then(begin, ask, hello)
		prepared = then(greeted, is(SuccessorPrepared))
		serves   = then(prepared, is(SuccessorServes))
		stop     = Event{Kind: StopMessage, By: "the predecessor"}
	)
	const handed = "hand over; hold listeners; release pipe; drain to successor"
	const stopped = "generation 2 failed: stopped by the predecessor before it was ready"
	const dead = "; restore stderr; forget 1; "
	for _, r := range []race{
		// The successor.
		{"it waits for the order to accept", ordered(), nil, begin, "check; prepare; send prepared", Standby, None, ""},
		{"it accepts, and commits", ordered(), standby, []Event{is(TakeOver), is(CommitMessage)},
			"serve; send serving; announce; commit", Serving, None, ""},
		{"a trigger waits for the commit", ordered(), accepts, []Event{is(GateOpened), signal(2), is(CommitMessage)},
			"announce; commit; report to 1; execute [2]", Upgrading, Executing, "upgrade waiting"},
		{"the stop comes first", ordered(), standby, []Event{stop, is(TakeOver), is(Drained), is(HooksEnded)},
			"send returning; drain to predecessor; run hooks; exit: " + stopped, Exited, None, ""},
		{"a stop when it accepts", ordered(), accepts, []Event{stop, is(CommitMessage), is(Drained), is(HooksEnded)},
			"send returning; drain to predecessor; run hooks; exit: " + stopped, Exited, None, ""},
		{"predecessor dies before the takeover", ordered(), standby, []Event{is(PredecessorUnlinked), is(PredecessorExited)},
			"watch 1" + dead + "commit; serve; open control; announce", Serving, None, ""},
		{"predecessor dies before the commit", ordered(), accepts, []Event{is(PredecessorUnlinked), is(PredecessorExited)},
			"watch 1" + dead + "open control; announce; commit", Serving, None, ""},
		{"predecessor lives without a link before the takeover", ordered(), standby, []Event{is(PredecessorUnlinked), is(PredecessorLost)},
			"watch 1; send returning; drain to predecessor", Returning, None, ""},
		{"predecessor lives without a link before the commit", ordered(), accepts, []Event{is(PredecessorUnlinked), is(PredecessorLost), ask, is(Drained)},
			"watch 1; send returning; drain to predecessor; refuse [waiter]; run hooks", Returning, None, ""},

		// The predecessor.
		{"it lets the successor accept, and commit", first(), greeted, []Event{is(SuccessorPrepared), is(SuccessorServes), is(FlipAccepted)},
			"send take over; send commit; " + handed, Draining, Succeeded, ""},
		{"successor dies before it accepts", first(), prepared, []Event{failed(FlipFailed), is(SuccessorLinkEnded), is(SuccessorExited), ask},
			"dismiss; fail [waiter]: successor failed: broken; execute [waiter]", Upgrading, Executing, ""},
		{"successor dies before it commits", first(), serves, []Event{is(SuccessorLinkEnded), failed(FlipFailed), is(SuccessorExited), ask},
			"dismiss; fail [waiter]: successor failed: broken; execute [waiter]", Upgrading, Executing, ""},
		{"link ends before the successor accepts", first(), prepared, []Event{is(SuccessorLinkEnded), failed(FlipFailed), is(SuccessorExited)},
			"dismiss; fail [waiter]: link to the successor ended before it was ready; it was killed", Serving, None, ""},
		{"a stop before the takeover", first(), greeted, []Event{is(StopSignal), is(SuccessorPrepared), failed(FlipFailed), is(SuccessorExited)},
			"begin stop; send stop; dismiss; abandon; refuse [waiter]", Stopping, None, ""},
		{"a stop in between", first(), prepared, []Event{is(StopSignal), is(SuccessorServes), is(FlipAccepted)},
			"begin stop; send commit; hand over; send stop; release pipe; drain to successor", Draining, Succeeded, ""},
		{"a stop before the commit", first(), serves, []Event{is(StopSignal), is(DelayOver), is(FlipAccepted)},
			"begin stop; hand over; send stop; release pipe; drain to successor", Draining, Succeeded, ""},
		{"a stop, and the successor hangs", first(), prepared, []Event{is(StopSignal), is(DelayOver), later(commitPatience, is(PatienceOver)), failed(FlipFailed), is(SuccessorExited)},
			"begin stop; stop flip; dismiss; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
	} {
		t.Run(r.name, r.test)
	}
}

func TestUpgradeRaces(t *testing.T) {
	var (
		executing = then(begin, ask)
		greeted   = then(executing, is(Hello))
		confirmed = then(greeted, is(SuccessorServes))
		ready     = then(greeted, is(FlipAccepted))
		succeeded = then(confirmed, is(FlipAccepted))
	)
	const handed = "hand over; hold listeners; release pipe; drain to successor"
	const handedUnlinked = "hand over; release pipe; drain to successor"
	const noGood = "; fail [waiter]: successor failed: broken"
	for _, r := range []race{
		{"link before tableflip", first(), greeted, []Event{is(SuccessorServes), is(FlipAccepted)}, handed, Draining, Succeeded, ""},
		{"tableflip before link", first(), greeted, []Event{is(FlipAccepted), is(SuccessorServes)}, handed, Draining, Succeeded, ""},
		{"tableflip before hello", first(), executing, []Event{is(FlipAccepted), is(Hello), is(SuccessorServes)}, handed, Draining, Succeeded, ""},
		{"serving without hello", first(), executing, []Event{is(SuccessorServes), is(FlipAccepted)}, "", Upgrading, Ready, ""},
		{"it exits", first(), greeted, []Event{failed(FlipFailed), is(SuccessorExited)}, "dismiss" + noGood, Serving, None, ""},
		{"it exits before hello", first(), executing, []Event{failed(FlipFailed), is(SuccessorExited)}, "dismiss" + noGood, Serving, None, ""},
		{"it is too late", first(), greeted, []Event{later(timeout, is(StartLate)), failed(FlipFailed), is(SuccessorExited)},
			"dismiss; fail [waiter]: successor was not ready within 1m0s and was killed", Serving, None, ""},
		{"ready, and does not serve", first(), ready, []Event{later(timeout, is(StartLate)), is(SuccessorExited)},
			"dismiss; fail [waiter]: successor was ready but did not serve within 1m0s and was killed", Serving, None, ""},
		{"ready, and never a message", first(), executing, []Event{is(FlipAccepted), later(timeout, is(StartLate))},
			"assume serving; " + handedUnlinked, Draining, Succeeded, "successor is ready but has sent nothing over the link; assuming that it serves"},

		// The end of the link races with what tableflip says.
		{"link's end before tableflip's", first(), executing, []Event{is(SuccessorLinkEnded), failed(FlipFailed), is(SuccessorExited)},
			"dismiss" + noGood, Serving, None, ""},
		{"link's end first, of one that lives", first(), greeted, []Event{is(SuccessorLinkEnded), is(SuccessorExited), failed(FlipFailed)},
			"dismiss; fail [waiter]: link to the successor ended before it was ready; it was killed", Serving, None, ""},
		{"killed, and tableflip is first", first(), greeted, []Event{is(SuccessorLinkEnded), failed(FlipFailed), is(SuccessorExited)},
			"dismiss; fail [waiter]: link to the successor ended before it was ready; it was killed", Serving, None, ""},
		{"killed, and tableflip has yet to return", first(), greeted, []Event{is(SuccessorLinkEnded), is(SuccessorExited)}, "dismiss", Upgrading, DismissedExited, ""},
		{"killed, although it was ready", first(), greeted, []Event{is(SuccessorLinkEnded), is(FlipAccepted), is(SuccessorServes), is(SuccessorExited)},
			"dismiss; fail [waiter]: link to the successor ended before it was ready; it was killed", Serving, None, ""},
		{"dies as it becomes ready", first(), ready, []Event{is(SuccessorLinkEnded), early},
			"dismiss 1s; fail [waiter]: successor died as it became ready", Serving, None, ""},
		{"link breaks as it becomes ready", first(), ready, []Event{is(SuccessorLinkEnded), is(SuccessorExited)},
			"dismiss 1s; fail [waiter]: link to the successor broke as it became ready; it was killed", Serving, None, ""},
		{"serves, and dies before tableflip says so", first(), confirmed, []Event{is(SuccessorLinkEnded), failed(FlipFailed), is(SuccessorExited)},
			"dismiss" + noGood, Serving, None, ""},
		{"serves, and its link breaks before tableflip says so", first(), confirmed, []Event{is(SuccessorLinkEnded), is(FlipAccepted)},
			handed + "; watch successor", Draining, SucceededUnlinked, ""},
		{"serves, and stops before tableflip says so", first(), confirmed, []Event{is(SuccessorLinkClosed), is(FlipAccepted)},
			handedUnlinked, Draining, SucceededGone, ""},
		{"a release without a link", first(), executing, []Event{is(SuccessorLinkEnded), is(FlipAccepted)}, "assume serving; " + handedUnlinked, Draining, SucceededGone, ""},
		{"the same, and tableflip is first", first(), executing, []Event{is(FlipAccepted), is(SuccessorLinkEnded)}, "assume serving; " + handedUnlinked, Draining, SucceededGone, ""},

		// After the takeover.
		{"it dies", first(), succeeded, []Event{is(SuccessorLinkEnded), is(SuccessorExited)}, "watch successor; rescue; revoke [waiter]",
			Draining, Replaced, "successor died after the takeover; executing this program again"},
		{"it dies, and the drain ends", first(), succeeded, []Event{is(SuccessorLinkEnded), is(SuccessorExited), is(Drained), is(HooksEnded)},
			"watch successor; rescue; revoke [waiter]; run hooks; report drained; succeed; finish; exit",
			Exited, Replaced, ""},
		{"it dies during the hooks", first(), then(succeeded, is(Drained)), []Event{is(SuccessorLinkEnded), is(SuccessorExited)},
			"watch successor; rescue; revoke [waiter]", Closing, Replaced, ""},
		{"whoever takes over dies too", first(), then(succeeded, is(SuccessorLinkEnded), is(SuccessorExited)), []Event{failed(RescueFailed), failed(RescueFailed)},
			"orphaned", Draining, SucceededGone, "successor died after the takeover; no process accepts connections now"},
		{"it dies, and a stop was requested here", first(), then(succeeded, is(StopSignal)), []Event{is(SuccessorLinkEnded), is(SuccessorExited)},
			"watch successor; orphaned", Draining, SucceededGone, "successor died after the takeover; no process accepts connections now"},
		{"it stops, and is killed then", first(), succeeded, []Event{is(SuccessorDrains), is(SuccessorLinkEnded), is(SuccessorExited)},
			"release listeners; watch successor; orphaned", Draining, SucceededGone, ""},
		{"it has stopped before tableflip says that it is ready", first(), confirmed, []Event{is(SuccessorDrains), is(FlipAccepted)},
			handedUnlinked, Draining, Succeeded, ""},
		{"it dies during an upgrade of its own", first(), succeeded, []Event{is(SuccessorUpgrades), is(SuccessorLinkEnded), is(SuccessorExited)},
			"watch successor; release listeners; orphaned", Draining, SucceededGone, ""},
		{"it dies after one that failed", first(), succeeded, []Event{is(SuccessorUpgrades), is(SuccessorSettles), is(SuccessorLinkEnded), is(SuccessorExited)},
			"watch successor; rescue; revoke [waiter]", Draining, Replaced, ""},
		{"its successor dies, and it drains", first(), then(succeeded, is(Hello)), []Event{is(SuccessorLinkEnded), {Kind: SuccessorExited, Younger: true}},
			"watch successor", Draining, SucceededGone, "serving generation died; the one that has executed it decides"},
		{"its successor dies, and it has exited", first(), then(succeeded, is(Hello)), []Event{is(SuccessorLinkEnded), is(SuccessorExited)},
			"watch successor; orphaned", Draining, SucceededGone, ""},
		{"its link is lost, and later it exits", first(), succeeded, []Event{is(SuccessorLinkEnded), is(SuccessorLost), is(SuccessorExited)},
			"watch successor; release listeners", Draining, SucceededGone, "link to the serving generation is lost"},
		{"it stops", first(), succeeded, []Event{is(SuccessorLinkClosed)}, "release listeners", Draining, SucceededGone, ""},
		{"it has a successor", first(), succeeded, []Event{is(Hello)}, "release listeners", Draining, Succeeded, "another generation serves already"},
		{"the drain ends", first(), succeeded, []Event{is(Drained), is(HooksEnded), ask, signal(1)},
			"run hooks; report drained; succeed [waiter]; finish; exit", Exited, Succeeded, ""},
		{"a trigger during the drain", first(), succeeded, []Event{control("next"), signal(1)}, "forward [next]; forward [1]", Draining, Succeeded, ""},
		{"a trigger during the hooks", first(), then(succeeded, is(Drained)), []Event{control("next")}, "forward [next]", Closing, Succeeded, ""},
	} {
		t.Run(r.name, r.test)
	}
}

func TestTriggerRaces(t *testing.T) {
	upgrading := then(begin, ask)
	taken := []Event{is(Hello), is(SuccessorServes), is(FlipAccepted)}
	signaled := second()
	signaled.Origins = []int{1}
	for _, r := range []race{
		{"two at once become one more", first(), upgrading, []Event{control("b"), control("c"), failed(FlipFailed), is(SuccessorExited)},
			"dismiss; fail [waiter]: successor failed: broken; execute [b c]", Upgrading, Executing, "upgrade requested again; joining the one that waits"},
		{"they go to the successor", first(), upgrading, then([]Event{control("b"), signal(1)}, taken...),
			"hand over; hold listeners; forward [b] [1]; release pipe; drain to successor", Draining, Succeeded, ""},
		{"one SIGHUP to each generation", first(), begin, []Event{signal(1), signal(2), signal(3)}, "execute [1]", Upgrading, Executing, "upgrade already requested"},
		{"two SIGHUPs to one generation", first(), begin, []Event{signal(1), signal(1)}, "execute [1]", Upgrading, Executing, "upgrade waiting"},
		{"from a release that names no origin", first(), begin, []Event{signal(1), signal(0)}, "execute [1]", Upgrading, Executing, "upgrade waiting"},
		{"two SIGHUPs a second apart", first(), begin, []Event{signal(1), later(SameIntent, signal(2))}, "execute [1]", Upgrading, Executing, "upgrade waiting"},
		{"the signal that led here, passed on late", signaled, begin, []Event{is(GateOpened), signal(3)}, "", Serving, None, "upgrade already requested"},
		{"one that this process got itself", signaled, begin, []Event{is(GateOpened), signal(2)}, "report to 1; execute [2]", Upgrading, Executing, ""},
		{"tableflip's predecessor still drains", second(), begin, []Event{ask, is(GateOpened)}, "report to 1; execute [waiter]", Upgrading, Executing, "upgrade waiting"},
		{"too many drain", second(), then(begin, is(GateOpened), added(2, 0)), []Event{ask, of(2, PredecessorDrained), of(2, PredecessorUnlinked)},
			"forget 2; report to 1; execute [waiter]", Upgrading, Executing, "upgrade waiting"},
	} {
		t.Run(r.name, r.test)
	}
}

func TestStopRaces(t *testing.T) {
	var (
		stopped   = then(begin, is(StopSignal))
		upgrading = then(begin, ask, is(Hello))
		ready     = then(upgrading, is(FlipAccepted))
		message   = Event{Kind: StopMessage, By: "the predecessor"}
		known     = then(then(begin, is(GateOpened)), is(StopSignal), is(DelayOver))
	)
	blind := first()
	blind.Gate = GateHeldUnlinked
	const handed = "hand over; release pipe; drain to successor"
	for _, r := range []race{
		{"a stop", first(), begin, []Event{is(StopSignal), is(DelayOver), is(Drained), is(HooksEnded)},
			"begin stop; drain for stop; run stop hooks; finish; exit", Exited, None, ""},
		{"by the predecessor too", first(), stopped, []Event{message}, "", Stopping, None, "stop requested; already stopping"},
		{"by the predecessor first", first(), begin, []Event{message, is(StopSignal)}, "begin stop", Stopping, None, "stop requested; already stopping"},
		{"a second signal in the delay", first(), stopped, []Event{is(StopSignal)}, "drain for stop; cut drain", StopDraining, None, "stop requested again; closing connections forcibly"},
		{"a second signal in the drain", first(), then(stopped, is(DelayOver)), []Event{is(StopSignal)}, "cut drain", StopDraining, None, ""},
		{"a second signal in the hooks", first(), then(stopped, is(DelayOver), is(Drained)), []Event{is(StopSignal)}, "", StopClosing, None, ""},
		{"a trigger in the drain is refused", first(), then(stopped, is(DelayOver)), []Event{ask, signal(1)}, "refuse [waiter]; refuse [1]", StopDraining, None, ""},
		{"a trigger is refused", first(), stopped, []Event{ask, signal(1)}, "refuse [waiter]; refuse [1]", Stopping, None, ""},
		{"a trigger that waited is refused", second(), begin, []Event{ask, is(StopSignal)}, "begin stop; report to 1; refuse [waiter]", Stopping, None, ""},

		// During an upgrade the successor may serve already, and ends by itself.
		{"successor fails", first(), upgrading, []Event{is(StopSignal), failed(FlipFailed), is(SuccessorExited), is(DelayOver)},
			"begin stop; send stop; dismiss; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
		{"the delay ends first", first(), upgrading, []Event{is(StopSignal), is(DelayOver), failed(FlipFailed), is(SuccessorExited)},
			"begin stop; send stop; dismiss; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
		{"successor takes its time", first(), upgrading, []Event{is(StopSignal), is(DelayOver), is(PatienceOver), failed(FlipFailed), is(SuccessorExited)},
			"begin stop; send stop; stop flip; dismiss; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
		{"successor served already", first(), upgrading, []Event{is(StopSignal), is(SuccessorServes), is(FlipAccepted)},
			"begin stop; send stop; " + handed, Draining, Succeeded, ""},
		{"successor served already, and the delay is over", first(), upgrading, []Event{is(StopSignal), is(DelayOver), is(SuccessorServes), is(FlipAccepted)},
			"begin stop; send stop; " + handed, Draining, Succeeded, ""},
		{"successor is ready, and hangs", first(), ready, []Event{is(StopSignal), is(DelayOver), is(PatienceOver), is(SuccessorExited)},
			"begin stop; send stop; stop flip; dismiss; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},
		{"successor is ready, and never a message", first(), then(begin, ask, is(FlipAccepted)), []Event{is(StopSignal), is(PatienceOver)},
			"begin stop; send stop; stop flip; assume serving; " + handed, Draining, Succeeded, ""},
		{"the same, and a second signal", first(), then(begin, ask, is(FlipAccepted)), []Event{is(StopSignal), is(StopSignal)},
			"begin stop; send stop; stop flip; assume serving; " + handed + "; cut drain", Draining, Succeeded, ""},
		{"a second signal during the upgrade", first(), upgrading, []Event{is(StopSignal), is(StopSignal), failed(FlipFailed), is(SuccessorExited)},
			"begin stop; send stop; stop flip; dismiss; abandon; refuse [waiter]; drain for stop; cut drain", StopDraining, None, ""},
		{"a stop while the successor is killed", first(), then(upgrading, is(SuccessorLinkEnded)), []Event{is(StopSignal), is(SuccessorExited), is(DelayOver), failed(FlipFailed)},
			"begin stop; send stop; abandon; refuse [waiter]; drain for stop", StopDraining, None, ""},

		// With a successor.
		{"after the takeover", first(), then(upgrading, is(SuccessorServes), is(FlipAccepted)), []Event{is(StopSignal), message, is(StopSignal)},
			"release listeners; cut drain", Draining, Succeeded, "stop requested; draining continues, since a successor serves"},

		// The last generation waits for all that drain.
		{"waits for a predecessor", second(), then(begin, is(GateOpened)), []Event{is(StopSignal), is(DelayOver), is(Drained), is(PredecessorDrained), is(PredecessorUnlinked)},
			"begin stop; report to 1; drain for stop; open control; forget 1; run stop hooks", StopClosing, None, "drained; waiting for predecessors that are still draining"},
		{"a second signal ends the wait", second(), then(known, is(Drained)), []Event{is(StopSignal)}, "run stop hooks", StopClosing, None, ""},
		{"waits for one without a link", blind, then(begin, is(StopSignal), is(DelayOver), is(Drained)), []Event{is(GateOpened)}, "run stop hooks", StopClosing, None, ""},
	} {
		t.Run(r.name, r.test)
	}
}

func TestPredecessorRaces(t *testing.T) {
	var (
		open  = then(begin, is(GateOpened), is(Relieved), added(2, 0))
		known = then(open, ask, is(Hello), is(SuccessorServes))
		old   = then(open, ask, Event{Kind: Hello, Protocol: 1}, is(SuccessorServes))
	)
	several := second()
	several.MaxDraining = 4
	past := several
	past.Predecessor = &Member{ID: 1, Generation: 1, Protocol: 1}
	waiting := then(known, is(FlipAccepted), of(2, LinkReleased), of(2, LinkKept), is(LinkReleased), is(LinkPassed), is(Drained))
	for _, r := range []race{
		{"it reports and exits", second(), open, []Event{is(PredecessorDrained), is(PredecessorUnlinked), is(PredecessorExited)}, "forget 1", Serving, None, "predecessor exited"},
		{"its end is seen before that of its link", second(), open, []Event{is(PredecessorDrained), is(PredecessorExited), is(PredecessorUnlinked)}, "forget 1", Serving, None, "predecessor exited"},
		{"it dies", second(), open, []Event{is(PredecessorUnlinked), is(PredecessorExited)}, "watch 1; forget 1", Serving, None, "predecessor exited without a report; its requests and connections are lost"},
		{"its link is lost", second(), open, []Event{is(PredecessorUnlinked), is(PredecessorLost), later(35*time.Second, is(PredecessorDue)), is(PredecessorExited)},
			"watch 1; kill 1; forget 1", Serving, None, "predecessor has outlived its drain; killing it"},
		{"it is not overdue yet", second(), open, []Event{later(34*time.Second, is(PredecessorDue))}, "", Serving, None, ""},
		{"its link is lost, and nobody knows when it is due", second(), open, []Event{{Kind: PredecessorAdded, Member: Member{ID: 3, Drain: time.Minute}},
			of(3, PredecessorUnlinked), of(3, PredecessorLost), later(35*time.Second, is(PredecessorDue)), later(30*time.Second, is(PredecessorDue))},
			"watch 3; kill 1; kill 3", Serving, None, ""},
		{"it is killed once", second(), open, []Event{later(35*time.Second, is(PredecessorDue)), later(time.Minute, is(PredecessorDue))}, "kill 1", Serving, None, ""},

		{"all are passed on", several, known, []Event{is(FlipAccepted), of(2, LinkReleased), of(2, LinkPassed), is(LinkReleased), is(LinkPassed)},
			"hand over; hold listeners; release link 2; release link 1; pass link 2; pass link 1; release pipe; drain to successor", Draining, Succeeded, ""},
		{"the last report was on its way", several, known, []Event{is(FlipAccepted), of(2, PredecessorDrained), of(2, LinkReleased), is(LinkReleased), is(LinkPassed)},
			"hand over; hold listeners; release link 2; release link 1; follow link 2; pass link 1; release pipe; drain to successor", Draining, Succeeded, ""},
		{"a link cannot be passed on", several, waiting[:len(waiting)-1], []Event{is(Drained), of(2, PredecessorDrained), of(2, PredecessorUnlinked)},
			"forget 2; run hooks", Closing, Succeeded, "drained; waiting for predecessors that are still draining"},
		{"a second signal ends the wait", several, waiting, []Event{is(StopSignal), is(StopSignal)}, "release listeners; run hooks", Closing, Succeeded, ""},
		{"a signal was passed on, and not heard yet", several, known, []Event{is(FlipAccepted), signal(1)}, "hand over; hold listeners; release link 2; release link 1; forward [1]", Passing, Succeeded, ""},
		{"one that has reported", several, then(known, of(2, PredecessorDrained)), []Event{is(FlipAccepted), is(LinkReleased), is(LinkPassed)},
			"hand over; hold listeners; report to 2; release link 1; pass link 1; release pipe; drain to successor", Draining, Succeeded, ""},
		{"one whose link has ended", several, then(known, of(2, PredecessorUnlinked)), []Event{is(FlipAccepted), is(LinkReleased), is(LinkPassed)},
			"hand over; hold listeners; release link 1; pass link 1; release pipe; drain to successor", Draining, Succeeded, ""},
		{"a successor of the past", several, old, []Event{is(FlipAccepted)}, "hand over; report to 2; report to 1; release pipe; drain to successor", Draining, Succeeded, ""},
		{"a predecessor of the past", past, known, []Event{is(FlipAccepted), of(2, LinkReleased), of(2, LinkPassed)},
			"hand over; hold listeners; release link 2; report to 1; pass link 2; release pipe; drain to successor", Draining, Succeeded, ""},
		{"a successor that has no link any more", several, then(known, is(SuccessorLinkEnded)), []Event{is(FlipAccepted)},
			"hand over; hold listeners; report to 2; report to 1; release pipe; drain to successor; watch successor", Draining, SucceededUnlinked, ""},
		{"one that comes after the takeover", several, then(known, is(FlipAccepted), of(2, LinkReleased), of(2, LinkPassed), is(LinkReleased), is(LinkPassed)),
			[]Event{added(3, -1), is(Drained), of(3, PredecessorDrained), of(3, PredecessorUnlinked)}, "forget 3; run hooks", Closing, Succeeded, ""},
	} {
		t.Run(r.name, r.test)
	}
}

// Nothing happens after the exit.
func TestAfterExit(t *testing.T) {
	for phase, events := range map[Phase][]Event{
		Failed: {is(Begun), failed(CheckFailed), is(HooksEnded)},
		Exited: then(begin, ask, is(Hello), is(SuccessorServes), is(FlipAccepted), is(Drained), is(HooksEnded)),
	} {
		m, now := New(first()), epoch
		play(m, &now, events)
		if m.Phase() != phase {
			t.Fatalf("got phase %v, want %v", m.Phase(), phase)
		}
		for kind := range kinds {
			if actions := m.Handle(is(kind)); len(actions) > 0 {
				t.Errorf("phase %v, event %d: got actions %v, want none", phase, kind, actions)
			}
		}
	}
}

// A state that no row of its table leads to is a mistake, and so is one without a name.
func TestTables(t *testing.T) {
	reached := map[Phase]bool{Checking: true}
	for from, row := range phases {
		if row.name == "" {
			t.Errorf("phase %d has no name", from)
		}
		for _, to := range row.next {
			reached[to] = true
		}
		if _, ok := phaseRules[Phase(from)]; ok == Phase(from).Ended() {
			t.Errorf("phase %v: got rules: %v, want %v", Phase(from), ok, !ok)
		}
	}
	if len(reached) != len(phases) {
		t.Errorf("%d phases can be reached, want %d", len(reached), len(phases))
	}
	attempts := map[Attempt]bool{None: true, Executing: true}
	for _, rules := range attemptRules {
		for _, rule := range rules {
			attempts[rule.to] = true
		}
	}
	if len(attempts) != len(attemptNames) {
		t.Errorf("%d states of an attempt can be reached, want %d", len(attempts), len(attemptNames))
	}
	predecessors := map[Predecessor]bool{Linked: true, Releasing: true}
	for _, rules := range predecessorRules {
		for _, rule := range rules {
			predecessors[rule.to] = true
		}
	}
	if all := int(Gone) + 1; len(predecessors) != all {
		t.Errorf("%d states of a predecessor can be reached, want %d", len(predecessors), all)
	}
	for verb, name := range verbNames {
		if name == "" {
			t.Errorf("verb %d has no name", verb)
		}
	}
}
