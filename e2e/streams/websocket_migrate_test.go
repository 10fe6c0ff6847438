package streams

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// slowly reads like somebody who takes his time.
type slowly struct{ io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Reader.Read(p[:min(len(p), 16<<10)])
}

// Opcodes, and the bit of a frame that ends a message.
const (
	continuation, binaryFrame, closing, ping, pong = 0, 2, 8, 9, 10

	fin = 0x80
)

// appendFrame appends a frame, masked if it is from a client. Whoever makes many reuses the memory: new memory costs
// most of the machine's time with the race detector.
func appendFrame(to []byte, first byte, fromClient bool, payload []byte) []byte {
	mask := byte(0)
	if fromClient {
		mask = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		to = append(to, first, mask|byte(n))
	case n < 1<<16:
		to = binary.BigEndian.AppendUint16(append(to, first, mask|126), uint16(n))
	default:
		to = binary.BigEndian.AppendUint64(append(to, first, mask|127), uint64(n))
	}
	if fromClient {
		to = append(to, 0, 0, 0, 0) // a key that changes nothing
	}
	return append(to, payload...)
}

// readFrame reads a frame, into memory if that suffices. A close frame may be masked with a key of the proxy's.
func readFrame(r io.Reader, memory []byte) (first byte, payload []byte, err error) {
	var header [8]byte
	if _, err := io.ReadFull(r, header[:2]); err != nil {
		return 0, nil, err
	}
	first = header[0]
	masked, size := header[1]&0x80 != 0, uint64(header[1]&0x7f)
	if more := map[uint64]int{126: 2, 127: 8}[size]; more > 0 {
		clear(header[:])
		if _, err := io.ReadFull(r, header[8-more:]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(header[:])
	}
	key := make([]byte, 4)
	if masked {
		if _, err := io.ReadFull(r, key); err != nil {
			return 0, nil, err
		}
	}
	if size > 2<<20 {
		return 0, nil, fmt.Errorf("frame of %d bytes", size)
	}
	payload = slices.Grow(memory[:0], int(size))[:size]
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		if first != fin|closing {
			break
		}
		payload[i] ^= key[i%4]
	}
	return first, payload, err
}

// echoFrames is a backend that sends each frame back, pings as pongs: slowly for /slow. It counts how
// WebSockets end: by a whole close frame, or else.
func echoFrames(closed, broken *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		in := io.Reader(buf)
		if r.URL.Path == "/slow" {
			in = slowly{in}
		}
		var received, answer []byte
		for {
			first, payload, err := readFrame(in, received)
			if err == nil {
				if first == fin|ping {
					first = fin | pong
				}
				received, answer = payload, appendFrame(answer[:0], first, false, payload)
				_, err = conn.Write(answer)
			}
			if err != nil {
				broken.Add(1)
				return
			}
			if first == fin|closing {
				closed.Add(1)
				return
			}
		}
	}
}

// talker is a client whose WebSocket lasts.
type talker struct {
	t              *testing.T
	n              int
	conn           net.Conn
	in             io.Reader
	sent, received atomic.Int64 // messages
}

// startTalker connects.
func startTalker(t *testing.T, o service.Over, b *service.Baton, n int) *talker {
	t.Helper()
	path := "/quick"
	if n%10 == 0 {
		path = "/slow"
	}
	c := o.Dial(t, b)
	t.Cleanup(func() { c.Conn.Close() })
	c.Conn.SetDeadline(time.Now().Add(8 * time.Minute))
	fmt.Fprintf(c.Conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Id: talker-%d\r\n\r\n", path, n)
	in := bufio.NewReader(c.Conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v, want 101", response, err)
	}
	k := &talker{t: t, n: n, conn: c.Conn, in: in}
	if n%10 == 1 {
		k.in = slowly{in}
	}
	return k
}

// appendMessage appends the frames of the nth message: fragments, with a ping among them.
func (k *talker) appendMessage(to []byte, n int, fromClient bool) []byte {
	sizes := []int{1, 125, 126, 3_000, 65_535, 65_536, 200_000}
	size := sizes[(k.n+n)%len(sizes)]
	if n%40 == k.n%40 {
		size = 1 << 20
	}
	whole := exchange.Pattern(size)
	third := size / 3
	signal := byte(pong)
	if fromClient {
		signal = ping
	}
	to = appendFrame(to, binaryFrame, fromClient, whole[:third])
	to = appendFrame(to, fin|signal, fromClient, fmt.Append(nil, n))
	to = appendFrame(to, continuation, fromClient, whole[third:2*third])
	return appendFrame(to, fin|continuation, fromClient, whole[2*third:])
}

func (k *talker) fail(what string, err error) {
	k.t.Errorf("client %d: %s: %v after %d messages sent and %d received", k.n, what, err, k.sent.Load(), k.received.Load())
	k.conn.Close()
}

// send sends messages until stop is closed, few of which are on their way at a time, and then a close frame.
func (k *talker) send(stop <-chan struct{}) {
	var message []byte
	for {
		select {
		case <-stop:
			if _, err := k.conn.Write(appendFrame(nil, fin|closing, true, []byte{0x03, 0xe8})); err != nil {
				k.fail("close", err)
			}
			return
		case <-time.After(time.Duration(20+20*(k.n%7)) * time.Millisecond):
		}
		if n := k.sent.Load(); n-k.received.Load() < 4 {
			message = k.appendMessage(message[:0], int(n), true)
			if _, err := k.conn.Write(message); err != nil {
				k.fail("write", err)
				return
			}
			k.sent.Add(1)
		}
	}
}

// receive expects what was sent, byte by byte, and in the end the close frame.
func (k *talker) receive() {
	bye := appendFrame(nil, fin|closing, false, []byte{0x03, 0xe8})
	var got, want []byte
	for {
		n := int(k.received.Load())
		want = k.appendMessage(want[:0], n, false)
		got = slices.Grow(got[:0], len(want))[:len(want)]
		first, err := io.ReadFull(k.in, got[:len(bye)])
		if err == nil && bytes.Equal(got[:len(bye)], bye) && k.sent.Load() == int64(n) {
			rest, err := io.ReadAll(k.in)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("got %d more bytes", len(rest))
			}
			if err != nil {
				k.fail("end", err)
			}
			k.conn.Close()
			return
		}
		if err == nil {
			_, err = io.ReadFull(k.in, got[len(bye):])
		}
		if err != nil || !bytes.Equal(got, want) {
			k.fail("read", fmt.Errorf("message %d: %w, as sent: %t, first %d bytes", n, err, bytes.Equal(got, want), first))
			return
		}
		k.received.Add(1)
	}
}

// WebSockets whose clients and backends send at any moment, and some of whom read slowly, live through upgrades:
// each message arrives whole and in order, and the predecessors are gone at once.
func TestWebSocketsMigrate(t *testing.T) {
	clients, upgrades := tier.Times(t, "clients", 10, 20, 40), tier.Times(t, "upgrades", 2, 3, 4)
	overTLS := clients / 2
	if *tier.Soak > 0 {
		clients, overTLS, upgrades = 100, 100, *tier.Soak
	}
	t.Run("plaintext", func(t *testing.T) { webSocketsMigrate(t, false, clients, upgrades) })
	t.Run("TLS", func(t *testing.T) { webSocketsMigrate(t, true, overTLS, upgrades) })
}

func webSocketsMigrate(t *testing.T, secure bool, clients, upgrades int) {
	var closed, broken atomic.Int64
	way, clientsWay := service.PlainOrSecured(t, secure)
	b := service.Start(t, way, service.Args("-proxy", "/="+backend.Start(t, echoFrames(&closed, &broken)), "-drain-timeout", "1m", "-idle-grace", "10ms"))
	var (
		stop    = make(chan struct{})
		all     sync.WaitGroup
		talkers []*talker
	)
	for n := range clients {
		k := startTalker(t, clientsWay, b, n)
		talkers = append(talkers, k)
		all.Go(func() { k.send(stop) })
		all.Go(k.receive)
	}
	for i := range upgrades {
		before := make([]int64, clients)
		for n, k := range talkers {
			before[n] = k.received.Load()
		}
		busy := await.Measure(t)
		p := b.Upgrade().Predecessor
		if most := busy.Slower(500 * time.Millisecond).Seconds(); p.DrainSeconds > most || p.Moved != clients || p.RequestsFinished != 0 {
			t.Errorf("upgrade %d: report %+v, want %d moved within %.1f s", i+1, p, clients, most)
		}
		await.Until(t, "messages for all through the successor", func() bool {
			for n, k := range talkers {
				if k.received.Load() < before[n]+2 {
					return t.Failed() // on behalf of one that has failed
				}
			}
			return true
		})
		if t.Failed() {
			break
		}
	}
	if got := b.Metric("baton_connections", "state", "hijacked"); got != float64(clients) {
		t.Errorf("metric: got %v hijacked connections, want %d", got, clients)
	}
	close(stop)
	all.Wait()
	if got := broken.Load(); got != 0 {
		t.Errorf("backend: %d WebSockets broke off, want none", got)
	}
	var messages int64
	for _, k := range talkers {
		messages += k.received.Load()
	}
	t.Logf("%d messages through %d upgrades", messages, upgrades)
	if t.Failed() {
		return
	}
	await.Until(t, "requests counted", func() bool {
		return b.Metric("baton_http_requests_total", "code", "101", "method", "GET") == float64(clients)
	})
	var log string
	await.Until(t, "lines of the access log", func() bool { // which come after the count
		log = b.Log()
		return strings.Count(log, `"request_id":"talker-`) >= clients
	})
	for n := range clients {
		id := fmt.Sprintf(`"request_id":"talker-%d"`, n)
		if got := strings.Count(log, id); got != 1 {
			t.Errorf("access log: %d lines for client %d, want 1", got, n)
		}
	}
}

// A stop after migrations ends both sides of a WebSocket with 1001, shortly before the deadline.
func TestWebSocketsMigrateAndStop(t *testing.T) {
	t.Parallel()
	var backends, seen endings
	const clients = 5
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, noting(&backends)), "-drain-timeout", "2s"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for range clients {
		c, err := webSocket(service.Over{}, ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		all.Go(func() { _, _, err := c.Read(ctx); seen.add(err) })
	}
	for range 2 {
		if p := b.Upgrade().Predecessor; p.Moved != clients {
			t.Errorf("report: %+v, want %d moved", p, clients)
		}
	}
	b.Signal(syscall.SIGTERM)
	all.Wait()
	seen.check(t, "clients", websocket.StatusGoingAway, clients)
	await.Until(t, "ends at the backend", func() bool { return backends.count(websocket.StatusGoingAway) == clients })
	b.AwaitAllGone()
}
