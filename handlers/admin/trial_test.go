package admin

import (
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/upgrade"
)

func TestPageShowsATrialWithoutScripts(t *testing.T) {
	began := time.Now().Add(-time.Hour)
	for _, test := range []struct {
		name  string
		state string // of the successor
		trial upgrade.TrialStatus
		want  []string
	}{
		{"trial", "probation", upgrade.TrialStatus{Stage: upgrade.StageTrial, Share: .1, Ends: began.Add(24*time.Hour + time.Minute)},
			[]string{"Trial 10 % of the connections 23 h", "4 starting", "5 trial · 2 requests, 0 connections"}},
		{"watch", "starting", upgrade.TrialStatus{Stage: upgrade.StageWatch, Share: .1, Ends: began},
			[]string{"Watch the predecessor can take back 0 s left"}},
		{"bad", "starting", upgrade.TrialStatus{Ends: began, Verdict: upgrade.VerdictBad, Reason: "<b>7</b> of 7 requests failed"},
			[]string{"Trial bad 1 h ago", "&lt;b&gt;7&lt;/b&gt; of 7 requests failed", "5 starting for 250 ms"}},
		{"good", "probation", upgrade.TrialStatus{Ends: began, Verdict: upgrade.VerdictGood}, []string{"Trial good 1 h ago"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.trial.From, test.trial.To, test.trial.Began = 3, 5, began
			test.trial.Successor = upgrade.Outcomes{Ended: 1312, Failed: 7, Denied: 1, Redirected: 2, Empty: 3}
			s := newService()
			s.status.Trial = &test.trial
			s.status.Generations = append(s.status.Generations, upgrade.Member{Generation: 4, PID: 5, State: "starting"},
				upgrade.Member{Generation: 5, PID: 6, State: test.state, Age: .25, Load: upgrade.Load{Requests: 2}})
			response, page := testserver.Do(t, testserver.Serve(t, Handler(Options{Metrics: noMetrics(), Status: s.Status})), "GET", "/")
			testserver.CheckPolicy(t, response, page)
			text := visible(page)
			want := append(test.want, "Generation 5, the successor 0.5 % failed 1,312 requests · 7 failed · 1 denied · 2 redirected · 3 empty "+
				"Generation 3, the predecessor – failed 0 requests · 0 failed · 0 denied · 0 redirected · 0 empty")
			for _, want := range want {
				if !strings.Contains(text, want) {
					t.Errorf("got %q, want %q in it", text, want)
				}
			}
			testserver.Equal(t, "is hidden", strings.Contains(page, `<section id="trial" aria-labelledby="trialHead" hidden>`), false)
			testserver.Equal(t, "hides that there is no reason", strings.Contains(page, `id="trialReason" hidden>`), test.trial.Reason == "")
		})
	}
	_, page := testserver.Do(t, testserver.Serve(t, Handler(Options{Metrics: noMetrics(), Status: newService().Status})), "GET", "/")
	testserver.Equal(t, "without a trial, is hidden", strings.Contains(page, `<section id="trial" aria-labelledby="trialHead" hidden>`), true)
}

func TestSameStage(t *testing.T) {
	began := time.Now()
	running := &upgrade.TrialStatus{Stage: upgrade.StageTrial, Began: began, Successor: upgrade.Outcomes{Ended: 1}}
	for name, test := range map[string]struct {
		a, b *upgrade.TrialStatus
		want bool
	}{
		"none":         {nil, nil, true},
		"begins":       {nil, running, false},
		"is forgotten": {running, nil, false},
		"counts":       {running, &upgrade.TrialStatus{Stage: upgrade.StageTrial, Began: began}, true},
		"takes over":   {running, &upgrade.TrialStatus{Stage: upgrade.StageWatch, Began: began}, false},
		"ends":         {running, &upgrade.TrialStatus{Verdict: upgrade.VerdictBad, Began: began}, false},
		"another one":  {running, &upgrade.TrialStatus{Stage: upgrade.StageTrial, Began: began.Add(1)}, false},
	} {
		testserver.Equal(t, name, sameStage(test.a, test.b), test.want)
	}
}
