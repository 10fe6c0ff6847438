package load

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

// Silence is the life of one connection on which the client said nothing (more).
type Silence struct {
	Habit        Habit
	Since, Until time.Time
	Told         time.Time    // when a GOAWAY came
	Ending       http1.Ending // how the server ended it; still open if the load ended first
}

// Tally is what came of a load. The counters may be read while it runs.
type Tally struct {
	Answered    [Habits]atomic.Int64 // answered as they should be
	Took        Times                // of those
	Failed      [exchange.Failures]atomic.Int64
	Connections [Habits]atomic.Int64 // dialled
	Reconnects  [Habits]atomic.Int64 // after a close that was announced
	IdleClosed  [Habits]atomic.Int64 // closed by the server while the client was not sending: no failure
	Lost        [Habits]atomic.Int64 // ended unannounced, with a request under way or without
	refused     [Habits]atomic.Int64 // streams that the server says it has not touched: RFC 9113, section 8.7
	OneStep     atomic.Int64         // connections of HTTP/2 that were not warned before a GOAWAY named a stream
	Listening   atomic.Int64         // connections of HTTP/1 whose client says nothing (more) now

	Clients  [Habits]int
	mu       sync.Mutex
	details  []string
	silences []Silence
}

// maxDetails bounds what is kept of a load that goes wrong throughout.
const maxDetails = 20

func (l *Tally) fail(f exchange.Failure, h Habit, nth int, err error) {
	l.Failed[f].Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.details) < maxDetails {
		l.details = append(l.details, fmt.Sprintf("%s %v (%v client, request %d on its connection): %v",
			time.Now().Format("15:04:05.000"), f, h, nth, err))
	}
}

// Requests counts the answered requests of all clients.
func (l *Tally) Requests() (n int64) {
	for i := range l.Answered {
		n += l.Answered[i].Load()
	}
	return n
}

// Failures counts the lost requests of all clients.
func (l *Tally) Failures() (n int64) {
	for i := range l.Failed {
		n += l.Failed[i].Load()
	}
	return n
}

// Refused counts the streams that were refused.
func (l *Tally) Refused() (n int64) {
	for i := range l.refused {
		n += l.refused[i].Load()
	}
	return n
}

// Silences returns a copy of what the idle connections have seen so far.
func (l *Tally) Silences() []Silence {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Silence(nil), l.silences...)
}

// String reports the tally in a few lines.
func (l *Tally) String() string {
	var b strings.Builder
	total, failed := l.Requests(), l.Failures()
	fmt.Fprintf(&b, "%d requests, %d failed", total, failed)
	if total+failed > 0 {
		fmt.Fprintf(&b, " (%.1f per million)", 1e6*float64(failed)/float64(total+failed))
	}
	if total > 0 {
		fmt.Fprintf(&b, ", half of them within %v, 99 of 100 within %v", l.Took.Within(0.5).Round(time.Microsecond), l.Took.Within(0.99).Round(time.Microsecond))
	}
	for h := range Habits {
		if n := l.Connections[h].Load(); n > 0 {
			fmt.Fprintf(&b, "\n  %v: %d requests on %d connections, %d reconnects, %d closed while idle",
				h, l.Answered[h].Load(), n, l.Reconnects[h].Load(), l.IdleClosed[h].Load())
			if h.http2() {
				fmt.Fprintf(&b, ", %d streams refused", l.refused[h].Load())
			}
		}
	}
	for f := range exchange.Failures {
		if n := l.Failed[f].Load(); n > 0 {
			fmt.Fprintf(&b, "\n  failed: %v: %d", f, n)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.details {
		b.WriteString("\n  " + line)
	}
	return b.String()
}
