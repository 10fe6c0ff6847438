package upgrade

// This file holds the move of connections to the successor. The predecessor,
// which has stopped to read from them, offers their descriptors; the successor
// says which it takes, and only then begins to read; the predecessor closes its
// copies of those, and reads on from the rest. Until it has the answer it keeps
// all copies, so that a successor that dies before costs nothing.

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// offered is a connection that the predecessor offers.
type offered struct {
	Bound string        `json:"bound"` // the address of the listener
	Spoke bool          `json:"spoke,omitempty"`
	Left  time.Duration `json:"left,omitempty"`
}

// offers are those that were made over a link and not answered yet.
type offers struct {
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan []int // cap 1: for the refused ones
}

func (o *offers) add() (number uint64, answer chan []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	if o.waiting == nil {
		o.waiting = make(map[uint64]chan []int)
	}
	answer = make(chan []int, 1)
	o.waiting[o.last] = answer
	return o.last, answer
}

// answered takes the answer to an offer, or with nil the offer back.
func (o *offers) answered(number uint64, refused []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if answer, ok := o.waiting[number]; ok {
		delete(o.waiting, number)
		answer <- refused
	}
}

// move is the Move of a [Handoff].
func (g *Generation) move(ctx context.Context, l *link, conns []Connection) []bool {
	taken := make([]bool, len(conns))
	m := message{Type: msgOffer}
	sockets := make([]syscall.Conn, len(conns))
	for i, c := range conns {
		m.Offered = append(m.Offered, offered{Bound: g.boundAt(c.Listener), Spoke: c.Spoke, Left: c.Left})
		socket, ok := c.Conn.(syscall.Conn)
		if !ok {
			return taken
		}
		sockets[i] = socket
	}
	select {
	case <-l.ended: // no answer would be heard
		return taken
	default:
	}
	number, answer := l.offers.add()
	defer l.offers.answered(number, nil)
	m.Batch = number
	if err := l.send(m, sockets...); err != nil {
		g.log.Warn("connections cannot move", "connections", len(conns), "error", err)
		return taken
	}
	all := slices.Repeat([]bool{true}, len(conns))
	var refused []int
	select {
	case refused = <-answer:
	case <-ctx.Done(): // the successor may have them by now
		select {
		case refused = <-answer:
		default:
		}
	case <-l.ended:
		select {
		case refused = <-answer:
		default:
			if !l.broken.Load() && g.successorExits() { // and its copies are gone with it
				return taken
			}
		}
	}
	for _, i := range refused {
		if i >= 0 && i < len(all) {
			all[i] = false
		}
	}
	return all
}

// successorExits reports whether the process at the other end of the link has exited,
// or does so soon, after that has ended.
func (g *Generation) successorExits() bool {
	g.mu.Lock()
	after := g.after
	g.mu.Unlock()
	return after == nil || after.process.endsWithin(linkEnds)
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

// takeOffer answers an offer and adopts what it takes.
func (g *Generation) takeOffer(l *link, m *message) {
	g.adoption.Lock()
	defer g.adoption.Unlock()
	var (
		taken   []Connection
		refused []int
	)
	for i, o := range m.Offered {
		if c, ok := g.accept(o, m); ok {
			taken = append(taken, c)
		} else {
			refused = append(refused, i)
		}
	}
	m.close()
	if m.spare < 0 {
		g.log.Warn("predecessor keeps connections for which there are no descriptors here", "connections", len(refused))
	}
	// Whether it is heard or not, the predecessor reads no more unless it is refused:
	// one that does not listen now should hear it later.
	err := error(unix.EAGAIN)
	for patience := time.Now().Add(2 * time.Second); errors.Is(err, unix.EAGAIN) && time.Now().Before(patience); {
		err = l.send(message{Type: msgTaken, Batch: m.Batch, Refused: refused})
	}
	for _, c := range taken {
		g.adopter.Adopt(c)
	}
}

// accept makes a connection of the next descriptor of an offer, if there is a
// place for it.
func (g *Generation) accept(o offered, m *message) (Connection, bool) {
	if len(m.fds) == 0 {
		return Connection{}, false
	}
	fd := m.fds[0]
	m.fds = m.fds[1:]
	ln := g.listeners[o.Bound]
	m.spare--
	if g.adopter == nil || ln == nil || m.spare < 0 || !g.adopter.Adopts(ln) {
		unix.Close(fd)
		return Connection{}, false
	}
	return Connection{Conn: received{os.NewFile(uintptr(fd), "received")}, Listener: ln, Spoke: o.Spoke, Left: max(o.Left, 0)}, true
}

// received is a socket as it has come over the link.
type received struct{ *os.File }

func (received) LocalAddr() net.Addr  { return nil }
func (received) RemoteAddr() net.Addr { return nil }

// Open makes a copy, and closes the original.
func (r received) Open() (net.Conn, error) {
	nc, err := net.FileConn(r.File)
	if err == nil {
		r.File.Close()
	}
	return nc, err
}
