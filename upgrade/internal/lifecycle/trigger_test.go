package lifecycle

import (
	"testing"
	"time"
)

func TestHangupToSeveralGenerations(t *testing.T) {
	tests := []struct {
		name    string
		begun   time.Duration // ago
		known   []int         // origins
		origins []int         // then
		same    []bool
	}{
		{"killall", time.Hour, nil, []int{3, 1, 2}, []bool{false, true, true}},
		{"two of them", time.Hour, nil, []int{3, 1, 3, 1}, []bool{false, true, false, true}},
		{"one process twice", time.Hour, nil, []int{1, 1}, []bool{false, false}},
		{"the successor gets the rest", 0, []int{3}, []int{1, 2, 4}, []bool{true, true, true}},
		{"too late", time.Second, []int{3}, []int{1}, []bool{false}},
		{"a trigger that was no signal", 0, nil, []int{1}, []bool{false}},
		{"a release that names no origin", 0, []int{3}, []int{0, 0}, []bool{false, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := hangup{at: epoch.Add(-tt.begun), origins: tt.known}
			for i, origin := range tt.origins {
				if got := h.isSame(origin, epoch); got != tt.same[i] {
					t.Errorf("signal %d, to generation %d: got the same: %v, want %v", i+1, origin, got, tt.same[i])
				}
			}
		})
	}
}
