package upgrade

import (
	"log/slog"
	"slices"
	"testing"
)

// recorder appends the states between which each transition leads.
type recorder struct {
	NopObserver
	told *[]State
}

func (r recorder) StateChanged(from, to State) { *r.told = append(*r.told, from, to) }

func TestTransitions(t *testing.T) {
	allowed := map[[2]State]bool{
		{Starting, Serving}:   true,
		{Serving, Upgrading}:  true,
		{Serving, Draining}:   true,
		{Upgrading, Serving}:  true,
		{Upgrading, Draining}: true,
		{Draining, Exited}:    true,
	}
	for from := Starting; from <= Exited; from++ {
		for to := Starting; to <= Exited; to++ {
			var told []State
			g := &Generation{state: from, log: slog.New(slog.DiscardHandler)}
			for range 2 { // one after the other
				g.Observe(recorder{told: &told})
			}
			panicked := func() (p bool) {
				defer func() { p = recover() != nil }()
				g.enter(to)
				return false
			}()
			want := allowed[[2]State{from, to}]
			if panicked == want {
				t.Errorf("%v to %v: got panic %v, want %v", from, to, panicked, !want)
			}
			if want && (g.State() != to || !slices.Equal(told, []State{from, to, from, to})) {
				t.Errorf("%v to %v: got state %v, told %v", from, to, g.State(), told)
			}
			if !want && (g.State() != from || told != nil) {
				t.Errorf("%v to %v: got state %v, told %v, want nothing changed", from, to, g.State(), told)
			}
		}
	}
}
