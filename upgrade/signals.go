package upgrade

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/lifecycle"
)

// Signals returns a channel with the signals that [Generation.Run] understands:
// SIGHUP, SIGTERM and SIGINT. A program calls it first of all, since a signal
// that comes before ends the process. A SIGTERM or SIGINT within a second of one
// before is the same: some send it to the process and to its group.
func Signals() <-chan os.Signal {
	// A channel that is full loses signals: one kind must not crowd out another.
	triggers, stops := make(chan os.Signal, 1), make(chan os.Signal, 2)
	signal.Notify(triggers, syscall.SIGHUP)
	signal.Notify(stops, syscall.SIGTERM, syscall.SIGINT)
	signals := make(chan os.Signal)
	go deliver(signals, triggers, stops) // for the rest of the process
	return signals
}

// deliver passes signals on, stops before a trigger. It takes each at once, so that
// two which come together are seen as such, however busy the receiver is. It
// returns when stops is closed.
func deliver(signals chan<- os.Signal, triggers, stops <-chan os.Signal) {
	var (
		pending []os.Signal // stops
		trigger os.Signal   // nil: none
		last    time.Time   // when the last stop came that counts
	)
	for {
		var to chan<- os.Signal
		next := trigger
		if len(pending) > 0 {
			next = pending[0]
		}
		if next != nil {
			to = signals
		}
		select {
		case s, ok := <-stops:
			if !ok {
				return
			}
			if now := time.Now(); last.IsZero() || now.Sub(last) >= lifecycle.SameIntent {
				pending, last = append(pending, s), now
			}
		case trigger = <-triggers:
		case to <- next:
			if len(pending) > 0 {
				pending = pending[1:]
			} else {
				trigger = nil
			}
		}
	}
}
