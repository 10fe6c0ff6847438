// The load client: many connections of several habits, none of which ever retries, and a tally of
// every way in which a server can let a client down.
package e2e

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
)

// habit is how a client behaves on its connection.
type habit int

const (
	backToBack    habit = iota // keep-alive, next request as soon as the answer is there
	pausing                    // keep-alive, an exponential pause between requests
	perRequest                 // a connection for each request, closed by the client
	perRequestEnd              // the same with "Connection: close", so that the server must close
	silent                     // connects, and says nothing
	silentAfter                // makes one request, and then says nothing

	// The same over HTTP/2.
	streams        // several requests at a time, the next one as soon as an answer is there
	streamsPausing // one at a time, and a pause between
	streamsSilent  // every other one makes a request, and then says nothing
	habits
)

// http2 tells whether a habit is that of a client of HTTP/2.
func (h habit) http2() bool { return h >= streams }

func (h habit) String() string {
	return [...]string{"back-to-back", "pausing", "per request", "per request with close", "silent", "silent after one",
		"streams", "streams with pauses", "silent streams"}[h]
}

// failure is one way of losing a request.
type failure int

const (
	failDial        failure = iota // no connection
	failWrite                      // the first request on a connection could not be sent
	failRead                       // end or reset before or within the response header
	failTruncated                  // end or reset within the body
	failStatus                     // not the status that belongs to the request, or no HTTP at all
	failBody                       // a whole body, but the wrong one
	failUnannounced                // a kept connection closed under a request, with no "Connection: close" or GOAWAY before
	failures
)

func (f failure) String() string {
	return [...]string{"dial", "write", "read", "truncated", "status", "body", "unannounced close"}[f]
}

// exchange is a request and the answer that belongs to it.
type exchange struct {
	method, path string
	upload       []byte
	keep         []byte // the whole request on a connection that is kept
	end          []byte // the same with "Connection: close"
	status       int
	body         []byte // nil: any
}

func newExchange(method, path string, body []byte, status int, want []byte) exchange {
	return exchange{
		method: method, path: path, upload: body,
		keep:   request(method, path, body),
		end:    request(method, path, body, "Connection: close"),
		status: status,
		body:   want,
	}
}

// load describes who makes which requests of whom.
type load struct {
	network, address string
	tls              *tls.Config // nil: plaintext
	exchanges        []exchange  // made in turn
	clients          [habits]int
	pause            time.Duration // mean of the pausing ones; 0 means 20 ms
	patience         time.Duration // how long an answer may take; 0 means 15 s
	grace            time.Duration // for which the server keeps a silent connection in a drain; 0 means any time
	lastWords        bool          // a silent client makes one request when the load ends, if its connection is still there
}

// silence is the life of one connection on which the client said nothing (more).
type silence struct {
	habit        habit
	since, until time.Time
	told         time.Time // when a GOAWAY came
	ending       ending    // how the server ended it; still open if the load ended first
}

// tally is what came of a load. The counters may be read while it runs.
type tally struct {
	requests    [habits]atomic.Int64 // answered as they should be
	failures    [failures]atomic.Int64
	connections [habits]atomic.Int64 // dialled
	reconnects  [habits]atomic.Int64 // after a close that was announced
	idleClosed  [habits]atomic.Int64 // closed by the server while the client was not sending: no failure
	refused     [habits]atomic.Int64 // streams that the server says it has not touched: RFC 9113, section 8.7
	oneStep     atomic.Int64         // connections of HTTP/2 that were not warned before a GOAWAY named a stream

	clients  [habits]int
	mu       sync.Mutex
	details  []string
	silences []silence
}

// maxDetails bounds what is kept of a load that goes wrong throughout.
const maxDetails = 20

func (l *tally) fail(f failure, h habit, nth int, err error) {
	l.failures[f].Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.details) < maxDetails {
		l.details = append(l.details, fmt.Sprintf("%s %v (%v client, request %d on its connection): %v",
			time.Now().Format("15:04:05.000"), f, h, nth, err))
	}
}

// Requests counts the answered requests of all clients.
func (l *tally) Requests() (n int64) {
	for i := range l.requests {
		n += l.requests[i].Load()
	}
	return n
}

// Failures counts the lost requests of all clients.
func (l *tally) Failures() (n int64) {
	for i := range l.failures {
		n += l.failures[i].Load()
	}
	return n
}

// Refused counts the streams that were refused.
func (l *tally) Refused() (n int64) {
	for i := range l.refused {
		n += l.refused[i].Load()
	}
	return n
}

// Silences returns a copy of what the silent connections have seen so far.
func (l *tally) Silences() []silence {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]silence(nil), l.silences...)
}

// String reports the tally in a few lines.
func (l *tally) String() string {
	var b strings.Builder
	total, failed := l.Requests(), l.Failures()
	fmt.Fprintf(&b, "%d requests, %d failed", total, failed)
	if total+failed > 0 {
		fmt.Fprintf(&b, " (%.1f per million)", 1e6*float64(failed)/float64(total+failed))
	}
	for h := range habits {
		if n := l.connections[h].Load(); n > 0 {
			fmt.Fprintf(&b, "\n  %v: %d requests on %d connections, %d reconnects, %d closed while idle",
				h, l.requests[h].Load(), n, l.reconnects[h].Load(), l.idleClosed[h].Load())
			if h.http2() {
				fmt.Fprintf(&b, ", %d streams refused", l.refused[h].Load())
			}
		}
	}
	for f := range failures {
		if n := l.failures[f].Load(); n > 0 {
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

// startLoad runs the clients until stop is called or the test ends. stop waits for all of them;
// a request that is under way is brought to its end.
func startLoad(t testing.TB, l load) (counts *tally, stop func() *tally) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	counts = &tally{clients: l.clients}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, counts)
	}()
	stop = func() *tally {
		cancel()
		<-done
		return counts
	}
	t.Cleanup(func() { stop() })
	return counts, stop
}

// run runs all clients until ctx is done, and returns when the last has finished.
func (l *load) run(ctx context.Context, counts *tally) {
	if l.pause == 0 {
		l.pause = 20 * time.Millisecond
	}
	if l.patience == 0 {
		l.patience = 15 * time.Second
	}
	var wg sync.WaitGroup
	for h := range habits {
		for i := range l.clients[h] {
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
	load   *load
	counts *tally
	habit  habit
	turn   int // which exchange comes next
	random *rand.Rand
	resp   response

	asked time.Time // before the last request on this connection that was answered or, without one, its dial
}

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.asked = time.Now()
		conn, err := c.dial()
		if err != nil {
			c.counts.fail(failDial, c.habit, 0, err)
			c.rest(ctx)
			continue
		}
		c.counts.connections[c.habit].Add(1)
		c.converse(ctx, conn)
		conn.Close()
	}
}

func (c *client) dial() (*conn, error) {
	within := max(c.load.patience, 10*time.Second)
	if c.load.tls == nil {
		return dial(c.load.network, c.load.address, within)
	}
	return dialTLS(c.load.network, c.load.address, within, c.load.tls)
}

// rest keeps a client whose server is gone from spinning.
func (c *client) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}

// converse uses one connection for as long as the habit and the server keep it.
func (c *client) converse(ctx context.Context, conn *conn) {
	switch c.habit {
	case perRequest:
		c.exchange(conn, false)
	case perRequestEnd:
		if c.exchange(conn, true) {
			// Whoever is told to close closes: the answer is complete only with the end of the connection.
			if e := conn.awaitClose(c.load.patience); e != fin {
				c.counts.fail(failRead, c.habit, conn.served, fmt.Errorf("want the announced end of the connection, got %s", e))
			}
		}
	case silent:
		c.listen(ctx, conn)
	case silentAfter:
		if c.exchange(conn, false) && !c.resp.Close {
			c.listen(ctx, conn)
		}
	default:
		for ctx.Err() == nil {
			if !c.exchange(conn, false) {
				return
			}
			if c.resp.Close {
				c.counts.reconnects[c.habit].Add(1)
				return
			}
			if c.habit == pausing && !c.idle(conn, time.Duration(c.random.ExpFloat64()*float64(c.load.pause))) {
				return
			}
		}
	}
}

// exchange makes one request, checks its answer, and says whether it was as it should be.
func (c *client) exchange(conn *conn, end bool) bool {
	x := &c.load.exchanges[c.turn%len(c.load.exchanges)]
	c.turn++
	raw, nth := x.keep, conn.served+1
	if end {
		raw = x.end
	}
	conn.SetDeadline(time.Now().Add(c.load.patience))
	begun := time.Now()
	_, err := conn.Write(raw)
	written := time.Now()
	if err != nil {
		if !c.crossed(written, err) {
			c.counts.fail(c.lost(failWrite, nth, err), c.habit, nth, err)
		}
		return false
	}
	if err := conn.receive(x.method, &c.resp); err != nil {
		kind := failRead
		var broken *readError
		if errors.As(err, &broken) {
			switch broken.part {
			case beforeHeader:
				if c.crossed(written, err) {
					return false
				}
				kind = c.lost(failRead, nth, err)
			case inBody:
				kind = failTruncated
			case malformed:
				kind = failStatus
			}
		}
		c.counts.fail(kind, c.habit, nth, err)
		return false
	}
	if c.resp.Status != x.status {
		c.counts.fail(failStatus, c.habit, nth, fmt.Errorf("got %d, want %d: %.100q", c.resp.Status, x.status, c.resp.Body))
		return false
	}
	if x.body != nil && !bytes.Equal(c.resp.Body, x.body) {
		c.counts.fail(failBody, c.habit, nth, fmt.Errorf("got %d bytes %.40q, want %d bytes %.40q", len(c.resp.Body), c.resp.Body, len(x.body), x.body))
		return false
	}
	c.counts.requests[c.habit].Add(1)
	c.asked = begun
	return true
}

// crossed tells whether a request that was written by then may have met the end of a connection on which the
// client had been silent for the server's whole grace, and counts that as a close while idle. No server that
// closes can avoid it, and ours does not promise to. On a busy machine the moment is longer than it sounds: the
// server's answer may have been there long before the client looked, but not before the client had asked.
func (c *client) crossed(written time.Time, err error) bool {
	if c.load.grace == 0 || written.Sub(c.asked) < c.load.grace || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.counts.idleClosed[c.habit].Add(1)
	return true
}

// lost tells a connection that was kept, and then closed under a request, from one that never worked.
// One that merely says nothing in time was not closed.
func (c *client) lost(otherwise failure, nth int, err error) failure {
	if nth > 1 && !errors.Is(err, os.ErrDeadlineExceeded) {
		return failUnannounced
	}
	return otherwise
}

// idle pauses, and watches for the end of the connection as a browser does.
// A close that is seen here hit no request: it is counted, but is no failure.
func (c *client) idle(conn *conn, pause time.Duration) (kept bool) {
	conn.SetReadDeadline(time.Now().Add(pause))
	_, err := conn.r.Peek(1)
	var timeout net.Error
	switch {
	case err == nil:
		c.counts.fail(failStatus, c.habit, conn.served, errors.New("got bytes that belong to no request"))
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return true
	default:
		c.counts.idleClosed[c.habit].Add(1)
		return false
	}
}

// listen says nothing until the server closes the connection or the load ends.
func (c *client) listen(ctx context.Context, conn *conn) {
	s := silence{habit: c.habit, since: time.Now()}
	conn.SetReadDeadline(time.Time{})
	wake := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer wake()
	n, err := io.ReadFull(conn.r, make([]byte, 1))
	s.until, s.ending = time.Now(), endingOf(err)
	if n > 0 {
		s.ending = moreData
	}
	if s.ending != stillOn {
		c.counts.idleClosed[c.habit].Add(1)
	}
	c.counts.mu.Lock()
	c.counts.silences = append(c.counts.silences, s)
	c.counts.mu.Unlock()
	if c.load.lastWords && s.ending == stillOn {
		c.exchange(conn, false)
	}
}
