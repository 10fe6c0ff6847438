package load

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/http2"
)

// atATime is how many requests a client of the habit streams has under way.
const atATime = 4

// multiplex is the life of a client. A connection that is sent a GOAWAY finishes what it has begun beside the next one.
func (c *client) multiplex(ctx context.Context) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for i := 0; ctx.Err() == nil && (i == 0 || !c.load.Once); i++ {
		dialled := time.Now()
		conn, err := http2.Dial(c.load.Network, c.load.Address, max(c.load.Patience, 10*time.Second), c.load.TLS)
		if err != nil {
			c.counts.fail(exchange.NoConnection, c.habit, 0, err)
			c.rest(ctx, 10*time.Millisecond)
			continue
		}
		c.counts.Connections[c.habit].Add(1)
		conns.Go(func() { c.use(ctx, conn, c.turn+i, dialled) })
		select {
		case <-conn.Told:
			c.counts.Reconnects[c.habit].Add(1)
		case <-conn.Over:
			c.rest(ctx, 10*time.Millisecond)
		case <-ctx.Done():
		}
	}
}

// use uses one connection for as long as the habit and the server keep it, and sees to its end.
func (c *client) use(ctx context.Context, conn *http2.Conn, turn int, dialled time.Time) {
	said := dialled
	var asking sync.WaitGroup
	switch c.habit {
	case Streams:
		for i := range atATime {
			asking.Go(func() { c.askOn(ctx, conn, turn+i, func() time.Duration { return c.load.Rest }) })
		}
	case StreamsPausing:
		random := rand.New(rand.NewPCG(uint64(c.habit), uint64(turn)))
		asking.Go(func() {
			c.askOn(ctx, conn, turn, func() time.Duration { return time.Duration(random.ExpFloat64() * float64(c.load.Pause)) })
		})
	case StreamsSilent:
		if c.turn%2 == 1 {
			// The second request shows that the client obeys the server's settings.
			for i := range 2 {
				if !c.exchangeOn(conn, &c.load.Exchanges[(turn+i)%len(c.load.Exchanges)]) {
					break
				}
			}
			said = time.Now()
		}
	}
	asking.Wait()
	if c.habit != StreamsPausing { // which goes at a GOAWAY
		select {
		case <-conn.Over:
		case <-ctx.Done():
			if c.habit == StreamsSilent && c.load.LastWords {
				c.exchangeOn(conn, &c.load.Exchanges[turn%len(c.load.Exchanges)])
			}
		}
	}
	conn.Leave()
	ended := c.account(conn)
	if c.habit == StreamsSilent {
		ended.Habit, ended.Since = c.habit, said
		c.counts.mu.Lock()
		c.counts.silences = append(c.counts.silences, ended)
		c.counts.mu.Unlock()
	}
}

// askOn makes one request after the other until the connection takes no more.
func (c *client) askOn(ctx context.Context, conn *http2.Conn, turn int, pause func() time.Duration) {
	for ; ctx.Err() == nil; turn++ {
		if !c.exchangeOn(conn, &c.load.Exchanges[turn%len(c.load.Exchanges)]) {
			return
		}
		d := pause()
		if d == 0 {
			continue
		}
		select {
		case <-time.After(d):
		case <-conn.Told:
		case <-conn.Over:
		case <-ctx.Done():
		}
	}
}

// exchangeOn makes one request, checks its answer, and says whether the connection may take another.
func (c *client) exchangeOn(conn *http2.Conn, x *exchange.Exchange) bool {
	begun := time.Now()
	s, err := conn.Ask(x, c.load.Patience)
	if err != nil {
		return false
	}
	switch {
	case s.Lost != nil && s.Lost.Refused:
		c.counts.refused[c.habit].Add(1)
	case s.Lost != nil:
		c.counts.fail(s.Lost.Kind, c.habit, s.Nth, s.Lost.Err)
	case s.Status != x.Status:
		c.counts.fail(exchange.WrongStatus, c.habit, s.Nth, fmt.Errorf("got %d, want %d: %.100q", s.Status, x.Status, s.Body))
	case x.Body != nil && !bytes.Equal(s.Body, x.Body):
		c.counts.fail(exchange.WrongBody, c.habit, s.Nth, fmt.Errorf("got %d bytes %.40q, want %d bytes %.40q", len(s.Body), s.Body, len(x.Body), x.Body))
	default:
		c.counts.Answered[c.habit].Add(1)
		c.counts.Took.add(time.Since(begun))
		return true
	}
	if s.Lost == nil {
		return c.load.Lenient
	}
	return s.Lost.Refused // as long as there is no GOAWAY
}

// account counts how a connection that is over has ended.
func (c *client) account(conn *http2.Conn) Silence {
	conn.Mu.Lock()
	defer conn.Mu.Unlock()
	ended := Silence{Until: conn.OverAt, Told: conn.ToldAt, Ending: http1.EndingOf(conn.Err)}
	if conn.Left {
		ended.Ending = http1.StillOn
	}
	announced := len(conn.GoAways) > 0
	if announced && !conn.Warned {
		c.counts.OneStep.Add(1)
	}
	if !announced && !conn.Left {
		c.counts.Lost[c.habit].Add(1)
	}
	switch {
	case conn.Lost > 0: // which is counted
	case conn.Wrong:
		c.counts.fail(exchange.WrongStatus, c.habit, conn.Made, conn.Err)
	case conn.Left:
	case !announced:
		c.counts.fail(exchange.ClosedUnannounced, c.habit, conn.Made, fmt.Errorf("without a GOAWAY: %w", conn.Err))
	case ended.Ending != http1.Fin:
		c.counts.fail(exchange.NotAnswered, c.habit, conn.Made, fmt.Errorf("want an orderly end, got %w", conn.Err))
	}
	return ended
}
