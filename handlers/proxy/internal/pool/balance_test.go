package pool

import (
	"testing"
	"time"
)

func TestStanding(t *testing.T) {
	type step struct {
		after time.Duration // since the one before
		event event
		want  State
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"refuses and is back", []step{{0, refused, Down}, {0, refused, Down}, {0, accepted, Up}}},
		{"down, and well again", []step{{0, refused, Down}, {0, healthy, Up}}},
		{"down, and accepts, but is not well", []step{{0, refused, Down}, {0, probed, Down}, {0, probed, Down}}},
		{"down does not answer for what it got before", []step{{0, refused, Down}, {0, answered, Down}, {0, resigned, Down}}},
		{"one check fails", []step{{0, unhealthy, Up}, {0, healthy, Up}, {0, unhealthy, Up}}},
		{"two fail", []step{{0, unhealthy, Up}, {0, unhealthy, Sick}, {0, accepted, Sick}, {0, refused, Sick}, {0, probed, Sick}, {0, healthy, Up}, {0, unhealthy, Up}}},
		{"probes do not count as checks", []step{{0, unhealthy, Up}, {0, probed, Up}, {0, unhealthy, Sick}}},
		{"leaves, goes, comes back", []step{{0, resigned, Leaving}, {0, accepted, Leaving}, {0, refused, Down}, {0, accepted, Up}, {0, resigned, Leaving}}},
		{"leaves, and stays", []step{{0, resigned, Leaving}, {leavingTime - 1, accepted, Leaving}, {1, accepted, Up}}},
		{"leaves, and goes on leaving", []step{{0, resigned, Leaving}, {leavingTime - 1, resigned, Leaving}, {1, accepted, Leaving}}},
		{"was not leaving", []step{{0, resigned, Leaving}, {trialPause, answered, Up}, {trustTime - 1, resigned, Up}, {1, resigned, Leaving}}},
		{"was not leaving, and does when it is back", []step{{0, resigned, Leaving}, {trialPause, answered, Up}, {0, refused, Down}, {0, accepted, Up}, {0, resigned, Leaving}}},
		{"leaves, but is well", []step{{0, resigned, Leaving}, {0, healthy, Up}, {0, resigned, Leaving}, {0, unhealthy, Leaving}, {0, unhealthy, Sick}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			var s standing
			for i, step := range test.steps {
				now = now.Add(step.after)
				before := s.state
				changed := s.on(step.event, now)
				if s.state != step.want || changed != (s.state != before) {
					t.Fatalf("step %d: got %v (changed: %v), want %v", i, s.state, changed, step.want)
				}
			}
		})
	}
}

func TestChoose(t *testing.T) {
	type one struct {
		state State
		load  int
		avoid bool
	}
	for _, test := range []struct {
		name     string
		backends []one
		want     []int // by turn; -1: none
	}{
		{"alone", []one{{Up, 7, false}}, []int{0, 0}},
		{"by turns", []one{{Up, 1, false}, {Up, 1, false}, {Up, 1, false}}, []int{0, 1, 2, 0}},
		{"fewest requests", []one{{Up, 2, false}, {Up, 1, false}, {Up, 3, false}}, []int{1, 1, 1}},
		{"only those that are up", []one{{Down, 0, false}, {Up, 9, false}, {Sick, 0, false}, {Leaving, 0, false}}, []int{1, 1, 1, 1}},
		{"none", []one{{Down, 0, false}, {Sick, 0, false}, {Leaving, 0, false}}, []int{-1}},
		{"avoided though idle", []one{{Up, 0, true}, {Up, 9, false}}, []int{1, 1}},
		{"avoided for want of another", []one{{Up, 1, true}, {Up, 0, true}, {Down, 0, false}}, []int{1, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var backends, avoid []*backend
			for _, o := range test.backends {
				b := &backend{standing: standing{state: o.state}, inProgress: o.load}
				backends = append(backends, b)
				if o.avoid {
					avoid = append(avoid, b)
				}
			}
			for turn, want := range test.want {
				got := -1
				for i, b := range backends {
					if b == choose(backends, avoid, turn) {
						got = i
					}
				}
				if got != want {
					t.Errorf("turn %d: got backend %d, want %d", turn, got, want)
				}
			}
		})
	}
}

func TestChooseLeaving(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := &backend{}
	b.on(resigned, now)
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {trialPause - 1, false}, {trialPause, true}, {trialPause, false}, {2*trialPause - 1, false}, {2 * trialPause, true}} {
		if got := chooseLeaving([]*backend{b}, now.Add(test.after)) == b; got != test.want {
			t.Errorf("after %v: got %v, want %v", test.after, got, test.want)
		}
	}
}
