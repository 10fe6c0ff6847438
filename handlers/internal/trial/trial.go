package trial

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"time"

	"example.com/baton/handlers/internal/figure"
	"example.com/baton/upgrade"
)

// View has the texts of a trial, as HTML and scripts show them.
type View struct {
	Head      string `json:"head"`  // "Trial" or "Watch"
	Word      string `json:"word"`  // how it stands, or the verdict
	Class     string `json:"class"` // "running", or the verdict
	Left      string `json:"left"`  // the time left; empty when it is over
	Successor Side   `json:"successor"`
	Serving   Side   `json:"serving"`
}

// Side is one of the two generations.
type Side struct {
	Name   string `json:"name"`
	Share  string `json:"share"` // of its requests that failed
	Counts string `json:"counts"`
}

// Show returns the view of a trial at a time.
func Show(t upgrade.TrialStatus, now time.Time) View {
	v := View{
		Head: "Trial", Word: cmp.Or(t.Verdict, "ended"), Class: t.Verdict,
		Successor: side(t.To, "successor", t.Successor), Serving: side(t.From, "predecessor", t.Serving),
	}
	if !t.Running() {
		return v
	}
	v.Class, v.Left = "running", figure.Span(math.Ceil(max(0, t.Ends.Sub(now).Seconds())))+" left"
	if t.Stage == upgrade.StageWatch {
		v.Head, v.Word = "Watch", "the predecessor can take back"
	} else {
		v.Word = strconv.FormatFloat(100*t.Share, 'g', 6, 64) + " % of the connections"
	}
	return v
}

func side(generation int, role string, o upgrade.Outcomes) Side {
	median := ""
	if d, n := o.Latency.Median(); n > 0 {
		median = " · median " + figure.Duration(d.Seconds())
	}
	return Side{
		Name:  fmt.Sprintf("Generation %d, the %s", generation, role),
		Share: figure.Ratio(o.Failed, o.Ended),
		Counts: fmt.Sprintf("%s · %s failed · %s denied · %s redirected · %s empty", figure.Plural(o.Ended, "request"),
			figure.Number(o.Failed), figure.Number(o.Denied), figure.Number(o.Redirected), figure.Number(o.Empty)) + median,
	}
}
