package server

// This file holds the move of connections to the successor.

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/upgrade"
)

const (
	// moveBatch is how many connections are offered at once at most. Larger batches
	// save nothing, and each makes those behind it wait.
	moveBatch = min(64, upgrade.MoveLimit)
	// moveWindow bounds how many silent connections are between their wake-up and
	// the answer, so that there is always a batch under way, and one that gathers:
	// so many are read by nobody for a moment. It is below 256, the length of a
	// processor's run queue: goroutines that do not fit in there get in the way of
	// requests.
	moveWindow = 3 * moveBatch
	// moveWorkers is how many batches are under way at once. With one more than the
	// window fills, those that come from a request do not wait for silent ones.
	moveWorkers = moveWindow/moveBatch + 1
	// moveStall is how long a batch may be without an answer. From then on nothing is
	// offered until one comes: others should not wait as well.
	moveStall = 2 * time.Second
)

// mover offers connections to the successor, from the beginning of a drain to
// its end.
//
// A connection that comes to a safe point in a drain offers itself. Those that
// are at one already, blocked in a Read, are woken by a single pass over the
// connections that are there when the drain has begun, and offer themselves
// then. One pass misses none, unless the successor hangs for a while: then there is
// another one. For a connection is parked, and looks whether the server
// drains, under one lock. If that was before the pass has come to it, the pass
// finds it parked. If it was after, or the connection is so new that the pass
// does not know it, it has seen the drain.
type mover struct {
	ctx  context.Context
	end  context.CancelFunc
	kept map[net.Listener]bool
	h    upgrade.Handoff

	window chan struct{} // one for each connection that was woken and has no answer
	filled chan struct{} // cap 1: something is in a queue
	again  chan struct{} // cap 1: the successor answers again
	open   func() []*conn

	mu       sync.Mutex
	queue    []*conn   // those that come from a request
	woken    []*conn   // those that were silent; they have time
	sending  int       // batches under way
	progress time.Time // when the last one was answered, or the first one sent
	ended    bool      // nothing is offered any more

	stalled   atomic.Bool // the successor hangs, as it seems
	running   sync.WaitGroup
	abandoned chan struct{} // closed when nobody will answer any more
}

// newMover returns a mover for a drain with that context, or nil if nothing can
// move.
func (s *Server) newMover(ctx context.Context, h upgrade.Handoff) *mover {
	if h.Move == nil || s.opts.DisableMigration || !s.isSafe() {
		return nil
	}
	m := &mover{
		h:         h,
		kept:      make(map[net.Listener]bool),
		window:    make(chan struct{}, moveWindow),
		filled:    make(chan struct{}, 1),
		again:     make(chan struct{}, 1),
		open:      s.open,
		abandoned: make(chan struct{}),
	}
	for _, ln := range s.listeners {
		m.kept[ln.Listener] = h.Kept(ln.Listener)
	}
	m.ctx, m.end = context.WithCancel(ctx)
	return m
}

// start moves the connections that are open, and those that offer themselves.
func (m *mover) start() {
	m.running.Go(m.wake)
	m.running.Go(m.watch)
	for range moveWorkers {
		m.running.Go(m.work)
	}
}

// takes tells whether connections of a listener can move.
func (m *mover) takes(ln net.Listener) bool {
	kept, known := m.kept[ln]
	if !known && ln != nil {
		kept = m.h.Kept(ln)
	}
	return kept
}

// wake lets the connections that are parked offer themselves, and does so again
// after the successor has hung for a while, in which others were parked.
func (m *mover) wake() {
	for {
		for _, c := range m.open() {
			select {
			case m.window <- struct{}{}:
			case <-m.ctx.Done():
				return
			}
			if !c.wakeToMove() {
				<-m.window
			}
		}
		select {
		case <-m.again:
		case <-m.ctx.Done():
			return
		}
	}
}

// offer waits until the successor has taken the connection or not. The caller reads from it,
// and does not meanwhile.
func (m *mover) offer(c *conn, woken bool) {
	m.mu.Lock()
	if ended := m.ended; ended || m.stalled.Load() {
		m.mu.Unlock()
		if ended {
			c.stay()
		}
		return
	}
	c.answer = make(chan struct{})
	if woken {
		m.woken = append(m.woken, c)
	} else {
		m.queue = append(m.queue, c)
	}
	m.mu.Unlock()
	nudge(m.filled)
	select {
	case <-c.answer:
	case <-m.abandoned:
	}
}

func (m *mover) work() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.filled:
		}
		for batch := m.take(); len(batch) > 0; batch = m.take() {
			m.send(batch)
		}
	}
}

// take takes a batch out of a queue.
func (m *mover) take() []*conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	queue := &m.queue
	if len(m.queue) == 0 {
		queue = &m.woken
	}
	n := min(len(*queue), moveBatch)
	batch := (*queue)[:n:n]
	*queue = (*queue)[n:]
	if len(m.queue)+len(m.woken) > 0 {
		nudge(m.filled) // for another worker
	}
	if n > 0 {
		if m.sending == 0 {
			m.progress = time.Now()
		}
		m.sending++
	}
	return batch
}

// watch lets go of the queues when the successor hangs.
func (m *mover) watch() {
	look := time.NewTicker(moveStall / 4)
	defer look.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case now := <-look.C:
			m.mu.Lock()
			var rest []*conn
			if m.sending > 0 && now.Sub(m.progress) >= moveStall {
				m.stalled.Store(true)
				rest = m.rest()
			}
			m.mu.Unlock()
			for _, c := range rest {
				close(c.answer)
			}
		}
	}
}

func (m *mover) send(batch []*conn) {
	conns := make([]upgrade.Connection, len(batch))
	for i, c := range batch {
		conns[i] = c.luggage()
	}
	var taken []bool
	if m.ctx.Err() == nil {
		taken = m.h.Move(m.ctx, conns)
	}
	m.mu.Lock()
	m.sending--
	m.progress = time.Now()
	if m.stalled.Swap(false) {
		nudge(m.again)
	}
	m.mu.Unlock()
	for i, c := range batch {
		c.settle(i < len(taken) && taken[i])
	}
}

// stop ends the moving: what is under way gets its answer, what is not stays.
func (m *mover) stop() {
	if m == nil {
		return
	}
	m.end()
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.running.Wait()
	}()
	select {
	case <-done:
	case <-time.After(afterCut):
	}
	m.mu.Lock()
	m.ended = true
	rest := m.rest()
	m.mu.Unlock()
	for _, c := range rest {
		c.settle(false)
	}
}

// rest empties the queues. It is called with the lock held.
func (m *mover) rest() []*conn {
	rest := append(m.queue, m.woken...)
	m.queue, m.woken = nil, nil
	return rest
}

// abandon lets go of connections that still have no answer.
func (m *mover) abandon() {
	if m != nil {
		close(m.abandoned)
	}
}

// mayMove tells whether the connection could move to the successor now, were it
// at a safe point. It is called with the lock held.
func (c *conn) mayMove() bool {
	m := c.server.mover()
	return m != nil && !c.stays && !m.stalled.Load() && m.takes(c.listener)
}

// mover returns the mover of the drain that is under way, if connections can move.
func (s *Server) mover() *mover {
	if !s.isDraining.Load() {
		return nil
	}
	return s.moving // is set before
}

// willMove tells whether the connection is expected to move after the present
// response. One whose client sends ahead, so that it comes to no safe point, has
// the idle grace for that from the first boundary that was none, and a few more
// boundaries: a client that does not send ahead may still look so once, if its
// next request comes before net/http has seen to the end of the last.
func (c *conn) willMove(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayMove() && !c.boundary.Pipelines(now, c.server.opts.IdleGrace)
}

// wakeToMove wakes the Read of a parked connection, so that it offers itself, and
// returns whether it did.
func (c *conn) wakeToMove() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayMove() && c.wake(boundary.ToOffer)
}

// luggage is what the successor must know.
func (c *conn) luggage() upgrade.Connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	state, _ := c.boundary.Export()
	moving := upgrade.Connection{Conn: c.Conn, Listener: c.listener, Spoke: state.Spoke}
	if !state.Deadline.IsZero() {
		moving.Left = max(time.Until(state.Deadline), time.Millisecond)
	}
	return moving
}

// settle notes whether the successor has taken the connection, and lets the reader go on.
func (c *conn) settle(taken bool) {
	c.mu.Lock()
	switch {
	case c.boundary.IsClosed(): // cut meanwhile
		taken = false
	case taken:
		c.do(c.boundary.Answer(true))
		c.class = classMigrated
		c.server.movedOut.Add(1)
	default:
		c.stays = true
	}
	c.mu.Unlock()
	close(c.answer)
}

// stay notes that the connection was not taken.
func (c *conn) stay() {
	c.mu.Lock()
	c.stays = true
	c.mu.Unlock()
}

// Migrated returns how many connections have come from the predecessor, and how
// many have gone to the successor. Neither is counted as accepted or closed by it.
func (s *Server) Migrated() (in, out uint64) { return s.movedIn.Load(), s.movedOut.Load() }
