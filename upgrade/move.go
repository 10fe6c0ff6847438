package upgrade

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/link"
	"golang.org/x/sys/unix"
)

// move is the Move of a [Handoff]. The predecessor, which has stopped reading from the
// connections, offers their descriptors; the successor responds which it takes, and only
// then begins to read; the predecessor closes its copies of those, and reads on from the
// rest. Until it has the response it keeps all copies, so that a successor that dies
// before costs nothing.
func (g *Generation) move(ctx context.Context, l *link.Link, conns []Connection) []bool {
	none := make([]bool, len(conns))
	m := link.Message{Type: link.TypeOffer}
	sockets := make([]syscall.Conn, len(conns))
	for i, c := range conns {
		m.Offered = append(m.Offered, link.Offered{Bound: g.boundAt(c.Listener), Spoke: c.Spoke, Left: c.Left})
		socket, ok := c.Conn.(syscall.Conn)
		if !ok {
			return none
		}
		sockets[i] = socket
	}
	response, err := l.Call(ctx, m, sockets...)
	switch {
	case err == nil:
	case errors.Is(err, link.ErrClosed):
		return none
	case errors.Is(err, link.ErrEnded):
		if !l.Broken() && g.successorExits() { // and its copies are gone with it
			return none
		}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()): // the successor may have them by now
	default:
		g.log.Warn("connections cannot migrate", "connections", len(conns), "error", err)
		return none
	}
	taken := slices.Repeat([]bool{true}, len(conns))
	for _, i := range response.Refused {
		if i >= 0 && i < len(taken) {
			taken[i] = false
		}
	}
	return taken
}

// successorExits reports whether the process at the other end of the link has exited,
// or does so soon, after that has ended.
func (g *Generation) successorExits() bool {
	g.mu.Lock()
	successor := g.successor
	g.mu.Unlock()
	return successor == nil || successor.process.EndsWithin(link.PeerExit)
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

// takeOffer responds to an offer and adopts what it takes.
func (g *Generation) takeOffer(l *link.Link, m *link.Message) {
	adopter, done := g.adoption.use()
	defer done()
	var (
		taken   []Connection
		refused []int
		short   bool
	)
	for i, o := range m.Offered {
		f, room := m.TakeFile()
		ln := g.listeners[o.Bound]
		if f != nil && room && adopter != nil && ln != nil && adopter.Adopts(ln) {
			taken = append(taken, Connection{Conn: unopened{f}, Listener: ln, Spoke: o.Spoke, Left: max(o.Left, 0)})
			continue
		}
		refused = append(refused, i)
		if f != nil {
			short = short || !room
			f.Close()
		}
	}
	m.Close()
	if short {
		g.log.Warn("file descriptors are short: connections stay with the predecessor", "connections", len(refused))
	}
	// Whether it has this or not, the predecessor reads no more unless it is refused: one
	// that does not read the link now should have it later.
	err := error(unix.EAGAIN)
	for patience := time.Now().Add(2 * time.Second); errors.Is(err, unix.EAGAIN) && time.Now().Before(patience); {
		err = l.Send(link.Message{Type: link.TypeTaken, Batch: m.Batch, Refused: refused})
	}
	for _, c := range taken {
		adopter.Adopt(c)
	}
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
