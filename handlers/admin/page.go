package admin

import (
	_ "embed"
	"html/template"
	"slices"
	"strings"
	"time"

	"example.com/baton/handlers/backends"
	"example.com/baton/handlers/internal/figure"
	"example.com/baton/upgrade"
)

//go:embed status.html
var statusHTML string

var statusPage = template.Must(template.New("status").Funcs(template.FuncMap{
	"number": figure.Number[int], "count": figure.Number[uint64], "join": strings.Join, "plural": figure.Plural[int], "span": figure.Span, "duration": figure.Duration,
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

// Report returns what is known of the applications behind the proxy.
func (v view) Report() backends.Report { return backends.Parse(v.Status.Service) }

// At returns the time of the view.
func (v view) At() string { return v.now.UTC().Format("15:04:05 UTC") }

// Ago returns how long before the view t was.
func (v view) Ago(t time.Time) string {
	if seconds := v.now.Sub(t).Seconds(); seconds >= 1 {
		return figure.Span(seconds) + " ago"
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
		if t := v.Status.Trial; t != nil && t.Running() && t.To == m.Generation && (m.State == upgrade.Starting.String() || m.State == upgrade.Probation.String()) {
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
