package upgrade

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"text/tabwriter"
	"time"

	"example.com/baton/upgrade/internal/judge"
)

// String is the trial in one line, as of now: the progress that [Ask] reports.
func (t TrialStatus) String() string { return t.line(time.Now()) }

func (t TrialStatus) line(now time.Time) string {
	text := "watch: "
	switch t.Stage {
	case "":
		text = "trial, " + cmp.Or(t.Verdict, "ended") + ": "
	case StageTrial:
		text = fmt.Sprintf("trial: %s of connections, ", percent(t.Share, -1))
	}
	text += judge.Summary(t.Successor, t.Serving)
	switch {
	case t.Running():
		text += "; " + t.left(now) + " left"
	case t.Reason != "":
		text += "; " + t.Reason
	}
	return text
}

// left is how long the stage still takes, in seconds.
func (t TrialStatus) left(now time.Time) string {
	return fmt.Sprintf("%.0f s", math.Ceil(max(0, t.Ends.Sub(now).Seconds())))
}

// write writes the trial as a table with both generations, and a line about it.
func (t TrialStatus) write(w io.Writer, now time.Time) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TRIAL\tGENERATION\tREQUESTS\tFAILED\tDENIED\tREDIRECTED\tEMPTY\tMEDIAN")
	row := func(name string, generation int, o Outcomes) {
		fmt.Fprintf(table, "%s\t%d\t%s", name, generation, judge.Thousands(o.Ended))
		for _, n := range []uint64{o.Failed, o.Denied, o.Redirected, o.Empty} {
			fmt.Fprintf(table, "\t%s", ratio(n, o.Ended))
		}
		fmt.Fprintf(table, "\t%s\n", median(o))
	}
	row("successor", t.To, t.Successor)
	row("predecessor", t.From, t.Serving)
	table.Flush()
	switch {
	case t.Stage == StageTrial:
		fmt.Fprintf(w, "The successor is given %s of the connections; %s left.\n", percent(t.Share, -1), t.left(now))
	case t.Running():
		fmt.Fprintf(w, "The successor accepts, and the predecessor can take back; %s left.\n", t.left(now))
	default:
		fmt.Fprintf(w, "Verdict of %s: %s", t.Ends.Local().Format(time.DateTime), cmp.Or(t.Verdict, "none"))
		if t.Reason != "" {
			fmt.Fprint(w, "; ", t.Reason)
		}
		fmt.Fprintln(w)
	}
}

// median writes the time that half of the requests take at most.
func median(o Outcomes) string {
	d, n := o.Latency.Median()
	if n == 0 {
		return "-"
	}
	return span(d.Seconds())
}

// ratio writes a part of a number, and how much of it that is.
func ratio(part, of uint64) string {
	if part == 0 || of == 0 {
		return judge.Thousands(part)
	}
	return judge.Thousands(part) + " (" + percent(float64(part)/float64(of), 1) + ")"
}

// percent writes a share, from 0 to 1, with a number of digits after the point; -1: as many
// as it takes.
func percent(share float64, digits int) string {
	return strconv.FormatFloat(math.Round(share*1e6)/1e4, 'f', digits, 64) + " %"
}
