package upgrade

import (
	"strings"
	"testing"
	"time"

	"example.com/baton/upgrade/internal/link"
	"github.com/google/go-cmp/cmp"
)

func TestTrialCounts(t *testing.T) {
	g := &Generation{number: 2}
	began := time.Now()
	trial := func(from int, began time.Time, successor, serving Outcomes) TrialStatus {
		return TrialStatus{From: from, To: from + 1, Began: began, Successor: successor, Serving: serving}
	}
	want := TrialCounts{Successor: addResults(nil, Outcomes{}), Serving: addResults(nil, Outcomes{})}
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, g.TrialCounts()); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", when, diff)
		}
	}
	check("without a trial")
	// The last trial of the predecessor is known here, and counted there.
	theirs := trial(1, began, Outcomes{Ended: 100, Failed: 50}, Outcomes{Ended: 100})
	g.trial = &theirs
	check("after the predecessor's")
	own := trial(2, began.Add(1), Outcomes{}, Outcomes{})
	g.setTrial(own)
	check("at the beginning")
	own.Successor, own.Serving = Outcomes{Ended: 20, Failed: 10, Denied: 1, Redirected: 2, Empty: 3}, Outcomes{Ended: 180}
	g.setTrial(own)
	want.Successor = map[string]uint64{"succeeded": 4, "failed": 10, "denied": 1, "redirected": 2, "empty": 3}
	want.Serving["succeeded"] = 180
	check("in a trial")
	g.countTakeback(TakebackFailed)
	want.Takebacks = map[Takeback]uint64{TakebackFailed: 1}
	check("after a take-back")
	watch := trial(2, began.Add(2), Outcomes{}, Outcomes{Ended: 180})
	g.setTrial(watch)
	check("at the beginning of a watch")
	watch.Successor, watch.Serving = Outcomes{Ended: 1}, Outcomes{Ended: 182, Failed: 1}
	g.setTrial(watch)
	want.Successor["succeeded"], want.Serving["succeeded"], want.Serving["failed"] = 5, 181, 1
	check("in the watch")
	g.countTakeback(TakebackFailed)
	g.countTakeback(TakebackDied)
	g.countTakeback("")
	want.Takebacks = map[Takeback]uint64{TakebackFailed: 2, TakebackDied: 1}
	check("after another take-back")
}

func TestTrialOfStatus(t *testing.T) {
	g := &Generation{number: 1}
	if got := g.Trial(); got != nil {
		t.Errorf("without a trial: got %+v", got)
	}
	g.setTrial(TrialStatus{Stage: StageTrial, From: 1, Reason: strings.Repeat("x", 501)})
	got := g.Trial()
	if got == nil || !got.Running() || len(got.Reason) != 500 {
		t.Errorf("got %+v, want a trial with a reason of 500 bytes", got)
	}
	got.Stage = ""
	if !g.Trial().Running() {
		t.Error("what Trial returns is not the caller's own")
	}
}

func TestSuccessorReturn(t *testing.T) {
	g := &Generation{opts: Options{DrainTimeout: 30 * time.Second, HookTimeout: 10 * time.Second}}
	if got := g.SuccessorReturn(); got != 0 {
		t.Errorf("without a successor: got %v", got)
	}
	g.successor = new(member)
	if got := g.SuccessorReturn(); got != 35*time.Second {
		t.Errorf("got %v, want that of a drain, and 5 s until it is killed", got)
	}
	g.hooks = append(g.hooks, hook{})
	if got := g.SuccessorReturn(); got != 45*time.Second {
		t.Errorf("got %v, want the hooks as well", got)
	}
}

// A generation shows the trial that it was in, from the reports of its predecessor, up to the first of its own.
func TestTrialOfThePredecessor(t *testing.T) {
	g := joined(t, 1, 2)[1]
	g.link, g.state, g.predecessorDrains = g.predecessors[0].link, Probation, make(chan struct{})
	report := func(trial TrialStatus) {
		g.takeReport(g.link, &link.Report{State: Upgrading.String(), Trial: encode(trial)})
	}
	theirs := TrialStatus{Stage: StageWatch, From: 1, To: 2, Began: time.Now(), Successor: Outcomes{Ended: 3}}
	report(theirs)
	if got := g.Trial(); got == nil || !got.Running() || got.Successor.Ended != 3 {
		t.Errorf("in its own watch: got %+v", got)
	}
	g.state = Serving
	if got := g.Trial(); got == nil || got.Running() {
		t.Errorf("once it has committed: got %+v, want one that is over", got)
	}
	theirs.Stage, theirs.Verdict = "", VerdictGood
	report(theirs)
	if got := g.Status().Trial; got == nil || got.Verdict != VerdictGood {
		t.Errorf("after the last report: got %+v, want its verdict", got)
	}
	before := g.Trial()
	g.setTrial(TrialStatus{Stage: StageTrial, From: 2, To: 3, Began: time.Now()})
	report(theirs) // the predecessor still drains
	if got := g.Trial(); !got.Running() || got.To != 3 || before.To != 2 {
		t.Errorf("in a trial of its own: got %+v, and before %+v", got, before)
	}
	g.takeReport(g.link, &link.Report{Trial: []byte(`{"share":"x"}`)})
	if got := g.Trial(); !got.Running() {
		t.Errorf("after a malformed report: got %+v", got)
	}
}

func TestTrialText(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.Local)
	successor, serving := Outcomes{Ended: 312, Denied: 3}, Outcomes{Ended: 2810, Failed: 3, Redirected: 1, Empty: 2810}
	successor.Latency.Add(7 * time.Millisecond)
	const table = "" +
		"TRIAL        GENERATION  REQUESTS  FAILED     DENIED     REDIRECTED  EMPTY            MEDIAN\n" +
		"successor    2           312       0          3 (1.0 %)  0           0                7 ms\n" +
		"predecessor  1           2,810     3 (0.1 %)  0          1 (0.0 %)   2,810 (100.0 %)  -\n"
	for name, test := range map[string]struct {
		trial       TrialStatus
		line, below string
	}{
		"trial": {
			TrialStatus{Stage: StageTrial, Share: .1, Ends: now.Add(11001 * time.Millisecond)},
			"trial: 10 % of connections, 312 requests, 0 failed (0.0 %); here 2,810, 3 failed (0.1 %); 12 s left",
			"The successor is given 10 % of the connections; 12 s left.\n",
		},
		"trial with a small share": {
			TrialStatus{Stage: StageTrial, Share: .0125, Ends: now},
			"trial: 1.25 % of connections, 312 requests, 0 failed (0.0 %); here 2,810, 3 failed (0.1 %); 0 s left",
			"The successor is given 1.25 % of the connections; 0 s left.\n",
		},
		"watch that ends late": {
			TrialStatus{Stage: StageWatch, Ends: now.Add(-time.Second)},
			"watch: 312 requests, 0 failed (0.0 %); here 2,810, 3 failed (0.1 %); 0 s left",
			"The successor accepts, and the predecessor can take back; 0 s left.\n",
		},
		"bad": {
			TrialStatus{Verdict: VerdictBad, Reason: "half of the logins fail", Ends: now},
			"trial, bad: 312 requests, 0 failed (0.0 %); here 2,810, 3 failed (0.1 %); half of the logins fail",
			"Verdict of 2026-05-01 12:00:00: bad; half of the logins fail\n",
		},
		"good": {
			TrialStatus{Verdict: VerdictGood, Ends: now},
			"trial, good: 312 requests, 0 failed (0.0 %); here 2,810, 3 failed (0.1 %)",
			"Verdict of 2026-05-01 12:00:00: good\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.trial.From, test.trial.To, test.trial.Successor, test.trial.Serving = 1, 2, successor, serving
			if got := test.trial.line(now); got != test.line {
				t.Errorf("got  %s\nwant %s", got, test.line)
			}
			var b strings.Builder
			test.trial.write(&b, now)
			if got, want := b.String(), table+test.below; got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	if got, want := (TrialStatus{Stage: StageWatch, Ends: now, Successor: Outcomes{Ended: 1}}).line(now), "watch: 1 request, 0 failed (0.0 %); here 0, 0 failed (0.0 %); 0 s left"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
