// The clients of a load that speak HTTP/2: several requests at a time on a connection, and another connection
// as soon as the server says that it goes away.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// atATime is how many requests a client of the habit streams has under way.
const atATime = 4

// multiplex is the life of a client. A connection that is told to go finishes what it has begun beside the next one.
func (c *client) multiplex(ctx context.Context) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for i := 0; ctx.Err() == nil; i++ {
		dialled := time.Now()
		conn, err := dialHTTP2(c.load.network, c.load.address, max(c.load.patience, 10*time.Second), c.load.tls)
		if err != nil {
			c.counts.fail(failDial, c.habit, 0, err)
			c.rest(ctx)
			continue
		}
		c.counts.connections[c.habit].Add(1)
		conns.Go(func() { c.use(ctx, conn, c.turn+i, dialled) })
		select {
		case <-conn.told:
			c.counts.reconnects[c.habit].Add(1)
		case <-conn.over:
			c.rest(ctx)
		case <-ctx.Done():
		}
	}
}

// use uses one connection for as long as the habit and the server keep it, and sees to its end.
func (c *client) use(ctx context.Context, conn *http2Conn, turn int, dialled time.Time) {
	said := dialled
	var asking sync.WaitGroup
	switch c.habit {
	case streams:
		for i := range atATime {
			asking.Go(func() { c.askOn(ctx, conn, turn+i, nil) })
		}
	case streamsPausing:
		random := rand.New(rand.NewPCG(uint64(c.habit), uint64(turn)))
		asking.Go(func() {
			c.askOn(ctx, conn, turn, func() time.Duration { return time.Duration(random.ExpFloat64() * float64(c.load.pause)) })
		})
	case streamsSilent:
		if c.turn%2 == 1 {
			c.exchangeOn(conn, &c.load.exchanges[turn%len(c.load.exchanges)])
			said = time.Now()
		}
	}
	asking.Wait()
	if c.habit != streamsPausing { // which goes when it is told
		select {
		case <-conn.over:
		case <-ctx.Done():
		}
	}
	conn.leave()
	ended := c.account(conn)
	if c.habit == streamsSilent {
		ended.habit, ended.since = c.habit, said
		c.counts.mu.Lock()
		c.counts.silences = append(c.counts.silences, ended)
		c.counts.mu.Unlock()
	}
}

// askOn makes one request after the other until the connection takes no more.
func (c *client) askOn(ctx context.Context, conn *http2Conn, turn int, pause func() time.Duration) {
	for ; ctx.Err() == nil; turn++ {
		if !c.exchangeOn(conn, &c.load.exchanges[turn%len(c.load.exchanges)]) {
			return
		}
		if pause == nil {
			continue
		}
		select {
		case <-time.After(pause()):
		case <-conn.told:
		case <-conn.over:
		case <-ctx.Done():
		}
	}
}

// exchangeOn makes one request, checks its answer, and says whether the connection may take another.
func (c *client) exchangeOn(conn *http2Conn, x *exchange) bool {
	s, err := conn.ask(x, c.load.patience)
	if err != nil {
		return false
	}
	switch {
	case s.lost != nil && s.lost.refused:
		c.counts.refused[c.habit].Add(1)
	case s.lost != nil:
		c.counts.fail(s.lost.kind, c.habit, s.nth, s.lost.err)
	case s.status != x.status:
		c.counts.fail(failStatus, c.habit, s.nth, fmt.Errorf("got %d, want %d: %.100q", s.status, x.status, s.body))
	case x.body != nil && !bytes.Equal(s.body, x.body):
		c.counts.fail(failBody, c.habit, s.nth, fmt.Errorf("got %d bytes %.40q, want %d bytes %.40q", len(s.body), s.body, len(x.body), x.body))
	default:
		c.counts.requests[c.habit].Add(1)
		return true
	}
	return s.lost != nil && s.lost.refused // as long as it is not told to go
}

// account counts how a connection that is over has ended.
func (c *client) account(conn *http2Conn) silence {
	conn.mu.Lock()
	defer conn.mu.Unlock()
	ended := silence{until: conn.overAt, told: conn.toldAt, ending: endingOf(conn.err)}
	if conn.left {
		ended.ending = stillOn
	}
	announced := len(conn.goAways) > 0
	if announced && !conn.warned {
		c.counts.oneStep.Add(1)
	}
	switch {
	case conn.lost > 0: // which is counted
	case conn.wrong:
		c.counts.fail(failStatus, c.habit, conn.made, conn.err)
	case conn.left:
	case !announced:
		c.counts.fail(failUnannounced, c.habit, conn.made, fmt.Errorf("without a GOAWAY: %w", conn.err))
	case ended.ending != fin:
		c.counts.fail(failRead, c.habit, conn.made, fmt.Errorf("want an orderly end, got %w", conn.err))
	}
	return ended
}
