package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

const chats = server.Tunnels("chat")

// chat answers lines on connections that it has hijacked.
type chat struct {
	name    string
	begin   chan struct{} // not nil: hijacks when it is closed
	ended   chan string   // what each handler has seen at its end
	grace   time.Duration
	refused chan struct{}      // not nil: gets one for each attempt to migrate that failed
	pair    func() [2]net.Conn // not nil: makes a peer
}

// chatState is what goes on with a connection.
type chatState struct {
	Lines int
	Part  string // of the next line
}

func (c *chat) options() server.Options {
	return server.Options{Handler: c, Resume: func(kind server.Tunnels, state []byte) http.Handler {
		var s chatState
		if kind != chats || json.Unmarshal(state, &s) != nil {
			return nil
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.take(w, r, s, chats.Peer(r.Context())) })
	}}
}

func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/chat" {
		io.WriteString(w, c.name)
		return
	}
	if c.begin != nil {
		<-c.begin
	}
	var peer net.Conn
	if c.pair != nil {
		peer = c.pair()[0]
	}
	c.take(w, r, chatState{}, peer)
}

func (c *chat) take(w http.ResponseWriter, r *http.Request, s chatState, peer net.Conn) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	early, _ := buf.Peek(buf.Reader.Buffered())
	s.Part += string(early)
	stop := server.OnDrain(r.Context(), c.grace, func(context.Context) { io.WriteString(conn, "bye\n"); conn.Close() })
	migrated := c.talk(r.Context(), conn, peer, s)
	stop()
	conn.Close()
	if peer != nil {
		peer.Close()
	}
	secured := r.TLS != nil
	c.ended <- fmt.Sprintf("%s %s %s %q %t %t %t", r.Method, r.RequestURI, r.Header.Get("X-Name"), r.Host, r.RemoteAddr == conn.RemoteAddr().String() || r.RemoteAddr != "", secured, migrated)
}

func (c *chat) talk(ctx context.Context, conn, peer net.Conn, s chatState) (migrated bool) {
	over := make(chan struct{})
	defer close(over)
	migrating := chats.Migrating(ctx)
	wake := func() {
		select {
		case <-migrating:
			conn.SetReadDeadline(time.Unix(1, 0))
		case <-over:
		}
	}
	go wake()
	for buffer := make([]byte, 100); ; {
		for line, rest, whole := strings.Cut(s.Part, "\n"); whole; line, rest, whole = strings.Cut(s.Part, "\n") {
			s.Lines, s.Part = s.Lines+1, rest
			if line == "panic" {
				panic(http.ErrAbortHandler)
			}
			answer := conn
			if peer != nil {
				answer = peer
			}
			fmt.Fprintf(answer, "%s %d %s\n", c.name, s.Lines, line)
		}
		n, err := conn.Read(buffer)
		s.Part += string(buffer[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			state, _ := json.Marshal(s)
			if chats.Migrate(ctx, peer, state) {
				return true
			}
			conn.SetReadDeadline(time.Time{})
			if c.refused != nil {
				c.refused <- struct{}{}
			}
			if migrating = chats.Migrating(ctx); migrating != nil {
				time.AfterFunc(10*time.Millisecond, wake)
			}
		} else if err != nil {
			return false
		}
	}
}

// expectLine reads a line.
func (c *client) expectLine(want string) {
	c.t.Helper()
	if got, err := c.in.ReadString('\n'); got != want+"\n" {
		c.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

const chatRequest = "GET /chat?q=\xe9 HTTP/1.1\r\nHost: there\r\nX-Name: \xe9\r\n\r\n"

// newChats returns two generations whose connections are over TLS if secure is set.
func newChats(t *testing.T, secure bool) (m *movers, first, second *chat, dial func() *client) {
	first, second = &chat{name: "first", ended: make(chan string, 10)}, &chat{name: "second", ended: make(chan string, 10)}
	t.Cleanup(func() {
		for _, s := range []*served{m.first, m.second} {
			if !s.IsDraining() {
				<-s.drain(patience, all)
			}
		}
	})
	if !secure {
		m = &movers{first: serve(t, first.options()), second: serve(t, second.options())}
		return m, first, second, m.first.dial
	}
	l := newTLSLine(t)
	m = &movers{first: l.serve(listen(t), first.options(), nil), second: l.serve(listen(t), second.options(), nil)}
	return m, first, second, func() *client { return l.dial(m.first, "http/1.1") }
}

func TestHijackedMigrates(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"plaintext": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			m, first, second, dial := newChats(t, secure)
			second.grace = time.Millisecond
			c := dial()
			c.send(chatRequest + "one\n")
			c.expectLine("first 1 one")
			c.send("two\nthr")
			c.expectLine("first 2 two")
			if d := <-m.handOff(patience); d.Migrated != 1 || d.Requests != 0 || d.Connections != (upgrade.Closed{}) {
				t.Errorf("drain: got %+v, want 1 migrated, and nothing else", d)
			}
			want := fmt.Sprintf("GET /chat?q=\xe9 \xe9 %q true %t ", "there", secure)
			if got := <-first.ended; got != want+"true" {
				t.Errorf("first: got %q, want %q", got, want+"true")
			}
			c.send("ee\nfour\n")
			c.expectLine("second 3 three")
			c.expectLine("second 4 four")
			if got := m.second.Load(); got.Connections != (upgrade.Connections{Hijacked: 1}) || got.Requests != 1 {
				t.Errorf("load: got %+v, want 1 hijacked connection with a request", got)
			}
			done := m.second.drain(patience, all)
			c.expectLine("bye")
			if rest, err := io.ReadAll(c.in); len(rest) > 0 || err != nil {
				t.Errorf("got %q, %v, want the end", rest, err)
			}
			if got := <-second.ended; got != want+"false" {
				t.Errorf("second: got %q, want %q", got, want+"false")
			}
			if d := <-done; d.Requests != 1 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
				t.Errorf("drain: got %+v, want 1 closed by its handler", d)
			}
		})
	}
}

// One that is hijacked in a drain migrates at once.
func TestHijackedInADrainMigrates(t *testing.T) {
	m, first, _, dial := newChats(t, false)
	first.begin = make(chan struct{})
	c := dial()
	c.send(chatRequest)
	await(t, "a request", func() bool { return m.first.Load().Requests == 1 })
	done := m.handOff(patience)
	m.first.awaitDraining()
	close(first.begin)
	if d := <-done; d.Migrated != 1 {
		t.Errorf("drain: got %+v, want 1 migrated", d)
	}
	c.send("one\n")
	c.expectLine("second 1 one")
}

// A second socket migrates along.
func TestHijackedMigratesWithPeer(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			m, first, _, dial := newChats(t, false)
			ends := socketPair(t, network)
			first.pair = func() [2]net.Conn { return ends }
			peer := &client{t, ends[1], bufio.NewReader(ends[1])}
			c := dial()
			c.send(chatRequest + "one\n")
			peer.expectLine("first 1 one")
			if d := <-m.handOff(patience); d.Migrated != 1 {
				t.Errorf("drain: got %+v, want 1 migrated", d)
			}
			c.send("two\n")
			peer.expectLine("second 2 two")
			c.Conn.Close()
			if _, err := peer.in.ReadByte(); err != io.EOF {
				t.Errorf("peer: got %v, want its end", err)
			}
		})
	}
}

// The second socket is there for a handler that hijacks the connection first.
func TestPeerAfterHijack(t *testing.T) {
	ends := socketPair(t, "tcp")
	first := &chat{name: "first", ended: make(chan string, 10), pair: func() [2]net.Conn { return ends }}
	options := server.Options{Handler: names("second")}
	options.Resume = func(server.Tunnels, []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if peer := chats.Peer(r.Context()); peer != nil {
				io.WriteString(peer, "it is there\n")
				peer.Close()
			} else {
				t.Error("got no peer")
				ends[1].Close()
			}
		})
	}
	m := &movers{first: serve(t, first.options()), second: serve(t, options)}
	c := m.first.dial()
	peer := &client{t, ends[1], bufio.NewReader(ends[1])}
	c.send(chatRequest + "one\n")
	peer.expectLine("first 1 one")
	if d := <-m.handOff(patience); d.Migrated != 1 {
		t.Errorf("drain: got %+v, want 1 migrated", d)
	}
	peer.expectLine("it is there")
	<-m.second.drain(patience, all)
}

// socketPair returns both ends of a connection.
func socketPair(t *testing.T, network string) (ends [2]net.Conn) {
	address := "127.0.0.1:0"
	if network == "unix" {
		address = t.TempDir() + "/s"
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if ends[0], err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ends[1], err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	ends[1].SetDeadline(time.Now().Add(hang))
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends
}

// What the successor does not take goes on as before.
func TestHijackedIsRefused(t *testing.T) {
	tier.Slow(t, "waits for the end of drains")
	t.Parallel()
	for name, refuse := range map[string]func(*movers, *upgrade.Handoff){
		"all": func(m *movers, _ *upgrade.Handoff) {
			m.gate = func(context.Context, []upgrade.Connection) []bool { return nil }
		},
		"what is not known": func(m *movers, _ *upgrade.Handoff) {
			m.each = func(c *upgrade.Connection) { c.State = []byte(strings.Replace(string(c.State), `"chat"`, `"talk"`, 1)) }
		},
		"states": func(_ *movers, h *upgrade.Handoff) { h.States = false },
	} {
		for over, secure := range map[string]bool{"plaintext": false, "TLS": true} {
			t.Run(name+" over "+over, func(t *testing.T) {
				t.Parallel()
				m, first, _, dial := newChats(t, secure)
				first.refused, first.grace = make(chan struct{}, 100), 3*time.Second
				c := dial()
				c.send(chatRequest + "one\ntw")
				c.expectLine("first 1 one")
				h := upgrade.Handoff{Kept: all, Migrate: m.move, States: true}
				refuse(m, &h)
				done := m.first.drainBy(patience, h)
				<-first.refused
				c.send("o\nthree\n")
				c.expectLine("first 2 two")
				c.expectLine("first 3 three")
				c.expectLine("bye")
				if d := <-done; d.Migrated != 0 || d.Requests != 1 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
					t.Errorf("drain: got %+v, want 1 closed by its handler", d)
				}
			})
		}
	}
}

// At the deadline the handler lets go of a connection that the successor may have, even if the
// answer comes later: the successor may have what else belongs to the connection.
func TestHijackedMigratesAtTheDeadline(t *testing.T) {
	for name, test := range map[string]struct {
		answer []bool
		late   bool
		want   bool
	}{
		"taken":              {[]bool{true}, false, true},
		"taken, known later": {[]bool{true}, true, true},
		"refused":            {nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, first, _, dial := newChats(t, false)
			first.refused = make(chan struct{}, 100)
			open := make(chan struct{})
			answer := func(ctx context.Context, _ []upgrade.Connection) []bool {
				if <-ctx.Done(); test.late {
					<-open
				}
				return test.answer
			}
			c := dial()
			c.send(chatRequest + "one\n")
			c.expectLine("first 1 one")
			<-m.first.drainBy(200*time.Millisecond, upgrade.Handoff{Kept: all, Migrate: answer, States: true})
			if got := <-first.ended; strings.HasSuffix(got, " true") != test.want {
				t.Errorf("got %q, want migrated %t", got, test.want)
			}
			close(open)
		})
	}
}

// A stop wakes nobody: there is no successor.
func TestHijackedInAStopDoesNotMigrate(t *testing.T) {
	tier.Slow(t, "waits for the end of a drain")
	t.Parallel()
	m, first, _, dial := newChats(t, false)
	first.refused = make(chan struct{}, 100)
	c := dial()
	c.send(chatRequest + "one\n")
	c.expectLine("first 1 one")
	done := m.first.drain(5*time.Second, all)
	c.expectLine("bye")
	<-done
	if len(first.refused) > 0 {
		t.Errorf("%d attempts to migrate, want none", len(first.refused))
	}
}

// A handler that gives up ends its connection, and nothing else.
func TestResumedHandlerPanics(t *testing.T) {
	m, _, _, dial := newChats(t, false)
	c, other := dial(), dial()
	for _, c := range []*client{c, other} {
		c.send(chatRequest + "one\n")
		c.expectLine("first 1 one")
	}
	<-m.handOff(patience)
	c.send("panic\n")
	if _, err := c.in.ReadByte(); err == nil {
		t.Error("got a byte, want the end")
	}
	other.send("two\n")
	other.expectLine("second 2 two")
	await(t, "one request", func() bool { return m.second.Load().Requests == 1 })
}
