package load

import (
	"testing"
	"time"
)

func TestTimes(t *testing.T) {
	var none, one, many Times
	one.add(time.Hour)
	for i := range 1000 {
		many.add(time.Duration(i+1) * time.Millisecond)
	}
	many.add(0)
	tests := []struct {
		name  string
		times *Times
		part  float64
		want  time.Duration
	}{
		{"none", &none, 0.5, 0},
		{"one, half", &one, 0.5, time.Hour},
		{"one, all", &one, 1, time.Hour},
		{"many, half", &many, 0.5, 500 * time.Millisecond},
		{"many, 99 of 100", &many, 0.99, 990 * time.Millisecond},
		{"many, all", &many, 1, time.Second},
	}
	for _, tt := range tests {
		if got := tt.times.Within(tt.part); got < tt.want || float64(got) > 1.13*float64(tt.want) {
			t.Errorf("%s: got %v, want %v or a little more", tt.name, got, tt.want)
		}
	}
}
