// Package load makes requests as many clients of several habits do, none of which ever retries, and counts
// every way in which a server can let a client down.
package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

// Habit is how a client behaves on its connection.
type Habit int

const (
	BackToBack    Habit = iota // keep-alive, next request as soon as the answer is there
	Pausing                    // keep-alive, an exponential pause between requests
	PerRequest                 // a connection for each request, closed by the client
	PerRequestEnd              // the same with "Connection: close", so that the server must close
	Silent                     // connects, and says nothing
	SilentAfter                // makes one request, and then says nothing

	// The same over HTTP/2.
	Streams        // several requests at a time, the next one as soon as an answer is there
	StreamsPausing // one at a time, and a pause between
	StreamsSilent  // every other one makes a request, and then says nothing
	Habits
)

// http2 tells whether a habit is that of a client of HTTP/2.
func (h Habit) http2() bool { return h >= Streams }

func (h Habit) String() string {
	return [...]string{"back-to-back", "pausing", "per request", "per request with close", "silent", "silent after one",
		"streams", "streams with pauses", "silent streams"}[h]
}

// Load describes who makes which requests of whom.
type Load struct {
	Network, Address string
	Tls              *tls.Config         // nil: plaintext
	Exchanges        []exchange.Exchange // made in turn
	Clients          [Habits]int
	Pause            time.Duration // mean of the pausing ones; 0 means 20 ms
	Patience         time.Duration // how long an answer may take; 0 means 15 s
	Grace            time.Duration // for which the server keeps a silent connection in a drain; 0 means any time
	LastWords        bool          // a silent client makes one request when the load ends, if its connection is still there
}

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
	Failed      [exchange.Failures]atomic.Int64
	Connections [Habits]atomic.Int64 // dialled
	Reconnects  [Habits]atomic.Int64 // after a close that was announced
	IdleClosed  [Habits]atomic.Int64 // closed by the server while the client was not sending: no failure
	refused     [Habits]atomic.Int64 // streams that the server says it has not touched: RFC 9113, section 8.7
	OneStep     atomic.Int64         // connections of HTTP/2 that were not warned before a GOAWAY named a stream

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

// Silences returns a copy of what the silent connections have seen so far.
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

// Start runs the clients until stop is called or the test ends. stop waits for all of them;
// a request that is under way is brought to its end.
func Start(t testing.TB, l Load) (counts *Tally, stop func() *Tally) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	counts = &Tally{Clients: l.Clients}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, counts)
	}()
	stop = func() *Tally {
		cancel()
		<-done
		return counts
	}
	t.Cleanup(func() { stop() })
	return counts, stop
}

// run runs all clients until ctx is done, and returns when the last has finished.
func (l *Load) run(ctx context.Context, counts *Tally) {
	if l.Pause == 0 {
		l.Pause = 20 * time.Millisecond
	}
	if l.Patience == 0 {
		l.Patience = 15 * time.Second
	}
	var wg sync.WaitGroup
	for h := range Habits {
		for i := range l.Clients[h] {
			c := &client{load: l, counts: counts, habit: h, turn: i, random: rand.New(rand.NewPCG(uint64(h), uint64(i)))}
			if h.http2() {
				wg.Go(func() { c.multiplex(ctx) })
			} else {
				wg.Go(func() { c.run(ctx) })
			}
		}
	}
	wg.Wait()
}

// client is one of the clients of a load.
type client struct {
	load   *Load
	counts *Tally
	habit  Habit
	turn   int // which exchange comes next
	random *rand.Rand
	resp   http1.Response

	asked time.Time // before the last request on this connection that was answered or, without one, its dial
}

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.asked = time.Now()
		conn, err := c.dial()
		if err != nil {
			c.counts.fail(exchange.NoConnection, c.habit, 0, err)
			c.rest(ctx)
			continue
		}
		c.counts.Connections[c.habit].Add(1)
		c.converse(ctx, conn)
		conn.Close()
	}
}

func (c *client) dial() (*http1.Conn, error) {
	within := max(c.load.Patience, 10*time.Second)
	if c.load.Tls == nil {
		return http1.Dial(c.load.Network, c.load.Address, within)
	}
	return http1.DialTLS(c.load.Network, c.load.Address, within, c.load.Tls)
}

// rest keeps a client whose server is gone from spinning.
func (c *client) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}

// converse uses one connection for as long as the habit and the server keep it.
func (c *client) converse(ctx context.Context, conn *http1.Conn) {
	switch c.habit {
	case PerRequest:
		c.exchange(conn, false)
	case PerRequestEnd:
		if c.exchange(conn, true) {
			// Whoever is told to close closes: the answer is complete only with the end of the connection.
			if e := conn.AwaitClose(c.load.Patience); e != http1.Fin {
				c.counts.fail(exchange.NotAnswered, c.habit, conn.Served, fmt.Errorf("want the announced end of the connection, got %s", e))
			}
		}
	case Silent:
		c.listen(ctx, conn)
	case SilentAfter:
		if c.exchange(conn, false) && !c.resp.Close {
			c.listen(ctx, conn)
		}
	default:
		for ctx.Err() == nil {
			if !c.exchange(conn, false) {
				return
			}
			if c.resp.Close {
				c.counts.Reconnects[c.habit].Add(1)
				return
			}
			if c.habit == Pausing && !c.idle(conn, time.Duration(c.random.ExpFloat64()*float64(c.load.Pause))) {
				return
			}
		}
	}
}

// exchange makes one request, checks its answer, and says whether it was as it should be.
func (c *client) exchange(conn *http1.Conn, end bool) bool {
	x := &c.load.Exchanges[c.turn%len(c.load.Exchanges)]
	c.turn++
	raw, nth := x.Keep, conn.Served+1
	if end {
		raw = x.End
	}
	conn.SetDeadline(time.Now().Add(c.load.Patience))
	begun := time.Now()
	_, err := conn.Write(raw)
	written := time.Now()
	if err != nil {
		if !c.crossed(written, err) {
			c.counts.fail(c.lost(exchange.NotWritten, nth, err), c.habit, nth, err)
		}
		return false
	}
	if err := conn.Receive(x.Method, &c.resp); err != nil {
		kind := exchange.NotAnswered
		var broken *http1.ReadError
		if errors.As(err, &broken) {
			switch broken.Part {
			case http1.BeforeHeader:
				if c.crossed(written, err) {
					return false
				}
				kind = c.lost(exchange.NotAnswered, nth, err)
			case http1.InBody:
				kind = exchange.Truncated
			case http1.Malformed:
				kind = exchange.WrongStatus
			}
		}
		c.counts.fail(kind, c.habit, nth, err)
		return false
	}
	if c.resp.Status != x.Status {
		c.counts.fail(exchange.WrongStatus, c.habit, nth, fmt.Errorf("got %d, want %d: %.100q", c.resp.Status, x.Status, c.resp.Body))
		return false
	}
	if x.Body != nil && !bytes.Equal(c.resp.Body, x.Body) {
		c.counts.fail(exchange.WrongBody, c.habit, nth, fmt.Errorf("got %d bytes %.40q, want %d bytes %.40q", len(c.resp.Body), c.resp.Body, len(x.Body), x.Body))
		return false
	}
	c.counts.Answered[c.habit].Add(1)
	c.asked = begun
	return true
}

// crossed tells whether a request that was written by then may have met the end of a connection on which the
// client had been silent for the server's whole grace, and counts that as a close while idle. No server that
// closes can avoid it, and ours does not promise to. On a busy machine the moment is longer than it sounds: the
// server's answer may have been there long before the client looked, but not before the client had asked.
func (c *client) crossed(written time.Time, err error) bool {
	if c.load.Grace == 0 || written.Sub(c.asked) < c.load.Grace || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.counts.IdleClosed[c.habit].Add(1)
	return true
}

// lost tells a connection that was kept, and then closed under a request, from one that never worked.
// One that merely says nothing in time was not closed.
func (c *client) lost(otherwise exchange.Failure, nth int, err error) exchange.Failure {
	if nth > 1 && !errors.Is(err, os.ErrDeadlineExceeded) {
		return exchange.ClosedUnannounced
	}
	return otherwise
}

// idle pauses, and watches for the end of the connection as a browser does.
// A close that is seen here hit no request: it is counted, but is no failure.
func (c *client) idle(conn *http1.Conn, pause time.Duration) (kept bool) {
	conn.SetReadDeadline(time.Now().Add(pause))
	_, err := conn.R.Peek(1)
	var timeout net.Error
	switch {
	case err == nil:
		c.counts.fail(exchange.WrongStatus, c.habit, conn.Served, errors.New("got bytes that belong to no request"))
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return true
	default:
		c.counts.IdleClosed[c.habit].Add(1)
		return false
	}
}

// listen says nothing until the server closes the connection or the load ends.
func (c *client) listen(ctx context.Context, conn *http1.Conn) {
	s := Silence{Habit: c.habit, Since: time.Now()}
	conn.SetReadDeadline(time.Time{})
	wake := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer wake()
	n, err := io.ReadFull(conn.R, make([]byte, 1))
	s.Until, s.Ending = time.Now(), http1.EndingOf(err)
	if n > 0 {
		s.Ending = http1.MoreData
	}
	if s.Ending != http1.StillOn {
		c.counts.IdleClosed[c.habit].Add(1)
	}
	c.counts.mu.Lock()
	c.counts.silences = append(c.counts.silences, s)
	c.counts.mu.Unlock()
	if c.load.LastWords && s.Ending == http1.StillOn {
		c.exchange(conn, false)
	}
}
