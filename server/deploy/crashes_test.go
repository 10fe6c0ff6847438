package deploy

import (
	"slices"
	"testing"
	"time"
)

func TestIsCrash(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		death    death
		wasReady bool
		want     bool
	}{
		{"a stop", death{"success", "exited", "0"}, true, false},
		{"systemd from before $SERVICE_RESULT", death{}, true, false},
		{"exit 1", death{"exit-code", "exited", "1"}, false, true},
		{"bad configuration", death{"exit-code", "exited", "2"}, false, false},
		{"panic", death{"exit-code", "exited", "2"}, true, true},
		{"exit 20", death{"exit-code", "exited", "20"}, false, true},
		{"cannot be executed", death{"exit-code", "exited", "203"}, false, true},
		{"no such user", death{"exit-code", "exited", "217"}, false, false},
		{"killed", death{"signal", "killed", "KILL"}, true, true},
		{"core", death{"core-dump", "dumped", "SEGV"}, true, true},
		{"watchdog", death{"watchdog", "killed", "ABRT"}, true, true},
		{"memory", death{"oom-kill", "killed", "KILL"}, true, true},
		{"exit 0 before it was ready", death{"protocol", "exited", "0"}, false, true},
		{"hangs at start", death{"timeout", "killed", "TERM"}, false, true},
		{"no resources", death{"resources", "", ""}, false, false},
	}
	for _, tt := range tests {
		if got := tt.death.isCrash(tt.wasReady); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestCrashes(t *testing.T) {
	t.Parallel()
	type event struct {
		file     string
		second   int
		previous string
		want     bool
	}
	tests := []struct {
		name   string
		events []event
	}{
		{"three within a minute", []event{{"v2", 0, "v1", false}, {"v2", 20, "v1", false}, {"v2", 60, "v1", true}}},
		{"three in more", []event{{"v2", 0, "v1", false}, {"v2", 20, "v1", false}, {"v2", 61, "v1", false}, {"v2", 70, "v1", true}}},
		{"nothing to go back to", []event{{"v2", 0, "", false}, {"v2", 1, "", false}, {"v2", 2, "", false}, {"v2", 3, "", false}}},
		{"the previous one is the same", []event{{"v2", 0, "v2", false}, {"v2", 1, "v2", false}, {"v2", 2, "v2", false}}},
		{"the previous one has crashed", []event{{"v1", 0, "", false}, {"v2", 10, "v1", false}, {"v2", 11, "v1", false}, {"v2", 12, "v1", false}}},
		{"another file is another count", []event{{"v2", 0, "v1", false}, {"v2", 1, "v1", false}, {"v3", 2, "v1", false}, {"v3", 3, "v1", false}, {"v3", 4, "v1", true}}},
		{"no way back and forth", []event{{"v2", 0, "v1", false}, {"v2", 1, "v1", false}, {"v2", 2, "v1", true},
			{"v1", 3, "v2", false}, {"v1", 4, "v2", false}, {"v1", 5, "v2", false}, {"v1", 6, "v2", false}}},
		{"the clock is set back", []event{{"v2", 1000, "v1", false}, {"v2", 1001, "v1", false}, {"v2", 0, "v1", false}, {"v2", 1, "v1", false}, {"v2", 2, "v1", true}}},
	}
	for _, tt := range tests {
		c := new(crashes)
		for i, e := range tt.events {
			if got := c.add(e.file, time.Unix(int64(e.second), 0), e.previous); got != e.want {
				t.Errorf("%s: crash %d: got %v, want %v", tt.name, i+1, got, e.want)
			}
		}
	}
}

// Whatever crashes when: a file that has replaced another is never replaced by that one, and what is
// written down is bounded.
func FuzzCrashes(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6})
	f.Add([]byte{0x10, 0x10, 0x10, 0x90, 0x90, 0x90, 0x10})
	f.Fuzz(func(t *testing.T, steps []byte) {
		c := new(crashes)
		inPlace, previous := "a", "b"
		at := time.Unix(0, 0)
		var replaced []string
		for _, step := range steps {
			at = at.Add(time.Duration(step&0x3f) * time.Second)
			if !c.add(inPlace, at, previous) {
				continue
			}
			if slices.Contains(replaced, previous) {
				t.Fatalf("%s is back, which was replaced", previous)
			}
			replaced = append(replaced, inPlace)
			inPlace, previous = previous, inPlace // worse than it is: what crashed is not kept as the previous one
		}
		if len(c.Crashes) > crashesKept {
			t.Errorf("%d crashes are written down", len(c.Crashes))
		}
	})
}
