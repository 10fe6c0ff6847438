package load

import "time"

// Paced returns a slower load of the same clients: those that are busy rest for a moment after each request, and the
// pauses of the others are five times as long, unless the load says how long. Clients without a pause take the machine
// from the upgrades that they are to notice, and most of what a test costs would be waiting for its own load. They find
// no more: while connections migrate, which takes some milliseconds, each busy client still begins a request or two.
func (l Load) Paced() Load {
	l.Rest = 5 * time.Millisecond
	if l.Pause == 0 {
		l.Pause = 100 * time.Millisecond
	}
	return l
}
