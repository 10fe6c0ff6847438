package upgrade

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/upgrade/internal/link"
	"golang.org/x/sys/unix"
)

// read reads one message of the predecessor, and closes what came with it.
func (m *movers) read(t *testing.T) link.Message {
	t.Helper()
	got, err := m.back.Receive(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	got.Close()
	return got
}

// answer responds to a message.
func (m *movers) answer(t *testing.T, to link.Message, refused ...int) {
	t.Helper()
	if err := m.back.Send(link.Message{Type: link.TypeTaken, Batch: to.Batch, Refused: refused}); err != nil {
		t.Fatal(err)
	}
}

// A successor that dies, or breaks the link, at any step has what it has said that it has, and
// nothing else.
func TestTransferToSuccessorThatFails(t *testing.T) {
	t.Parallel()
	// Two fit into a message, so that there are three.
	const conns, size = 6, StateLimit - 100
	for name, test := range map[string]struct {
		script func(*testing.T, *movers)
		want   int
	}{
		"gone before":                {func(_ *testing.T, m *movers) { m.back.Close() }, 0},
		"gone with nothing read":     {func(t *testing.T, m *movers) { m.awaitReadable(t); m.back.Close() }, 0},
		"gone with one message read": {func(t *testing.T, m *movers) { m.read(t); m.back.Close() }, 0},
		"gone with all read": {func(t *testing.T, m *movers) {
			for range 3 {
				m.read(t)
			}
			m.back.Close()
		}, 0},
		"gone after one answer":                        {func(t *testing.T, m *movers) { m.answer(t, m.read(t)); m.read(t); m.back.Close() }, 2},
		"gone after one answer, and nothing else read": {func(t *testing.T, m *movers) { m.answer(t, m.read(t)); m.back.Close() }, 2},
		"gone after all answers": {func(t *testing.T, m *movers) {
			for i := range 3 {
				m.answer(t, m.read(t), []int{0, 5}[:i%2]...)
			}
			m.back.Close()
		}, 5},
		"answers to something else": {func(t *testing.T, m *movers) {
			got := m.read(t)
			m.answer(t, link.Message{Batch: got.Batch + 100}, 0)
			m.back.Send(link.Message{Type: link.TypeReport, Report: &link.Report{Answers: got.Batch}})
			m.back.Close()
		}, 0},
		"garbage with all read": {func(t *testing.T, m *movers) {
			for range 3 {
				m.read(t)
			}
			writeRaw(m.back, []byte("garbage"))
		}, conns}, // it lives, and may read from them
	} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t, conns)
			for i := range m.withState(t, size) {
				m.conns[i].Peer = nil
			}
			if name != "gone before" {
				go test.script(t, m)
			} else {
				test.script(t, m)
			}
			taken := m.move(t.Context(), "here")
			if n := counted(taken); n != test.want {
				t.Errorf("got %v, want %d connections", taken, test.want)
			}
			for i, c := range m.conns {
				if len(bytes.Trim(c.State, "\x00")) > 0 {
					t.Errorf("connection %d: the sender still has the state", i)
				}
			}
		})
	}
}

// awaitReadable returns when the predecessor has sent something.
func (m *movers) awaitReadable(t *testing.T) {
	t.Helper()
	raw, err := m.back.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil
	})
}

// While the successor does not read, the link is full. What was sent is the successor's when
// it reads at last; what was not is not lost.
func TestTransferToSuccessorThatIsStopped(t *testing.T) {
	t.Parallel()
	for name, goesOn := range map[string]bool{"goes on": true, "until the deadline": false} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t, 60) // more than fits into the link
			for i := range m.withState(t, StateLimit-100) {
				m.conns[i].Peer = nil
			}
			m.conns[59].State = nil // goes in an offer
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan []bool, 1)
			go func() { result <- m.move(ctx, "here") }()
			for deadline := time.Now().Add(time.Minute); !m.ahead.Silent(); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the link is not full")
				}
			}
			if goesOn {
				m.succeed()
				if n := counted(<-result); n != len(m.conns) {
					t.Errorf("%d connections were taken, want all %d", n, len(m.conns))
				}
				m.awaitAdopted(t, len(m.conns))
				return
			}
			cancel()
			taken := <-result
			n := counted(taken)
			if n == 0 || n == len(taken) {
				t.Errorf("%d connections count as taken, want those that were sent", n)
			}
			m.succeed()
			m.awaitAdopted(t, n)
			m.ahead.Close()
			<-m.back.Ended()
			for _, c := range m.service.all() {
				if i := int(c.Left / time.Second); !taken[i] {
					t.Errorf("connection %d has two owners", i)
				}
			}
			if got := len(m.service.all()); got != n {
				t.Errorf("%d connections were adopted, want the %d that were sent", got, n)
			}
		})
	}
}

// A connection of which one descriptor is missing stays whole with the predecessor.
func TestTransferShortOfDescriptors(t *testing.T) {
	refused := 0
	for spare := range 12 {
		m := newMovers(t, 6)
		m.withState(t, 10)
		for i := range m.conns {
			if m.conns[i].Peer == nil {
				m.conns[i].Peer = m.conns[0].Peer
			}
		}
		var limit unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
		before := openFiles(t)
		low := limit
		low.Cur = uint64(before+8+spare) * 2 // half of which is kept
		unix.Setrlimit(unix.RLIMIT_NOFILE, &low)
		m.succeed()
		n := counted(m.move(t.Context(), "here"))
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		m.awaitAdopted(t, n)
		for _, c := range m.service.all() {
			if c.Peer == nil {
				t.Fatalf("room for %d: a connection was taken without its peer", spare)
			}
		}
		refused += len(m.conns) - n
		if after := openFiles(t); after > before+2*n {
			t.Errorf("room for %d: got %d open files, want %d", spare, after, before+2*n)
		}
		for _, c := range m.service.all() {
			c.Peer.Close()
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// The same where the kernel has passed the first descriptor of a pair only.
func TestTransferOfHalfAPair(t *testing.T) {
	m := newMovers(t, 2)
	peers := m.withState(t, 10)
	m.conns[1].Peer = m.conns[0].Peer
	m.succeed()
	m.predecessor.listeners = map[string]net.Listener{"here": m.ln}
	b := m.predecessor.batches(m.conns, true)[0]
	before := openFiles(t)
	response, err := m.ahead.Call(t.Context(), b.message, b.sockets[:3]...)
	if err != nil || !slices.Equal(response.Refused, []int{1}) {
		t.Fatalf("got %+v, %v, want the second one refused", response, err)
	}
	m.awaitAdopted(t, 1)
	if after := openFiles(t); after > before+2 {
		t.Errorf("got %d open files, want %d", after, before+2)
	}
	arrives(t, peers[0], m.service.all()[0].Peer)
}

// A service begins with a connection that has a state only when the predecessor has, or has
// left, the answer: else both might write with the same keys.
func TestTransferThatCannotBeAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		kind   link.Type
		isGone bool
		begins bool
	}{
		"transfer":                            {link.TypeTransfer, false, false},
		"transfer of a predecessor that died": {link.TypeTransfer, true, true},
		"offer":                               {link.TypeOffer, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ahead, back := linkPair(t)
				near, far := tcpPair(t)
				if err := ahead.Send(link.Message{Type: test.kind, Batch: 1, Offered: []link.Offered{{Bound: "here"}}, States: []link.State{link.State("{}")}}, near); err != nil {
					t.Fatal(err)
				}
				near.Close()
				var m link.Message
				var err error
				for m, err = back.Receive(time.Second); err != nil; m, err = back.Receive(time.Second) {
				}
				if test.isGone {
					ahead.Close()
				} else {
					for err == nil {
						err = back.Send(link.Message{Type: link.TypeReport, Report: new(link.Report), Claims: make([]link.Claim, 1000)})
					}
				}
				service := new(adopted)
				g := &Generation{log: slog.New(slog.DiscardHandler), done: make(chan struct{}), listeners: map[string]net.Listener{"here": new(net.TCPListener)}}
				defer close(g.done)
				g.adoption.begin(service)
				g.takeOffer(back, &m)
				if n := len(service.all()); (n == 1) != test.begins {
					t.Errorf("%d connections have begun, want any: %v", n, test.begins)
				}
				for _, c := range service.all() {
					c.Close()
				}
				if !test.begins { // as soon as it reads, it hears that it has them still
					m = link.Message{}
					for tries := 0; m.Type != link.TypeTaken && tries < 10_000; tries++ {
						time.Sleep(link.SendTimeout / 10)
						m, _ = ahead.Receive(time.Nanosecond)
					}
					if m.Batch != 1 || !slices.Equal(m.Refused, []int{0}) {
						t.Errorf("batch %d: got refused %v, want all", m.Batch, m.Refused)
					}
				}
				// Nothing is left open, so that the client sees the end.
				far.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := far.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.ETIMEDOUT) {
					t.Errorf("the client got %v, want the end of the connection", err)
				}
			})
		})
	}
}

// tcpPair returns the two ends of a connection.
func tcpPair(t *testing.T) (near *net.TCPConn, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if far, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); accepted.Close() })
	return accepted.(*net.TCPConn), far
}

// What a peer sends in place of a state harms that connection only.
func TestTransferOfGarbage(t *testing.T) {
	m := newMovers(t, 4)
	m.succeed()
	message := link.Message{Type: link.TypeTransfer, States: []link.State{
		link.State(`"refused"`), link.State(`{"a":[1,2,{"b":null}]}`), nil, // and none for the last one
	}}
	m.predecessor.listeners = map[string]net.Listener{"here": m.ln}
	batches := m.predecessor.batches(m.conns, true)
	message.Offered = batches[0].message.Offered
	response, err := m.ahead.Call(t.Context(), message, batches[0].sockets...)
	if err != nil || !slices.Equal(response.Refused, []int{0}) {
		t.Fatalf("got %+v, %v, want the first one refused", response, err)
	}
	m.awaitAdopted(t, 3)
}

// A link may be passed on to a release that ignores transfers: what it finds there unanswered,
// and what comes later, is still the predecessor's.
func TestTransferToAnotherRelease(t *testing.T) {
	for protocol, want := range map[int]int{2: 0, 3: 2} {
		m := newMovers(t, 2)
		m.withState(t, 10)
		m.predecessor.successorLink, m.predecessor.successor = m.ahead, &member{state: Serving}
		result := make(chan []bool)
		go func() { result <- m.move(t.Context(), "here") }()
		transfer := m.read(t)
		if err := m.back.Send(link.Message{Type: link.TypeHello, Hello: &link.Hello{Protocol: protocol}}); err != nil {
			t.Fatal(err)
		}
		if got := m.read(t); got.Type != link.TypeReport {
			t.Errorf("got %+v, want a report", got)
		}
		if want > 0 {
			m.answer(t, transfer)
		}
		if taken := <-result; counted(taken) != want {
			t.Errorf("version %d: got %v, want %d connections", protocol, taken, want)
		}
		if want > 0 {
			continue
		}
		m.withState(t, 10)
		if taken := m.move(t.Context(), "here"); counted(taken) != 0 {
			t.Errorf("version %d: got %v later, want none", protocol, taken)
		}
	}
}
