package await

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestHolds(t *testing.T) {
	tests := []struct {
		name  string
		after time.Duration // when the condition comes true
		want  bool
	}{
		{"at once", 0, true},
		{"in time", 900 * time.Millisecond, true},
		{"too late", 1100 * time.Millisecond, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				got := Holds(time.Second, func() bool { return time.Since(begun) >= tt.after })
				if got != tt.want {
					t.Errorf("got %v, want %v", got, tt.want)
				}
				if took := time.Since(begun); took < min(tt.after, time.Second) || took > time.Second+10*time.Millisecond {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestThroughout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		Throughout(t, time.Second, "truth", func() bool { return true })
		if took := time.Since(begun); took < time.Second {
			t.Errorf("returned after %v, want the whole second", took)
		}
	})
}

func TestStrain(t *testing.T) {
	if got := Strain(); got < 1 {
		t.Errorf("strain: got %v, want 1 or more", got)
	}
	l := Measure(t)
	l.note(3, 7*time.Second)
	if got := l.Slower(time.Second); got < 10*time.Second {
		t.Errorf("three times as slow, and held up for 7 s: got %v, want 10s or more", got)
	}
}
