package load

import (
	"time"

	"example.com/baton/e2e/internal/build"
)

// Paced returns the load as it is, and with the race detector a slower one of the same clients: those that are busy rest
// for a moment after each request, and the pauses of others are five times as long. Requests take several times as
// long then, and clients without a pause take the machine from the upgrades that they are to notice: most of what
// the test costs would be waiting for its own load. At any moment there still are requests under way.
func (l Load) Paced() Load {
	if build.Race {
		l.Rest, l.Pause = 5*time.Millisecond, 100*time.Millisecond
	}
	return l
}
