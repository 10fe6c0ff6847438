package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"github.com/coder/websocket"
)

// echo says what it hears, and tells how the conversation ended.
func echo(ended chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				ended <- err
				return
			}
			if err := conn.Write(r.Context(), kind, message); err != nil {
				ended <- err
				return
			}
		}
	}
}

func TestTunnelOfWebSocket(t *testing.T) {
	ended := make(chan error, 1)
	var d drain
	server, logged, _ := through(t, echo(ended), Options{OnDrain: d.onDrain, WebSocketGrace: 7 * time.Second, closeTimeout: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, strings.Replace(server.URL, "http", "ws", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	for _, message := range []string{"one", strings.Repeat("long ", 5000)} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(ctx); string(got) != message {
			t.Errorf("echo: got %d bytes, %v, want %d", len(got), err, len(message))
		}
	}
	testserver.Equal(t, "grace", d.grace[0], 7*time.Second)
	read := make(chan error, 1)
	go func() { _, _, err := conn.Read(ctx); read <- err }()
	if took := d.say(t, time.Minute); took > 20*time.Second {
		t.Errorf("end of a WebSocket whose peers answer: took %v", took)
	}
	testserver.Equal(t, "client's close", websocket.CloseStatus(<-read), websocket.StatusGoingAway)
	testserver.Equal(t, "backend's close", websocket.CloseStatus(<-ended), websocket.StatusGoingAway)
	testserver.Equal(t, "status logged", logged.Await(t, "request")["status"], any(101.0))
	testserver.Equal(t, "registered after it", d.open(), 0)
}

// A conversation that ends before the drain leaves nothing behind.
func TestTunnelThatEndsBefore(t *testing.T) {
	ended := make(chan error, 1)
	var d drain
	server, logged, _ := through(t, echo(ended), Options{OnDrain: d.onDrain})
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(server.URL, "http", "ws", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	testserver.Equal(t, "registered", d.open(), 1)
	testserver.Equal(t, "close", conn.Close(websocket.StatusNormalClosure, ""), nil)
	testserver.Equal(t, "backend's close", websocket.CloseStatus(<-ended), websocket.StatusNormalClosure)
	logged.Await(t, "request")
	testserver.Equal(t, "registered after it", d.open(), 0)
}

// raw is a tunnel of which the test has both ends.
type raw struct {
	client, backend net.Conn
	drain           drain
	logged          *testserver.Log
	over            chan time.Duration
}

// dig makes a tunnel of that protocol.
func dig(t *testing.T, protocol string, timeout time.Duration) *raw {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	d := &raw{over: make(chan time.Duration, 1)}
	server, logged, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
		accepted <- conn
	}), Options{OnDrain: d.drain.onDrain, closeTimeout: timeout})
	d.logged = logged
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
	reader := bufio.NewReaderSize(conn, 16)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != 101 {
		t.Fatalf("got %v, %v", response, err)
	}
	d.client = buffered{conn, reader}
	d.backend = <-accepted
	t.Cleanup(func() { d.backend.Close() })
	for _, conn := range []net.Conn{d.client, d.backend} {
		conn.SetDeadline(time.Now().Add(time.Minute))
	}
	return d
}

type buffered struct {
	net.Conn
	in io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

func (d *raw) leave(t *testing.T, within time.Duration) {
	// What the test does next it does in the midst of it, or before: both have to be right.
	go func() { d.over <- d.drain.say(t, within) }()
}

// expect reads exactly what is wanted.
func expect(t *testing.T, what string, from net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(from, got)
	if !slices.Equal(got[:n], want) {
		t.Fatalf("%s: got %x, %v, want %x", what, got[:n], err, want)
	}
}

// expectGoodBye reads the backend's close frame, whose masking key is any.
func (d *raw) expectGoodBye(t *testing.T) {
	t.Helper()
	var f [8]byte
	if _, err := io.ReadFull(d.backend, f[:]); err != nil || f[0] != 0x88 || f[1] != 0x82 || f[6]^f[2] != 0x03 || f[7]^f[3] != 0xe9 {
		t.Fatalf("to the backend: got %x, %v, want a masked close frame with status 1001", f, err)
	}
}

func expectEnd(t *testing.T, what string, from net.Conn) {
	t.Helper()
	if rest, err := io.ReadAll(from); len(rest) > 0 || err != nil {
		t.Errorf("%s: got %x, %v, want its end", what, rest, err)
	}
}

var (
	bye       = []byte{0x88, 2, 0x03, 0xe9}
	maskedBye = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9}
)

// The close frame waits for the end of what is under way, in each direction by itself.
func TestTunnelLeavesBetweenMessages(t *testing.T) {
	d := dig(t, "websocket", time.Minute)
	down, up := frame(0x81, false, 300), frame(0x82, true, 70000)
	more, last := frame(0x02, true, 10), frame(0x80, true, 3)
	d.backend.Write(down[:100])
	expect(t, "begin of a frame", d.client, down[:100])
	d.client.Write(up[:9])
	expect(t, "begin of a frame", d.backend, up[:9])
	d.leave(t, time.Minute)
	d.client.Write(up[9:])
	expect(t, "end of the frame", d.backend, up[9:])
	d.expectGoodBye(t)
	d.backend.Write(down[100:])
	expect(t, "end of the frame", d.client, down[100:])
	expect(t, "to the client", d.client, bye)
	d.backend.Write(frame(0x81, false, 5))    // ignored
	d.client.Write(slices.Concat(more, last)) // ignored
	d.client.Write(maskedBye)
	d.backend.Write(bye)
	expectEnd(t, "client", d.client)
	expectEnd(t, "backend", d.backend)
	if took := <-d.over; took > 20*time.Second {
		t.Errorf("end took %v, want it as soon as both have answered", took)
	}
}

// A message in fragments that does not end soon is left between two of them.
func TestTunnelLeavesWithinALongMessage(t *testing.T) {
	t.Parallel()
	const timeout = 8 * time.Second // by which even a busy machine has come so far
	d := dig(t, "websocket", timeout)
	more, part, ping := frame(0x01, false, 10), frame(0, false, 20), frame(0x89, false, 2)
	d.backend.Write(more)
	expect(t, "first fragment", d.client, more)
	began := time.Now()
	d.leave(t, time.Minute)
	d.expectGoodBye(t)
	d.backend.Write(slices.Concat(ping, part))
	expect(t, "second fragment", d.client, slices.Concat(ping, part))
	expect(t, "to the client", d.client, bye)
	if took := time.Since(began); took < timeout/4 {
		t.Errorf("left after %v within a message, want some patience", took)
	}
	d.backend.Write(part) // ignored
	d.backend.Write(bye)
	d.client.Write(maskedBye)
	expectEnd(t, "client", d.client)
	expectEnd(t, "backend", d.backend)
	<-d.over
}

// A backend that closes within a message does not keep the client from its close frame.
func TestTunnelBackendGoesWithinAMessage(t *testing.T) {
	d := dig(t, "websocket", time.Minute)
	more := frame(0x01, false, 10)
	d.backend.Write(more)
	expect(t, "first fragment", d.client, more)
	d.leave(t, time.Minute)
	d.expectGoodBye(t)
	d.backend.Close()
	expect(t, "to the client", d.client, bye)
	d.client.Write(maskedBye)
	expectEnd(t, "client", d.client)
	<-d.over
}

// Peers that keep silent, or never end a frame, are not waited for.
func TestTunnelOfSilentPeers(t *testing.T) {
	t.Parallel()
	for name, begun := range map[string][]byte{"between frames": nil, "within a frame": {0x81, 5, 'h', 'a'}, "no frames at all": []byte("\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff")} {
		for bound, within := range map[time.Duration]time.Duration{closeTimeout: time.Minute, 200 * time.Millisecond: 200 * time.Millisecond} {
			t.Run(name+" "+bound.String(), func(t *testing.T) {
				t.Parallel()
				d := dig(t, "websocket", closeTimeout)
				d.backend.Write(begun)
				expect(t, "begun", d.client, begun)
				took := d.drain.say(t, within)
				if took < bound*9/10 || took > 30*time.Second {
					t.Errorf("end took %v, want %v", took, bound)
				}
				if begun == nil {
					expect(t, "to the client", d.client, bye)
				}
				expectEnd(t, "client", d.client)
				d.expectGoodBye(t)
				expectEnd(t, "backend", d.backend)
				d.logged.Await(t, "request")
			})
		}
	}
}

// A peer that reads nothing, so that a write to it hangs.
func TestTunnelOfPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	d := dig(t, "websocket", closeTimeout)
	stuck := make(chan error, 1)
	go func() {
		for {
			d.backend.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := d.backend.Write(frame(0x82, false, 1<<20)); err != nil {
				stuck <- err
				return
			}
		}
	}()
	if err := <-stuck; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write: %v, want it to hang", err)
	}
	if took := d.drain.say(t, 200*time.Millisecond); took > 30*time.Second {
		t.Errorf("end took %v, want 200 ms", took)
	}
	d.logged.Await(t, "request")
}

// The close frames of the peers themselves are passed on, and no second one is made.
func TestTunnelThatIsClosingAlready(t *testing.T) {
	d := dig(t, "websocket", time.Minute)
	own := []byte{0x88, 2, 0x03, 0xe8}
	d.backend.Write(own)
	expect(t, "the backend's", d.client, own)
	d.leave(t, time.Minute)
	d.expectGoodBye(t)
	d.client.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8})
	expectEnd(t, "client", d.client)
	expectEnd(t, "backend", d.backend)
	<-d.over
}

func TestTunnelOfOtherProtocol(t *testing.T) {
	d := dig(t, "tunnel", time.Minute)
	d.client.Write(frame(0x81, true, 5)[:4]) // what it may look like
	expect(t, "to the backend", d.backend, frame(0x81, true, 5)[:4])
	if took := d.drain.say(t, time.Minute); took > 20*time.Second {
		t.Errorf("end took %v, want it at once", took)
	}
	expectEnd(t, "client", d.client)
	expectEnd(t, "backend", d.backend)
}

// What a client sends along with its request, before it has the 101, is not lost.
func TestTunnelEarlyBytes(t *testing.T) {
	heard := make(chan string, 1)
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buf, _ := http.NewResponseController(w).Hijack()
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\n")
		line, _ := buf.ReadString('\n')
		heard <- line
	}), Options{})
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tunnel\r\n\r\nearly ")
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 101 {
		t.Fatalf("got %v, %v", response, err)
	}
	io.WriteString(conn, "and late\n")
	testserver.Equal(t, "heard", <-heard, "early and late\n")
}

// Whoever closes in the very moment in which the tunnel does: each side gets one close frame, and then its end.
func TestTunnelClosesTogether(t *testing.T) {
	t.Parallel()
	own := []byte{0x88, 2, 0x03, 0xe8}
	maskedOwn := []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}
	for i := range 60 {
		d := dig(t, "websocket", time.Minute)
		var peers sync.WaitGroup
		heard := make(map[net.Conn][]byte)
		var mu sync.Mutex
		// answer reads to the end, and answers the first close frame if it has not sent one itself.
		answer := func(conn net.Conn, close []byte, length int, said bool) {
			frame := make([]byte, length)
			n, err := io.ReadFull(conn, frame)
			if err == nil && !said {
				conn.Write(close)
			}
			rest, _ := io.ReadAll(conn)
			conn.Close()
			mu.Lock()
			heard[conn] = append(frame[:n], rest...)
			mu.Unlock()
		}
		first := i % 3 // the client, the backend, or both
		if i%2 == 0 {
			d.leave(t, time.Minute)
			time.Sleep(time.Duration(i) * 5 * time.Microsecond)
		}
		if first != 1 {
			d.client.Write(maskedOwn)
		}
		if first != 0 {
			d.backend.Write(own)
		}
		if i%2 == 1 {
			time.Sleep(time.Duration(i) * 5 * time.Microsecond)
			d.leave(t, time.Minute)
		}
		peers.Go(func() { answer(d.client, maskedOwn, 4, first != 1) })
		peers.Go(func() { answer(d.backend, own, 8, first != 0) })
		peers.Wait()
		if took := <-d.over; took > 20*time.Second {
			t.Errorf("round %d: end took %v, want it as soon as both have closed", i, took)
		}
		if got := heard[d.client]; len(got) != 4 || got[0] != 0x88 {
			t.Errorf("round %d: client got %x, want one close frame", i, got)
		}
		if got := heard[d.backend]; len(got) != 8 || got[0] != 0x88 {
			t.Errorf("round %d: backend got %x, want one close frame", i, got)
		}
	}
}
