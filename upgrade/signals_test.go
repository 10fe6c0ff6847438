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
