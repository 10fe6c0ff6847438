package admin

import (
	_ "embed"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/baton/upgrade"
)

//go:embed status.html
var statusHTML string

var statusPage = template.Must(template.New("status").Funcs(template.FuncMap{
	"number": number, "plural": plural, "span": span, "duration": duration,
	"open":    func(l upgrade.Load) int { c := l.Connections; return c.New + c.Active + c.Idle + c.Hijacked },
	"rfc3339": func(t time.Time) string { return t.Format(time.RFC3339Nano) },
}).Parse(statusHTML))

// view is the first content of the status page, which its script then refreshes.
type view struct {
	Status   upgrade.Status
	Load     upgrade.Load // of all generations that are alive
	Requests int          // answered by the line of generations so far
	now      time.Time
}

// render returns the page.
func (v view) render() string {
	var html strings.Builder
	_ = statusPage.Execute(&html, v) // fails only where a test would have
	return html.String()
}

// At returns the time of the view.
func (v view) At() string { return v.now.UTC().Format("15:04:05 UTC") }

// Ago returns how long before the view t was.
func (v view) Ago(t time.Time) string {
	if seconds := v.now.Sub(t).Seconds(); seconds >= 1 {
		return span(seconds) + " ago"
	}
	return "now"
}

// Own returns the generation that answers, or nil if the status lacks it.
func (v view) Own() *upgrade.Member {
	for _, m := range v.Status.Generations {
		if m.PID == v.Status.PID {
			return &m
		}
	}
	return nil
}

// Generations returns those alive, newest first.
func (v view) Generations() []upgrade.Member {
	all := slices.SortedFunc(slices.Values(v.Status.Generations), func(a, b upgrade.Member) int { return b.Generation - a.Generation })
	for i, m := range all {
		if t := v.Status.Trial; t != nil && t.Running() && t.To == m.Generation && m.State == upgrade.Starting.String() {
			all[i].State = upgrade.StageTrial
		}
	}
	return all
}

// Upgrades returns the last ones, newest first.
func (v view) Upgrades() []upgrade.Upgrade {
	newest := slices.Clone(v.Status.Upgrades)
	slices.Reverse(newest)
	return newest
}

// The functions below write what those of the same names in the page's script do.

func number(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return number(n) + " " + noun
}

func duration(seconds float64) string {
	fixed := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	switch {
	case seconds < .0095:
		return fixed(seconds*1000, 1) + " ms"
	case seconds < .9995:
		return fixed(seconds*1000, 0) + " ms"
	case seconds < 9.95:
		return fixed(seconds, 1) + " s"
	}
	return span(seconds)
}

func span(seconds float64) string {
	two := func(s, unit int, name, smaller string, rest int) string {
		text := strconv.Itoa(s/unit) + name
		if rest > 0 {
			text += " " + strconv.Itoa(rest) + smaller
		}
		return text
	}
	switch s := int(seconds); {
	case s < 60:
		return strconv.Itoa(s) + " s"
	case s < 600:
		return two(s, 60, " min", " s", s%60)
	case s < 3600:
		return two(s, 60, " min", "", 0)
	case s < 172800:
		return two(s, 3600, " h", " min", s%3600/60)
	default:
		return strconv.Itoa(s/86400) + " days"
	}
}
