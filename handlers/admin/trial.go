package admin

import (
	"cmp"
	"fmt"
	"math"
	"strconv"

	"example.com/baton/upgrade"
)

// trialView is a trial as the page shows it.
type trialView struct {
	upgrade.TrialStatus
	Successor, Serving sideView
	Word, Time         string
}

// sideView is one of the two generations of a trial.
type sideView struct{ Name, Share, Counts string }

// Trial returns the trial that runs, or the last one; nil without one.
func (v view) Trial() *trialView {
	t := v.Status.Trial
	if t == nil {
		return nil
	}
	shown := &trialView{
		TrialStatus: *t,
		Successor:   side(t.To, "successor", t.Successor),
		Serving:     side(t.From, "predecessor", t.Serving),
		Word:        cmp.Or(t.Verdict, "ended"),
		Time:        v.Ago(t.Ends),
	}
	if t.Running() {
		shown.Word = "the predecessor can take back"
		shown.Time = span(math.Ceil(max(0, t.Ends.Sub(v.now).Seconds()))) + " left"
	}
	if t.Stage == upgrade.StageTrial {
		shown.Word = strconv.FormatFloat(100*t.Share, 'g', 6, 64) + " % of the connections"
	}
	return shown
}

// Head is the heading.
func (t *trialView) Head() string {
	if t.Stage == upgrade.StageWatch {
		return "Watch"
	}
	return "Trial"
}

// Class is the class of what depends on the verdict.
func (t *trialView) Class() string {
	if t.Running() {
		return "running"
	}
	return t.Verdict
}

func side(generation int, role string, o upgrade.Outcomes) sideView {
	count := func(n uint64) string { return number(int(n)) }
	return sideView{
		Name:  fmt.Sprintf("Generation %d, the %s", generation, role),
		Share: ratio(o.Failed, o.Ended),
		Counts: fmt.Sprintf("%s · %s failed · %s denied · %s redirected · %s empty", plural(int(o.Ended), "request"),
			count(o.Failed), count(o.Denied), count(o.Redirected), count(o.Empty)),
	}
}

// ratio writes what the function of that name in the page's script does.
func ratio(part, of uint64) string {
	if of == 0 {
		return "–"
	}
	return strconv.FormatFloat(100*float64(part)/float64(of), 'f', 1, 64) + " %"
}
