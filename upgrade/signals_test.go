package upgrade

import (
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestSignalsThatMeanTheSame(t *testing.T) {
	const term, intr, hup = syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP
	type sent struct {
		after time.Duration // the one before
		sig   os.Signal
	}
	tests := []struct {
		name string
		sent []sent
		want []os.Signal
	}{
		{"to the process and to its group", []sent{{0, term}, {0, term}}, []os.Signal{term}},
		{"of two kinds", []sent{{0, intr}, {time.Second / 2, term}}, []os.Signal{intr}},
		{"impatience", []sent{{0, term}, {time.Second, term}}, []os.Signal{term, term}},
		{"the second counts from the first", []sent{{0, term}, {time.Second * 3 / 4, term}, {time.Second * 3 / 4, term}}, []os.Signal{term, term}},
		{"a stop goes first", []sent{{0, hup}, {0, term}}, []os.Signal{term, hup}},
		{"triggers are one", []sent{{0, hup}, {0, hup}, {0, hup}}, []os.Signal{hup}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signals, triggers, stops := make(chan os.Signal), make(chan os.Signal, 1), make(chan os.Signal, 2)
				go deliver(signals, triggers, stops)
				defer close(stops)
				for _, s := range tt.sent { // the receiver is busy meanwhile
					time.Sleep(s.after)
					if s.sig == hup {
						triggers <- s.sig
					} else {
						stops <- s.sig
					}
					synctest.Wait()
				}
				var got []os.Signal
				for range len(tt.sent) {
					select {
					case s := <-signals:
						got = append(got, s)
					case <-time.After(time.Minute):
					}
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("got %v, want %v", got, tt.want)
				}
			})
		})
	}
}

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
			h := hangup{at: time.Now().Add(-tt.begun), origins: tt.known}
			for i, origin := range tt.origins {
				if got := h.isSame(origin); got != tt.same[i] {
					t.Errorf("signal %d, to generation %d: got the same: %v, want %v", i+1, origin, got, tt.same[i])
				}
			}
		})
	}
}
