package upgrade

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"example.com/baton/upgrade/internal/link"
	"golang.org/x/sys/unix"
)

// migrate is the Migrate of a [Handoff]. The predecessor, which has stopped reading from the
// connections, offers their descriptors; the successor responds which it takes, and only
// then begins to read; the predecessor closes its copies of those, and reads on from the
// rest. Until it has the response it keeps all copies, so that a successor that dies
// before costs nothing.
func (g *Generation) migrate(ctx context.Context, l *link.Link, states bool, conns []Connection) []bool {
	taken := make([]bool, len(conns))
	var offers sync.WaitGroup
	for _, b := range g.batches(conns, states) {
		offers.Go(func() {
			for i, ok := range g.offer(ctx, l, &b) {
				taken[b.at[i]] = ok
			}
		})
	}
	offers.Wait()
	for _, c := range conns {
		c.State.Clear()
	}
	return taken
}

const (
	// answerPatience is how long the response to an offer is tried to send.
	answerPatience = 2 * time.Second
	// offerPatience is how long an offer or a transfer waits for its place on the link.
	// Transfers are large, so that a successor that is busy for a moment finds it full.
	offerPatience = 15 * time.Second
)

// offer offers one batch, and returns which of it the successor has taken.
func (g *Generation) offer(ctx context.Context, l *link.Link, b *batch) []bool {
	none := make([]bool, len(b.at))
	response, err := l.Call(ctx, b.message, b.sockets...)
	for patience := time.Now().Add(offerPatience); isFull(err) && ctx.Err() == nil && time.Now().Before(patience); {
		response, err = l.Call(ctx, b.message, b.sockets...)
	}
	switch {
	case err == nil:
	case errors.Is(err, link.ErrNoSocket) && len(b.at) > 1: // it was closed meanwhile: the others have nothing to do with it
		var taken []bool
		for _, one := range b.split() {
			taken = append(taken, g.offer(ctx, l, &one)...)
		}
		return taken
	case errors.Is(err, link.ErrClosed), errors.Is(err, link.ErrIgnored), errors.Is(err, link.ErrNoSocket):
		return none
	case errors.Is(err, link.ErrEnded):
		if !l.Broken() && g.peerExits(l) { // and its copies are gone with it
			return none
		}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()): // the successor may have them by now
	default:
		g.log.Warn("connections cannot migrate", "connections", len(b.at), "error", err)
		return none
	}
	taken := slices.Repeat([]bool{true}, len(b.at))
	for _, i := range response.Refused {
		if i >= 0 && i < len(taken) {
			taken[i] = false
		}
	}
	return taken
}

// isFull reports whether a message was not sent because too much is under way.
func isFull(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ETOOMANYREFS) }

// peerExits reports whether the process at the other end of the link has exited,
// or does so soon, after that has ended.
func (g *Generation) peerExits(l *link.Link) bool {
	for end := time.Now().Add(link.PeerExit); !g.peerEnded(l); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// peerEnded reports whether that process has exited. One of which nothing is known any more has.
func (g *Generation) peerEnded(l *link.Link) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	peer := g.successor
	for _, p := range g.predecessors {
		if p.link == l {
			peer = p
		}
	}
	return peer == nil || peer.process.Ended()
}

// boundAt returns the address by which the successor knows a listener, too.
func (g *Generation) boundAt(ln net.Listener) string {
	for bound, own := range g.listeners {
		if own == ln {
			return bound
		}
	}
	return ""
}

// adoption is the time in which connections can migrate to this generation: from begin
// to end.
type adoption struct {
	mu       sync.Mutex
	adopter  Adopter // nil outside of that time
	underway sync.WaitGroup
}

// begin lets connections migrate, if the service is an [Adopter], which it reports.
func (a *adoption) begin(s Service) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.adopter, _ = s.(Adopter)
	return a.adopter != nil
}

// end returns when all that has migrated is adopted.
func (a *adoption) end() {
	a.mu.Lock()
	a.adopter = nil
	a.mu.Unlock()
	a.underway.Wait()
}

// use returns the adopter or nil. The caller calls done when it does not use it any more.
func (a *adoption) use() (adopter Adopter, done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.adopter == nil {
		return nil, func() {}
	}
	a.underway.Add(1)
	return a.adopter, a.underway.Done
}

// takeOffer responds to an offer or a transfer, and adopts what it takes.
func (g *Generation) takeOffer(l *link.Link, m *link.Message) {
	adopter, done := g.adoption.use()
	defer done()
	var (
		taken   []Connection
		begin   []func() // for each of them
		refused []int
		short   int
	)
	for i := range m.Offered {
		c, room := g.takeConnection(m, i)
		if !room {
			short++
		} else if adopter != nil && c.Listener != nil {
			if f := adopter.Adopt(c); f != nil {
				taken, begin = append(taken, c), append(begin, f)
				continue
			}
		}
		refused = append(refused, i)
		c.close()
	}
	m.Close()
	if short > 0 {
		g.log.Warn("file descriptors are short: connections stay with the predecessor", "connections", short)
	}
	if other := len(refused) - short; other > 0 && adopter != nil {
		g.log.Info("connections stay with the predecessor: they cannot be served here", "connections", other)
	}
	// Whether it has this or not, the predecessor reads no more unless it is refused: one
	// that does not read the link now should have it later.
	answer := link.Message{Type: link.TypeTaken, Batch: m.Batch, Refused: refused}
	err := l.Send(answer)
	for patience := time.Now().Add(answerPatience); err != nil && !hasEnded(err) && time.Now().Before(patience); {
		time.Sleep(link.SendTimeout / 10)
		err = l.Send(answer)
	}
	if m.Type == link.TypeTransfer && err != nil && !hasEnded(err) {
		// Should this process die, the predecessor would go on with keys that were used here.
		g.log.Warn("connections stay with the predecessor: it cannot be answered", "connections", len(taken), "error", err)
		for _, c := range taken {
			c.close()
		}
		answer.Refused = nil
		for i := range m.Offered {
			answer.Refused = append(answer.Refused, i)
		}
		g.sendSurely(l, answer)
		return
	}
	for _, f := range begin {
		f()
	}
}

// hasEnded reports whether a message was not sent because the peer reads nothing any more.
func hasEnded(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, link.ErrNoSocket)
}

// close closes the copies of the sockets that came over the link.
func (c Connection) close() {
	for _, nc := range []net.Conn{c.Conn, c.Peer} {
		if nc != nil {
			nc.Close()
		}
	}
}

// takeConnection returns one of the connections that came with a message, in their order. room is
// false if this process has too few descriptors for it, of which it then may lack one.
func (g *Generation) takeConnection(m *link.Message, i int) (c Connection, room bool) {
	o := m.Offered[i]
	c = Connection{Listener: g.listeners[o.Bound], Used: o.Used, Left: max(o.Left, 0)}
	if i < len(m.States) {
		c.State = ConnectionState(m.States[i])
	}
	f, room := m.TakeFile()
	if f != nil {
		c.Conn = unopened{f}
	}
	if o.Peer {
		var peer *os.File
		if peer, room = m.TakeFile(); peer != nil {
			c.Peer = unopened{peer}
		}
	}
	return c, room
}

// unopened is a socket as it has come over the link.
type unopened struct{ *os.File }

func (unopened) LocalAddr() net.Addr  { return nil }
func (unopened) RemoteAddr() net.Addr { return nil }

// Open makes a copy, and closes the original.
func (u unopened) Open() (net.Conn, error) {
	nc, err := net.FileConn(u.File)
	if err == nil {
		u.File.Close()
	}
	return nc, err
}
