package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

// client is one of the clients of a load.
type client struct {
	load   *Load
	counts *Tally
	habit  Habit
	turn   int // which exchange comes next
	random *rand.Rand
	resp   http1.Response
	heard  bytes.Buffer // the last message of a WebSocket; new memory for each costs much with the race detector

	broken bool      // the connection has ended without a word
	asked  time.Time // before the last request on this connection that was answered or, without one, its dial
}

func (c *client) run(ctx context.Context) {
	for again := true; again && ctx.Err() == nil; again = !c.load.Once {
		c.asked, c.broken = time.Now(), false
		conn, err := c.dial()
		if err != nil {
			c.counts.fail(exchange.NoConnection, c.habit, 0, err)
			c.rest(ctx, 10*time.Millisecond) // a client whose server is gone does not spin
			continue
		}
		c.counts.Connections[c.habit].Add(1)
		c.converse(ctx, conn)
		conn.Close()
		c.countLost()
		if c.load.Rest > 0 && (c.habit == PerRequest || c.habit == PerRequestEnd) {
			c.rest(ctx, c.load.Rest)
		}
	}
}

func (c *client) dial() (*http1.Conn, error) {
	within := max(c.load.Patience, 10*time.Second)
	if c.load.TLS == nil {
		return http1.Dial(c.load.Network, c.load.Address, within)
	}
	return http1.DialTLS(c.load.Network, c.load.Address, within, c.load.TLS)
}

// rest waits for a while, or until the load ends.
func (c *client) rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// converse uses one connection for as long as the habit and the server keep it.
func (c *client) converse(ctx context.Context, conn *http1.Conn) {
	switch c.habit {
	case PerRequest:
		c.exchange(conn, false)
	case PerRequestEnd:
		if c.exchange(conn, true) {
			// Who is sent Connection: close closes: the answer is complete only with the end of the connection.
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
			pause := c.load.Rest
			if c.habit == Pausing {
				pause = time.Duration(c.random.ExpFloat64() * float64(c.load.Pause))
			}
			if pause > 0 && !c.idle(conn, pause) {
				return
			}
		}
	}
}

// countLost counts the connection if it has ended unannounced.
func (c *client) countLost() {
	if c.broken {
		c.counts.Lost[c.habit].Add(1)
	}
}

// exchange makes one request, checks its answer, and says whether the connection may take another.
func (c *client) exchange(conn *http1.Conn, end bool) bool {
	c.broken = true
	return c.tryExchange(conn, end)
}

func (c *client) tryExchange(conn *http1.Conn, end bool) bool {
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
	c.broken = false // whatever the answer is
	if c.resp.Status != x.Status {
		c.counts.fail(exchange.WrongStatus, c.habit, nth, fmt.Errorf("got %d, want %d: %.100q", c.resp.Status, x.Status, c.resp.Body))
		return c.load.Lenient
	}
	if x.Body != nil && !bytes.Equal(c.resp.Body, x.Body) {
		c.counts.fail(exchange.WrongBody, c.habit, nth, fmt.Errorf("got %d bytes %.40q, want %d bytes %.40q", len(c.resp.Body), c.resp.Body, len(x.Body), x.Body))
		return c.load.Lenient
	}
	c.counts.Answered[c.habit].Add(1)
	c.counts.Took.add(time.Since(begun))
	c.asked = begun
	return true
}

// crossed reports whether a request that was written by then may have met the end of a connection on which the
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

// lost distinguishes a connection that was kept, and then closed under a request, from one that never worked.
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
		c.broken = true
		return false
	}
}

// listen says nothing until the server closes the connection or the load ends.
func (c *client) listen(ctx context.Context, conn *http1.Conn) {
	s := Silence{Habit: c.habit, Since: time.Now()}
	c.counts.Listening.Add(1)
	defer c.counts.Listening.Add(-1)
	conn.SetReadDeadline(time.Time{})
	wake := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer wake()
	n, err := io.ReadFull(conn.R, make([]byte, 1))
	s.Until, s.Ending = time.Now(), http1.EndingOf(err)
	if n > 0 {
		s.Ending = http1.MoreData
	}
	if s.Ending != http1.StillOn {
		c.broken = true
		c.counts.IdleClosed[c.habit].Add(1)
	}
	c.counts.mu.Lock()
	c.counts.silences = append(c.counts.silences, s)
	c.counts.mu.Unlock()
	if c.load.LastWords && s.Ending == http1.StillOn {
		c.exchange(conn, false)
	}
}
