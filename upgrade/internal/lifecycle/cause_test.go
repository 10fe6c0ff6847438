package lifecycle

import "testing"

// Whoever accepts again knows what has led to it.
func TestReclaimCause(t *testing.T) {
	trying := then(begin, ask, Event{Kind: Hello, Protocol: ordersSince, PID: 200}, is(SuccessorPrepared))
	undecided := tried()
	undecided.Trial.AbortUndecided = true
	for _, e := range []Event{
		{Kind: Judged, PID: 200, Stage: StageTrial, Verdict: Bad}, is(StageOver), {Kind: Abort, Waiter: "a"}, is(SuccessorReturns),
		is(SuccessorLinkEnded), failed(FlipFailed), is(StopSignal),
	} {
		m, now := New(undecided), epoch
		play(m, &now, trying)
		found := false
		for _, a := range play(m, &now, []Event{e}) {
			if found = found || a.Do == Reclaim; a.Do == Reclaim && a.Cause != e.Kind {
				t.Errorf("event %d: got cause %d", e.Kind, a.Cause)
			}
		}
		if !found {
			t.Errorf("event %d: it does not accept again", e.Kind)
		}
	}
}
