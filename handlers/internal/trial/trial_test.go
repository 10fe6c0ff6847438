package trial

import (
	"testing"
	"time"

	"example.com/baton/upgrade"
	"github.com/google/go-cmp/cmp"
)

func TestShow(t *testing.T) {
	now := time.Now()
	sides := View{Successor: Side{"Generation 4, the successor", "0.5 %", "1,312 requests · 7 failed · 1 denied · 2 redirected · 3 empty · median 7.5 ms"},
		Serving: Side{"Generation 3, the predecessor", "–", "0 requests · 0 failed · 0 denied · 0 redirected · 0 empty"}}
	for name, test := range map[string]struct {
		trial upgrade.TrialStatus
		want  View
	}{
		"trial": {upgrade.TrialStatus{Stage: upgrade.StageTrial, Share: .07, Ends: now.Add(61500 * time.Millisecond)},
			View{Head: "Trial", Word: "7 % of the connections", Class: "running", Left: "1 min 2 s left"}},
		"watch":                {upgrade.TrialStatus{Stage: upgrade.StageWatch, Share: .07, Ends: now.Add(-time.Second)}, View{Head: "Watch", Word: "the predecessor can take back", Class: "running", Left: "0 s left"}},
		"bad":                  {upgrade.TrialStatus{Verdict: upgrade.VerdictBad, Ends: now}, View{Head: "Trial", Word: "bad", Class: "bad"}},
		"over without verdict": {upgrade.TrialStatus{Ends: now}, View{Head: "Trial", Word: "ended"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.trial.From, test.trial.To, test.trial.Successor = 3, 4, upgrade.Outcomes{Ended: 1312, Failed: 7, Denied: 1, Redirected: 2, Empty: 3}
			test.trial.Successor.Latency.Add(7 * time.Millisecond)
			test.want.Successor, test.want.Serving = sides.Successor, sides.Serving
			if diff := cmp.Diff(test.want, Show(test.trial, now)); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}
