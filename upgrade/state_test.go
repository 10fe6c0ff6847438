package upgrade

import (
	"log/slog"
	"testing"
)

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
			g := &Generation{state: from, log: slog.New(slog.DiscardHandler),
				opts: Options{OnState: func(a, b State) { told = append(told, a, b) }}}
			panicked := func() (p bool) {
				defer func() { p = recover() != nil }()
				g.enter(to)
				return false
			}()
			want := allowed[[2]State{from, to}]
			if panicked == want {
				t.Errorf("%v to %v: got panic %v, want %v", from, to, panicked, !want)
			}
			if want && (g.State() != to || len(told) != 2 || told[0] != from || told[1] != to) {
				t.Errorf("%v to %v: got state %v, told %v", from, to, g.State(), told)
			}
			if !want && (g.State() != from || told != nil) {
				t.Errorf("%v to %v: got state %v, told %v, want nothing changed", from, to, g.State(), told)
			}
		}
	}
}
