package upgrade

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"example.com/baton/upgrade/internal/link"
)

// withState gives the connections states and every third one a peer, of whose other ends it
// returns the writers.
func (m *movers) withState(t testing.TB, size int) (peers map[int]net.Conn) {
	t.Helper()
	peers = make(map[int]net.Conn)
	for i := range m.conns {
		m.conns[i].State = ConnectionState(fmt.Sprintf(`{"number":%d,"padding":%q}`, i, strings.Repeat("s", size)))
		if i%3 == 0 {
			far, err := net.Dial("tcp", m.ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			near, err := m.ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { far.Close(); near.Close() })
			m.conns[i].Peer, peers[i] = near, far
		}
	}
	return peers
}

// arrives fails unless what is written to far can be read from what came over the link.
func arrives(t *testing.T, far net.Conn, c net.Conn) {
	t.Helper()
	nc, err := c.(Unopened).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(far, "x")
	nc.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// Connections with and without a state migrate in one call, each with its own state and
// sockets, however many messages that takes. Nothing of the states is left at the sender.
func TestTransfer(t *testing.T) {
	for name, size := range map[string]int{"small states": 100, "as large as can be": StateLimit - 100} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t, 40)
			peers := m.withState(t, size)
			m.conns[7].State, m.conns[7].Peer = nil, nil
			m.succeed()
			if n := counted(m.move(t.Context(), "here")); n != len(m.conns) {
				t.Fatalf("%d connections were taken, want %d", n, len(m.conns))
			}
			m.awaitAdopted(t, len(m.conns))
			seen := make(map[int]bool)
			for _, c := range m.service.all() {
				i := int(c.Left / time.Second)
				if seen[i] || c.Used != m.conns[i].Used || c.Listener != m.ln {
					t.Fatalf("got %+v, want each connection once and as it was", c)
				}
				seen[i] = true
				if want := fmt.Sprintf(`{"number":%d,`, i); i != 7 && (!strings.HasPrefix(string(c.State), want) || len(c.State) < size) {
					t.Errorf("connection %d: got state %.20q", i, []byte(c.State))
				}
				arrives(t, m.clients[i], c.Conn)
				if (c.Peer != nil) != (peers[i] != nil) {
					t.Fatalf("connection %d: got peer %v", i, c.Peer)
				}
				if c.Peer != nil {
					arrives(t, peers[i], c.Peer)
				}
			}
			for i, c := range m.conns {
				if len(bytes.Trim(c.State, "\x00")) > 0 {
					t.Errorf("connection %d: the sender still has the state", i)
				}
			}
		})
	}
}

// closed returns a socket that is closed.
func closed(t *testing.T) net.Conn {
	t.Helper()
	nc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	return nc.(*net.UDPConn)
}

// What cannot migrate with its state stays, without harm to others.
func TestTransferRefused(t *testing.T) {
	tooLarge, _ := json.Marshal(strings.Repeat("s", StateLimit))
	for name, test := range map[string]struct {
		spoil func(*Connection)
		old   bool
		want  int
	}{
		"none":                      {func(*Connection) {}, false, 4},
		"a state that is too large": {func(c *Connection) { c.State = tooLarge }, false, 3},
		"a state that is no JSON":   {func(c *Connection) { c.State = ConnectionState(`{"a":`) }, false, 3},
		"by the service":            {func(c *Connection) { c.State = ConnectionState(`"refused"`) }, false, 3},
		"a peer that is no socket":  {func(c *Connection) { c.Peer, _ = net.Pipe() }, false, 3},
		"a closed connection":       {func(c *Connection) { c.Conn.Close() }, false, 3},
		"a closed peer":             {func(c *Connection) { c.Peer = closed(t) }, false, 3},
		"by a release of the past":  {func(c *Connection) { c.State, c.Peer = nil, nil }, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMovers(t, 4)
			m.withState(t, 10)
			test.spoil(&m.conns[2])
			m.succeed()
			m.predecessor.listeners = map[string]net.Listener{"here": m.ln}
			before := openFiles(t)
			taken := m.predecessor.migrate(t.Context(), m.ahead, !test.old, m.conns)
			if n := counted(taken); n != test.want || taken[2] != (test.want != 3) {
				t.Errorf("got %v, want %d connections", taken, test.want)
			}
			m.awaitAdopted(t, test.want)
			files := 0
			for _, c := range m.service.all() {
				if files++; c.Peer != nil {
					files++
				}
			}
			if after := openFiles(t); after > before+files {
				t.Errorf("got %d open files, want %d", after, before+files)
			}
			for _, c := range m.service.all() {
				if c.Peer != nil {
					c.Peer.Close()
				}
			}
		})
	}
}

// No message is larger than the link allows, and none has more descriptors.
func TestBatches(t *testing.T) {
	ln := &net.TCPListener{}
	g := &Generation{listeners: map[string]net.Listener{"unix:" + strings.Repeat("\x01", 100): ln}}
	state := ConnectionState(`"` + strings.Repeat("s", StateLimit-2) + `"`)
	for name, test := range map[string]struct {
		conns int
		conn  Connection
		want  int
	}{
		"none":                     {0, Connection{Conn: new(net.TCPConn)}, 0},
		"plain":                    {MigrationLimit + 1, Connection{Conn: new(net.TCPConn), Left: 1 << 60}, 2},
		"small states":             {MigrationLimit, Connection{Conn: new(net.TCPConn), State: ConnectionState("{}")}, 2},
		"two descriptors":          {MigrationLimit - 1, Connection{Conn: new(net.TCPConn), Peer: new(net.TCPConn), Left: 1 << 60}, 2},
		"as large as can be":       {5, Connection{Conn: new(net.TCPConn), Peer: new(net.TCPConn), State: state}, 3},
		"larger":                   {5, Connection{Conn: new(net.TCPConn), State: append(state, ' ')}, 0},
		"nothing that is a socket": {5, Connection{State: state}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			conns := make([]Connection, test.conns)
			for i := range conns {
				conns[i], conns[i].Listener, conns[i].Used = test.conn, ln, true
			}
			all := g.batches(conns, true)
			if len(all) != test.want {
				t.Fatalf("got %d messages, want %d", len(all), test.want)
			}
			at := 0
			for _, b := range all {
				b.message.Batch = 1 << 63
				if b.size > link.MaxMessage || len(b.sockets) > MigrationLimit || len(b.at) != len(b.message.Offered) {
					t.Errorf("got a message of %d bytes with %d descriptors", b.size, len(b.sockets))
				}
				for _, i := range b.at {
					if i != at {
						t.Errorf("got connection %d, want %d", i, at)
					}
					at++
				}
			}
			if test.want > 0 && at != test.conns {
				t.Errorf("got %d connections, want %d", at, test.conns)
			}
		})
	}
}

// Nothing that a program may do by mistake shows a state.
func TestConnectionStateIsNotShown(t *testing.T) {
	const secret = "secret"
	c := Connection{State: ConnectionState(`"` + secret + `"`)}
	m := link.Message{States: []link.State{link.State(c.State)}}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		l := slog.New(h)
		l.Info("x", "state", c.State, "connection", c, "pointer", &c, "message", m)
	}
	for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "d"} {
		fmt.Fprintf(&out, "%"+verb+" %"+verb+" %"+verb+"\n", c.State, c, m)
	}
	text, _ := json.Marshal(c)
	out.Write(text)
	out.WriteString(c.State.String() + c.State.GoString())
	for _, form := range []string{secret, "c2VjcmV0", "InNlY3JldCI", fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprint([]byte(secret))[1:20], "0x73"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%q is shown: %s", form, out.String())
		}
	}
}
