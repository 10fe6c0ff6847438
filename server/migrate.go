package server

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/upgrade"
)

const (
	// migrateBatch is how many connections are offered at once at most. Larger batches
	// save nothing, and each makes those behind it wait.
	migrateBatch = min(64, upgrade.MigrationLimit)
	// migrateWindow bounds how many idle connections are between their wake-up and the
	// answer, so that there is always a batch under way, and one that gathers: nobody
	// reads from them for a moment. It is below 256, the length of a processor's run
	// queue: goroutines that do not fit in there get in the way of requests.
	migrateWindow = 3 * migrateBatch
	// migrateWorkers is how many batches are under way at once. With one more than the
	// window fills, connections that come from a request do not wait for idle ones.
	migrateWorkers = migrateWindow/migrateBatch + 1
	// migrateStall is how long a batch may be without an answer. From then on nothing is
	// offered until one comes: others should not wait as well.
	migrateStall = 2 * time.Second
	// migratePatience is how long it may be without an answer until connections are ended as
	// without a successor. It may just be busy, and a connection that is ended is lost.
	migratePatience = 15 * time.Second
)

// migrator offers connections to the successor in one session of migration: see migration.
//
// A connection that comes to rest in a session offers itself. Those that are at rest already,
// blocked in a Read, are woken by a single pass over the connections that are open when the
// session has begun, and then offer themselves. One pass misses none, unless the successor
// hangs for a while: then there is another one. For a connection begins to wait, and looks
// which session there is, under one lock. If that was before the pass came to it, the pass
// finds it waiting. If it was after, or the connection is so new that the pass does not know
// it, it has seen the session.
//
// Its fields are grouped: those of the session, of its window, and of its goroutines. A nil
// migrator is that of a drain in which no connection can migrate.
type migrator struct {
	number  uint64          // of the session
	ctx     context.Context // of Migrate: when it ends, what is under way counts as taken
	cancel  context.CancelFunc
	over    chan struct{} // closed when nothing is offered any more
	h       upgrade.Handoff
	tunnels bool // hijacked connections may migrate, too
	lots    sync.Mutex
	lottery *lottery // chooses which connections migrate; nil: all of them
	kept    map[net.Listener]bool
	open    func() []*conn

	window chan struct{} // one for each connection that was woken and has no answer
	filled chan struct{} // cap 1: something is in a queue
	again  chan struct{} // cap 1: the successor answers again

	queues    queues
	stalled   atomic.Bool    // the successor seems to hang: nothing is offered
	hopeless  atomic.Bool    // it has hung for so long that it is not waited for
	running   sync.WaitGroup // its goroutines
	done      chan struct{}  // closed when they have returned: what was under way is answered
	abandoned chan struct{}  // closed when nobody will answer any more
}

// queues hold the connections that wait to be offered.
type queues struct {
	mu       sync.Mutex
	busy     []*conn   // those that come from a request
	idle     []*conn   // those that were woken; they have time
	sending  int       // batches under way
	progress time.Time // when the last one was answered, or the first one sent
	ended    bool      // nothing is offered any more
}

// newMigrator returns a migrator, or nil if no connection can migrate.
func (s *Server) newMigrator(ctx context.Context, h upgrade.Handoff) *migrator {
	if h.Migrate == nil || s.opts.DisableMigration || !s.isSafe() {
		return nil
	}
	s.http2() // its self-test is not for a server whose connections migrate
	m := &migrator{
		over:      make(chan struct{}),
		h:         h,
		kept:      make(map[net.Listener]bool),
		open:      s.open,
		window:    make(chan struct{}, migrateWindow),
		filled:    make(chan struct{}, 1),
		again:     make(chan struct{}, 1),
		done:      make(chan struct{}),
		abandoned: make(chan struct{}),
	}
	for _, ln := range s.listeners {
		m.kept[ln.Listener] = h.Kept(ln.Listener)
	}
	m.ctx, m.cancel = context.WithCancel(ctx)
	return m
}

// start migrates the connections that are open, and those that offer themselves.
func (m *migrator) start() {
	if m == nil {
		return
	}
	m.running.Go(m.wake)
	m.running.Go(m.watch)
	for range migrateWorkers {
		m.running.Go(m.work)
	}
	go func() {
		defer close(m.done)
		m.running.Wait()
	}()
}

// takes reports whether connections of a listener can migrate, now or when the successor
// answers again.
func (m *migrator) takes(ln net.Listener) bool {
	if m.hopeless.Load() {
		return false
	}
	kept, known := m.kept[ln]
	if !known && ln != nil {
		kept = m.h.Kept(ln)
	}
	return kept
}

// chooses reports whether a connection is one of those that migrate. It is called once for each.
func (m *migrator) chooses() bool {
	if m.lottery == nil {
		return true
	}
	m.lots.Lock()
	defer m.lots.Unlock()
	return m.lottery.draw(rand.Float64())
}

// wake lets the connections that wait at rest offer themselves. It does so again after the
// successor has hung for a while, in which others came to rest.
func (m *migrator) wake() {
	for {
		for _, c := range m.open() {
			select {
			case m.window <- struct{}{}:
			case <-m.over:
				return
			}
			if !c.follower().wakeToOffer(m) {
				m.leave()
			}
		}
		select {
		case <-m.again:
		case <-m.over:
			return
		}
	}
}

// leave gives a place in the window back.
func (m *migrator) leave() { <-m.window }

// offer returns when the successor has taken the connection or not. The caller is its reader,
// and does not read meanwhile.
func (m *migrator) offer(c *conn, woken bool) {
	q := &m.queues
	q.mu.Lock()
	if ended := q.ended; ended || m.stalled.Load() {
		q.mu.Unlock()
		if ended {
			c.refuse(m)
		}
		return
	}
	c.answer = make(chan struct{})
	if woken {
		q.idle = append(q.idle, c)
	} else {
		q.busy = append(q.busy, c)
	}
	q.mu.Unlock()
	nudge(m.filled)
	select {
	case <-c.answer:
	case <-m.abandoned:
	}
}

func (m *migrator) work() {
	for {
		select {
		case <-m.over:
			return
		case <-m.filled:
		}
		for batch := m.take(); len(batch) > 0; batch = m.take() {
			m.send(batch)
		}
	}
}

// take takes a batch out of a queue.
func (m *migrator) take() []*conn {
	q := &m.queues
	q.mu.Lock()
	defer q.mu.Unlock()
	queue := &q.busy
	if len(q.busy) == 0 {
		queue = &q.idle
	}
	n := min(len(*queue), migrateBatch)
	batch := (*queue)[:n:n]
	*queue = (*queue)[n:]
	if len(q.busy)+len(q.idle) > 0 {
		nudge(m.filled) // for another worker
	}
	if n > 0 {
		if q.sending == 0 {
			q.progress = time.Now()
		}
		q.sending++
	}
	return batch
}

// watch gives the connections in the queues back when the successor hangs.
func (m *migrator) watch() {
	tick := time.NewTicker(migrateStall / 4)
	defer tick.Stop()
	for {
		select {
		case <-m.over:
			return
		case now := <-tick.C:
			var rest []*conn
			m.queues.mu.Lock()
			if silent := now.Sub(m.queues.progress); m.queues.sending > 0 && silent >= migrateStall {
				m.stalled.Store(true)
				m.hopeless.Store(silent >= migratePatience)
				rest = m.queues.empty()
			}
			m.queues.mu.Unlock()
			for _, c := range rest {
				close(c.answer)
			}
		}
	}
}

func (m *migrator) send(batch []*conn) {
	var (
		exported []*conn
		conns    []upgrade.Connection
		taken    []bool
	)
	for _, c := range batch {
		if m.isOver() {
			c.settle(m, false)
		} else if x, ok := c.export(); ok {
			exported, conns = append(exported, c), append(conns, x)
		} else {
			c.settle(m, false)
		}
	}
	if len(conns) > 0 {
		taken = m.h.Migrate(m.ctx, conns)
	}
	m.queues.mu.Lock()
	m.queues.sending--
	m.queues.progress = time.Now()
	m.hopeless.Store(false)
	if m.stalled.Swap(false) {
		nudge(m.again)
	}
	m.queues.mu.Unlock()
	for i, c := range exported {
		c.settle(m, i < len(taken) && taken[i])
	}
}

// isOver reports whether nothing is offered any more.
func (m *migrator) isOver() bool {
	select {
	case <-m.over:
		return true
	case <-m.ctx.Done(): // Migrate would take it for given
		return true
	default:
		return false
	}
}

// isDone reports whether nothing is under way any more.
func (m *migrator) isDone() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// end ends the session, and returns at once. What is under way gets its answer, or may be under
// way for as long as the successor hangs. What waits to be offered stays.
func (m *migrator) end() {
	m.queues.mu.Lock()
	if m.queues.ended {
		m.queues.mu.Unlock()
		return
	}
	m.queues.ended = true
	rest := m.queues.empty()
	m.queues.mu.Unlock()
	close(m.over)
	for _, c := range rest {
		c.settle(m, false)
	}
}

// empty empties the queues. It is called with the lock held.
func (q *queues) empty() []*conn {
	rest := append(q.busy, q.idle...)
	q.busy, q.idle = nil, nil
	return rest
}

// abandon lets the readers of connections go on that still have no answer.
func (m *migrator) abandon() { close(m.abandoned) }
