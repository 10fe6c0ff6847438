package upgrade

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/baton/upgrade/internal/link"
	"golang.org/x/sys/unix"
)

// adopted is a service that keeps what moves to it.
type adopted struct {
	idle
	mu      sync.Mutex
	conns   []Connection
	refuses net.Listener // whose connections it does not want
}

func (a *adopted) Adopt(c Connection) func() {
	if c.Listener == a.refuses || string(c.State) == `"refused"` {
		return nil
	}
	c.State = slices.Clone(c.State)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.conns = append(a.conns, c)
	}
}

func (a *adopted) all() []Connection {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.conns)
}

// movers are a predecessor and its successor with a listener that both have.
type movers struct {
	predecessor, successor *Generation
	ahead, back            *link.Link // ends of the link
	ln                     net.Listener
	service                *adopted
	clients                []net.Conn
	conns                  []Connection // accepted by the predecessor
}

func newMovers(t testing.TB, connections int) *movers {
	t.Helper()
	m := &movers{service: new(adopted)}
	m.ahead, m.back = linkPair(t)
	var err error
	if m.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.ln.Close() })
	newSide := func() *Generation {
		return &Generation{log: discard, events: make(chan link.Event, 16), done: make(chan struct{})}
	}
	m.predecessor, m.successor = newSide(), newSide()
	m.successor.adoption.begin(m.service)
	m.successor.listeners = map[string]net.Listener{"here": m.ln}
	m.ahead.Follow(m.predecessor.events, m.predecessor.done, m.predecessor.exchange(m.ahead, false))
	for range connections {
		client, err := net.Dial("tcp", m.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		nc, err := m.ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close(); nc.Close() })
		m.clients = append(m.clients, client)
		m.conns = append(m.conns, Connection{Conn: nc, Listener: m.ln, Used: len(m.conns)%2 == 0, Left: time.Duration(len(m.conns)) * time.Second})
	}
	t.Cleanup(func() {
		for _, c := range m.service.all() {
			c.Close()
		}
	})
	return m
}

// succeed lets the successor read its end.
func (m *movers) succeed() {
	m.back.Follow(m.successor.events, m.successor.done, m.successor.exchange(m.back, true))
}

func (m *movers) move(ctx context.Context, bound string) []bool {
	m.predecessor.listeners = map[string]net.Listener{bound: m.ln}
	return m.predecessor.migrate(ctx, m.ahead, true, m.conns)
}

// offer begins a move, and returns what the successor hears of it.
func (m *movers) offer(t *testing.T) (offer link.Message, result chan []bool) {
	t.Helper()
	result = make(chan []bool)
	go func() { result <- m.move(t.Context(), "here") }()
	offer, err := m.back.Receive(time.Minute)
	files := 0
	for f, _ := offer.TakeFile(); f != nil; f, _ = offer.TakeFile() {
		f.Close()
		files++
	}
	if err != nil || files != len(m.conns) {
		t.Fatalf("got %+v with %d files, %v, want an offer of %d", offer, files, err, len(m.conns))
	}
	return offer, result
}

// awaitAdopted awaits that the successor has so many connections: it answers before it adopts.
func (m *movers) awaitAdopted(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); len(m.service.all()) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the successor has adopted %d connections, want %d", len(m.service.all()), n)
		}
	}
}

func counted(taken []bool) (n int) {
	for _, ok := range taken {
		if ok {
			n++
		}
	}
	return n
}

// A whole batch moves, with what is to be known of each, and is the same sockets.
func TestMove(t *testing.T) {
	m := newMovers(t, MigrationLimit)
	m.succeed()
	if n := counted(m.move(t.Context(), "here")); n != MigrationLimit {
		t.Fatalf("%d connections were taken, want %d", n, MigrationLimit)
	}
	m.awaitAdopted(t, MigrationLimit)
	for i, c := range m.service.all() {
		m.conns[i].Close()
		if c.Listener != m.ln || c.Used != m.conns[i].Used || c.Left != m.conns[i].Left {
			t.Fatalf("connection %d: got %+v, want %+v", i, c, m.conns[i])
		}
		nc, err := c.Conn.(Unopened).Open()
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if _, ok := nc.(*net.TCPConn); !ok {
			t.Fatalf("connection %d: got a %T, want a TCP connection", i, nc)
		}
		defer nc.Close()
		io.WriteString(m.clients[i], "x")
		buf := make([]byte, 1)
		nc.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(nc, buf); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if n := len(m.service.all()); n != MigrationLimit {
		t.Errorf("%d connections were adopted, want %d", n, MigrationLimit)
	}
}

// What the successor has no place for stays, and leaves no descriptor behind.
func TestMoveRefused(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *movers) (bound string, taken int){
		"no such listener": func(*testing.T, *movers) (string, int) { return "there", 0 },
		"does not adopt":   func(_ *testing.T, m *movers) (string, int) { m.successor.adoption.end(); return "here", 0 },
		"another protocol": func(_ *testing.T, m *movers) (string, int) { m.service.refuses = m.ln; return "here", 0 },
		"out of descriptors": func(t *testing.T, m *movers) (string, int) {
			var limit unix.Rlimit
			unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
			t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
			low := limit
			low.Cur = uint64(openFiles(t)) + 4
			unix.Setrlimit(unix.RLIMIT_NOFILE, &low)
			return "here", 0
		},
		"short of descriptors": func(t *testing.T, m *movers) (string, int) {
			var limit unix.Rlimit
			unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
			t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
			low := limit
			low.Cur = uint64(openFiles(t)+8+10) * 2 // half of which is kept
			unix.Setrlimit(unix.RLIMIT_NOFILE, &low)
			return "here", 10
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t, 24)
			bound, want := spoil(t, m)
			m.succeed()
			before := openFiles(t)
			n := counted(m.move(t.Context(), bound))
			// Counting takes a descriptor itself.
			if slack := min(want, 2); n < want-slack || n > want+slack {
				t.Errorf("%d connections were taken, want %d", n, want)
			}
			m.awaitAdopted(t, n)
			if after := openFiles(t); after > before+n {
				t.Errorf("got %d open files, want %d", after, before+n)
			}
		})
	}
}

// A successor that dies with an offer unanswered leaves all to the predecessor; one
// that has answered does not.
func TestMoveToSuccessorThatDies(t *testing.T) {
	for name, want := range map[string]int{"before its answer": 0, "after its answer": 3} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t, 3)
			offer, result := m.offer(t)
			select {
			case taken := <-result:
				t.Fatalf("got %v before there was an answer", taken)
			case <-time.After(50 * time.Millisecond):
			}
			if want > 0 {
				if err := m.back.Send(link.Message{Type: link.TypeTaken, Batch: offer.Batch}); err != nil {
					t.Fatal(err)
				}
			}
			m.back.Close()
			if n := counted(<-result); n != want {
				t.Errorf("%d connections count as taken, want %d", n, want)
			}
		})
	}
}

// At the deadline what was offered and not answered is the successor's: it may read already.
func TestMoveAtTheDeadline(t *testing.T) {
	m := newMovers(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if n := counted(m.move(ctx, "here")); n != 2 {
		t.Errorf("%d connections count as taken, want 2", n)
	}
	m.succeed() // comes too late to be waited for
	m.awaitAdopted(t, 2)
}

// A predecessor that died after its offer loses nothing.
func TestMoveFromPredecessorThatDies(t *testing.T) {
	m := newMovers(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.move(ctx, "here")
	m.ahead.Close()
	m.succeed()
	m.awaitAdopted(t, 2)
}

// An answer is believed only as far as it makes sense.
func TestMoveOddAnswers(t *testing.T) {
	m := newMovers(t, 3)
	offer, result := m.offer(t)
	for _, odd := range []link.Message{
		{Type: link.TypeTaken, Batch: offer.Batch + 1},
		{Type: link.TypeTaken, Batch: offer.Batch, Refused: []int{-1, 1, 3, 1 << 40}},
		{Type: link.TypeTaken, Batch: offer.Batch, Refused: []int{0}},
	} {
		if err := m.back.Send(odd); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-result; !slices.Equal(got, []bool{true, false, true}) {
		t.Errorf("got %v, want the second one refused", got)
	}
}

// A predecessor that no longer understands its successor offers nothing any more, and
// does not read from what that may have.
func TestMoveAfterGarbage(t *testing.T) {
	m := newMovers(t, 2)
	_, result := m.offer(t)
	if err := writeRaw(m.back, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if n := counted(<-result); n != 2 {
		t.Errorf("%d of the connections under way count as taken, want both", n)
	}
	if n := counted(m.move(t.Context(), "here")); n != 0 {
		t.Errorf("%d of those offered later count as taken, want none", n)
	}
	if _, err := m.back.Receive(time.Minute); err == nil {
		t.Error("something was offered later")
	}
}

// The drain begins when all that has migrated is adopted, and later offers are refused.
func TestAdoptionEnds(t *testing.T) {
	var a adoption
	if adopter, done := a.use(); adopter != nil {
		t.Error("an adopter before it begins")
	} else {
		done()
	}
	if a.begin(idle{}) || !a.begin(new(adopted)) {
		t.Error("begins with a service that is no adopter, or not with one that is")
	}
	_, done := a.use()
	ended := make(chan struct{})
	go func() {
		a.end()
		close(ended)
	}()
	for {
		adopter, done := a.use()
		done()
		if adopter == nil {
			break
		}
	}
	select {
	case <-ended:
		t.Error("ended while a connection is adopted")
	default:
	}
	done()
	<-ended
}
