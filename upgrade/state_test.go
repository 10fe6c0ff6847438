package upgrade

import (
	"log/slog"
	"slices"
	"testing"

	"example.com/baton/upgrade/internal/lifecycle"
)

// recorder appends the states between which each transition leads.
type recorder struct {
	NopObserver
	told *[]State
}

func (r recorder) StateChanged(from, to State) { *r.told = append(*r.told, from, to) }

// Others see the state of a generation, and each change of it once. The phases by which it
// gets from one to the next are its own.
func TestTransitions(t *testing.T) {
	phases := map[State][]lifecycle.Phase{
		Starting:  {lifecycle.Checking, lifecycle.Checked, lifecycle.Preparing, lifecycle.Aborting, lifecycle.Failed},
		Probation: {lifecycle.Standby, lifecycle.Probation},
		Serving:   {lifecycle.Serving},
		Upgrading: {lifecycle.Upgrading},
		Draining: {lifecycle.Stopping, lifecycle.StopDue, lifecycle.StopDraining, lifecycle.StopWaiting, lifecycle.StopClosing,
			lifecycle.Returning, lifecycle.Passing, lifecycle.Draining, lifecycle.Waiting, lifecycle.Closing},
		Exited: {lifecycle.Exited},
	}
	total := 0
	for from, before := range phases {
		for to, after := range phases {
			for _, p := range before {
				for _, q := range after {
					total++
					var told, want []State
					g := &Generation{state: from, log: slog.New(slog.DiscardHandler)}
					for range 2 { // one after the other
						g.Observe(recorder{told: &told})
						if from != to {
							want = append(want, from, to)
						}
					}
					g.enter(p, q)
					if g.State() != to || !slices.Equal(told, want) {
						t.Errorf("from %v to %v: got state %v, told %v, want %v, told %v", p, q, g.State(), told, to, want)
					}
				}
			}
		}
	}
	if n := int(lifecycle.Failed) + 1; total != n*n {
		t.Errorf("got %d transitions, want %d: a phase has no state", total, n*n)
	}
}

// Run knows what to do about every action.
func TestVerbs(t *testing.T) {
	const last = lifecycle.FollowLink
	for verb := range last + 1 {
		if verbs[verb] == nil {
			t.Errorf("verb %d has no meaning", verb)
		}
	}
	if len(verbs) != int(last)+1 {
		t.Errorf("got %d verbs, want %d", len(verbs), last+1)
	}
}
