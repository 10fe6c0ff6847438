package server_test

// This file tests HTTP/2: that a drain takes its two steps, and loses nothing.

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Client is one connection, whose frames the test sees. It sends no more than
// it is told, but for what flow control wants.
type http2Client struct {
	t *testing.T
	net.Conn
	*http2.Framer
	mu     sync.Mutex // held while writing
	fields bytes.Buffer
	pack   *hpack.Encoder

	windows  bool              // give back what was received
	answers  bool              // PINGs, at once
	goAways  []uint32          // last streams
	bodies   map[uint32][]byte // what has come
	statuses map[uint32]string
	ended    map[uint32]error // how a stream has: nil: in full
	pings    [][8]byte        // not answered yet
	acks     int
	settings []http2.Setting // the server's
	failed   http2.ErrCode   // in a GOAWAY
}

func newHTTP2Client(t *testing.T, nc net.Conn) *http2Client {
	c := &http2Client{t: t, Conn: nc, Framer: http2.NewFramer(nc, nc), windows: true,
		bodies: make(map[uint32][]byte), statuses: make(map[uint32]string), ended: make(map[uint32]error)}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.pack = hpack.NewEncoder(&c.fields)
	var first bytes.Buffer
	first.WriteString(preface)
	http2.NewFramer(&first, nil).WriteSettings()
	if _, err := nc.Write(first.Bytes()); err != nil {
		t.Error(err)
	}
	return c
}

// dialHTTP2 speaks HTTP/2 by prior knowledge.
func (s *served) dialHTTP2() *http2Client {
	s.t.Helper()
	return newHTTP2Client(s.t, s.dial().Conn)
}

// dialHTTP2 speaks HTTP/2 over TLS.
func (s *servedTLS) dialHTTP2(string) *http2Client {
	s.t.Helper()
	return newHTTP2Client(s.t, s.dialTLS("h2").Conn)
}

// encode appends a request's header, with more fields, to fields.
func (c *http2Client) encode(method, path string, more ...string) {
	all := append([]string{":method", method, ":scheme", "https", ":authority", "x", ":path", path}, more...)
	for i := 0; i < len(all); i += 2 {
		c.pack.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
}

// open sends a request's header.
func (c *http2Client) open(stream uint32, method, path string, end bool, more ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fields.Reset()
	c.encode(method, path, more...)
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.fields.Bytes(), EndStream: end, EndHeaders: true})
	if err != nil {
		c.t.Errorf("request %d: %v", stream, err)
	}
}

func (c *http2Client) request(stream uint32, path string) {
	c.t.Helper()
	c.open(stream, "GET", path, true)
}

// step reads one frame and notes what it says.
func (c *http2Client) step() error {
	f, err := c.ReadFrame()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			f.ForeachSetting(func(s http2.Setting) error { c.settings = append(c.settings, s); return nil })
			return c.WriteSettingsAck()
		}
	case *http2.MetaHeadersFrame:
		c.statuses[f.StreamID] = f.PseudoValue("status")
		for _, field := range f.RegularFields() {
			if field.Name == "connection" {
				c.t.Error("got a Connection header")
			}
		}
		if f.StreamEnded() {
			c.ended[f.StreamID] = nil
		}
	case *http2.DataFrame:
		c.bodies[f.StreamID] = append(c.bodies[f.StreamID], f.Data()...)
		if f.StreamEnded() {
			c.ended[f.StreamID] = nil
		}
		if c.windows && f.Length > 0 {
			c.WriteWindowUpdate(0, f.Length)
			if !f.StreamEnded() {
				c.WriteWindowUpdate(f.StreamID, f.Length)
			}
		}
	case *http2.RSTStreamFrame:
		if _, over := c.ended[f.StreamID]; !over {
			c.ended[f.StreamID] = fmt.Errorf("reset: %v", f.ErrCode)
		}
	case *http2.PingFrame:
		if f.IsAck() {
			c.acks++
		} else if c.answers {
			return c.WritePing(true, f.Data)
		} else {
			c.pings = append(c.pings, f.Data)
		}
	case *http2.GoAwayFrame:
		if c.failed = f.ErrCode; f.ErrCode != http2.ErrCodeNo {
			return fmt.Errorf("got a GOAWAY with %v", f.ErrCode)
		}
		c.goAways = append(c.goAways, f.LastStreamID)
	}
	return nil
}

// until reads until something holds.
func (c *http2Client) until(what string, ok func() bool) error {
	for !ok() {
		if err := c.step(); err != nil {
			return fmt.Errorf("before %s: %w", what, err)
		}
	}
	return nil
}

func (c *http2Client) await(what string, ok func() bool) {
	c.t.Helper()
	if err := c.until(what, ok); err != nil {
		c.t.Fatal(err)
	}
}

// body awaits the end of an answer.
func (c *http2Client) body(stream uint32) (string, error) {
	err := c.until(fmt.Sprintf("the end of stream %d", stream), func() bool { _, over := c.ended[stream]; return over })
	return string(c.bodies[stream]), errors.Join(err, c.ended[stream])
}

// gets awaits an answer that must be this.
func (c *http2Client) gets(stream uint32, want string) {
	c.t.Helper()
	if body, err := c.body(stream); err != nil || body != want || c.statuses[stream] != "200" {
		c.t.Errorf("stream %d: got status %q, %q, %v, want %q", stream, c.statuses[stream], body, err, want)
	}
}

// isFrom makes the first request.
func (c *http2Client) isFrom(name string) {
	c.t.Helper()
	c.request(1, "/")
	c.gets(1, name)
}

// toldOnce awaits the first step of a drain.
func (c *http2Client) toldOnce() {
	c.t.Helper()
	c.await("the first GOAWAY and its PING", func() bool { return len(c.pings) == 1 })
	if len(c.goAways) != 1 || c.goAways[0] != 1<<31-1 {
		c.t.Fatalf("got GOAWAY for the streams %d, want one for all", c.goAways)
	}
}

// pong answers the oldest PING.
func (c *http2Client) pong() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.WritePing(true, c.pings[0]); err != nil {
		c.t.Error(err)
	}
	c.pings = c.pings[1:]
}

// toldTwice awaits the second step.
func (c *http2Client) toldTwice(last uint32) {
	c.t.Helper()
	c.await("the second GOAWAY", func() bool { return len(c.goAways) == 2 })
	if c.goAways[1] != last {
		c.t.Errorf("got a GOAWAY for stream %d, want %d", c.goAways[1], last)
	}
}

// closes reads to the end, which must be a FIN, and answers the PINGs before.
func (c *http2Client) closes() {
	c.t.Helper()
	for len(c.pings) > 0 {
		c.pong()
	}
	c.answers = true
	err := c.until("the end", func() bool { return false })
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Errorf("at the end: got %v, want a FIN", err)
	}
}

// bothOverTCP runs a test over TLS and by prior knowledge, where somebody is always busy,
// so that in a bubble no time would pass.
func bothOverTCP(t *testing.T, opts server.Options, test func(t *testing.T, s *served, dial func() *http2Client)) {
	t.Run("TLS", func(t *testing.T) {
		s := serveTLS(t, opts)
		test(t, s.served, func() *http2Client { return s.dialHTTP2("") })
	})
	t.Run("prior knowledge", func(t *testing.T) {
		s := serve(t, opts)
		test(t, s, s.dialHTTP2)
	})
}

// both runs a test over TLS and by prior knowledge, in memory.
func both(t *testing.T, opts server.Options, test func(t *testing.T, s *served, dial func() *http2Client)) {
	t.Run("TLS", func(t *testing.T) {
		inMemoryTLS(t, opts, func(t *testing.T, s *servedTLS) {
			test(t, s.served, func() *http2Client { return s.dialHTTP2("") })
		})
	})
	t.Run("prior knowledge", func(t *testing.T) {
		inMemory(t, opts, func(t *testing.T, s *served) { test(t, s, s.dialHTTP2) })
	})
}

func proto(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %t", r.Proto, r.TLS != nil)
}

func TestHTTP2(t *testing.T) {
	both(t, server.Options{Handler: http.HandlerFunc(proto)}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		_, over := c.Conn.(*tls.Conn)
		for stream := uint32(1); stream < 20; stream += 2 {
			c.request(stream, "/")
		}
		for stream := uint32(1); stream < 20; stream += 2 {
			c.gets(stream, fmt.Sprintf("HTTP/2.0 %t", over))
		}
		await(t, "idleness", func() bool { return s.Load().Connections == upgrade.Connections{Idle: 1} })
		c.Close()
		await(t, "the account of it", func() bool { return s.Closed()[server.ByClient] == 1 })
		<-s.drain(patience, all)
	})
}

// Nobody loses a request that it could not know to be too late.
func TestHTTP2DrainInTwoSteps(t *testing.T) {
	g := newGate()
	g.before, g.after = "begun ", "done"
	both(t, server.Options{IdleGrace: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			g.ServeHTTP(w, r)
			return
		}
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "quick")
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		g.open = make(chan struct{})
		c := dial()
		c.request(1, "/slow")
		<-g.entered
		c.open(3, "POST", "/", false) // its body is not sent yet
		await(t, "both", func() bool { return s.Load().Requests == 2 })
		drained := s.drain(2*patience, all)
		c.toldOnce()
		for stream := uint32(5); stream < 30; stream += 2 {
			c.request(stream, "/")
		}
		c.request(31, "/slow")
		c.pong()
		c.toldTwice(31)
		c.request(33, "/") // by a client that does not listen
		for stream := uint32(5); stream < 30; stream += 2 {
			c.gets(stream, "quick")
		}
		<-g.entered
		if got := s.Load(); got.Requests < 2 || got.Connections != (upgrade.Connections{Active: 1}) {
			t.Errorf("got %+v, want 2 or 3 requests on an active connection", got)
		}
		close(g.open)
		c.gets(1, "begun done")
		c.gets(31, "begun done")
		c.WriteData(3, true, []byte("at last"))
		c.gets(3, "quick")
		begin := time.Now()
		c.closes()
		if took := time.Since(begin); took < 500*time.Millisecond || took > 2*time.Second {
			t.Errorf("closed %v after the last answer, want a second", took)
		}
		if _, answered := c.statuses[33]; answered || len(c.goAways) != 2 {
			t.Errorf("after the second GOAWAY: answered %t, %d GOAWAY in all", answered, len(c.goAways))
		}
		if d := <-drained; d.Requests != 16 || d.Connections != (upgrade.Closed{Announced: 1}) {
			t.Errorf("got %+v, want 16 requests and one connection told to close", d)
		}
	})
}

// A client of several threads may answer the PING before it sends a request that it began earlier.
func TestHTTP2RequestThatIsOvertaken(t *testing.T) {
	both(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: patience}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.isFrom("hello")
		drained := s.drain(patience, all)
		c.toldOnce()
		c.pong()
		c.request(3, "/")
		c.gets(3, "hello")
		c.toldTwice(3)
		c.closes()
		<-drained
	})
}

// Who begins in the drain is not told to go before there was time for a request.
func TestHTTP2ConnectionThatBeginsInTheDrain(t *testing.T) {
	inMemory(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: patience}, func(t *testing.T, s *served) {
		busy, silent := s.dial(), s.dial()
		await(t, "both connections", func() bool { return s.Accepted() == 2 })
		drained := s.drain(patience, all)
		s.awaitDraining()
		c, other := newHTTP2Client(t, busy.Conn), newHTTP2Client(t, silent.Conn)
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		for c.step() == nil {
		}
		if len(c.settings) == 0 || len(c.goAways) > 0 {
			t.Errorf("before its first request: got settings %v and last streams %d, want settings alone", c.settings, c.goAways)
		}
		c.SetReadDeadline(time.Time{})
		c.isFrom("hello")
		for _, c := range []*http2Client{c, other} {
			c.toldOnce()
			c.pong()
			c.closes()
		}
		<-drained
	})
}

func TestHTTP2IdleConnectionIsClosedSoon(t *testing.T) {
	const grace = 1500 * time.Millisecond
	both(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace}, func(t *testing.T, s *served, dial func() *http2Client) {
		answers, silent, fresh := dial(), dial(), dial()
		answers.isFrom("hello")
		silent.isFrom("hello")
		await(t, "three of them", func() bool { return s.Load().Connections == upgrade.Connections{Idle: 3} })
		begin := time.Now()
		drained := s.drain(patience, all)
		for _, c := range []*http2Client{answers, fresh} {
			c.toldOnce()
			c.pong()
			c.toldTwice(map[bool]uint32{true: 1}[c == answers])
		}
		if took := time.Since(begin); took >= grace {
			t.Errorf("second GOAWAY after %v, want a round trip", took)
		}
		silent.toldOnce()
		silent.toldTwice(1) // also if the PING is not answered
		if took := time.Since(begin); took < grace {
			t.Errorf("second GOAWAY after %v without an answer, want the grace", took)
		}
		for _, c := range []*http2Client{answers, fresh, silent} {
			c.closes()
		}
		if d := <-drained; d.Connections != (upgrade.Closed{Announced: 3}) {
			t.Errorf("got %+v, want 3 told to close", d)
		}
	})
}

// A client that goes on asking is ended at the deadline.
func TestHTTP2ClientThatIgnoresGoAway(t *testing.T) {
	both(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "x")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.request(1, "/")
		c.await("the answer's beginning", func() bool { return string(c.bodies[1]) == "x" })
		begin := time.Now()
		drained := s.drain(500*time.Millisecond, all)
		c.toldOnce()
		c.toldTwice(1)
		c.request(3, "/")
		if err := c.until("the end", func() bool { return false }); err == nil {
			t.Error("got no end")
		}
		if took := time.Since(begin); took < 500*time.Millisecond || took > 1500*time.Millisecond {
			t.Errorf("ended after %v, want the deadline", took)
		}
		if d := <-drained; d.Connections != (upgrade.Closed{Cut: 1}) || c.statuses[3] != "" {
			t.Errorf("got %+v and status %q, want one cut", d, c.statuses[3])
		}
	})
}

// pattern is a body of which each part is known.
func pattern(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(strconv.Itoa(i) + " ")
	}
	return b.String()[:size]
}

// Uploads and downloads are whole, and flow control is as it was.
func TestHTTP2BodiesThroughDrain(t *testing.T) {
	whole := pattern(4 << 20)
	both(t, server.Options{IdleGrace: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		if r.Method == "GET" {
			io.WriteString(w, whole)
		}
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		down := dial()
		down.request(1, "/")
		down.await("some of it", func() bool { return len(down.bodies[1]) > 100<<10 })
		up := dial()
		up.open(1, "POST", "/", false)
		var sent int
		send := func(size int) {
			up.mu.Lock()
			defer up.mu.Unlock()
			if err := up.WriteData(1, sent+size == 1<<20, []byte(whole[sent:sent+size])); err != nil {
				t.Error(err)
			}
			sent += size
		}
		for range 16 {
			send(1 << 10)
		}
		drained := s.drain(4*patience, all)
		down.toldOnce()
		up.toldOnce()
		down.pong()
		down.gets(1, whole)
		for len(up.goAways) < 2 || sent < 1<<20 {
			if sent == 512<<10 {
				up.pong()
			}
			if sent < 1<<20 {
				send(1 << 10)
			}
			up.await("its echo", func() bool { return len(up.bodies[1]) >= sent-32<<10 && (sent < 1<<20 || len(up.goAways) == 2) })
		}
		up.gets(1, whole[:1<<20])
		down.closes()
		up.closes()
		if down.goAways[1] != 1 || up.goAways[1] != 1 {
			t.Errorf("got GOAWAY for %d and %d, want 1", down.goAways, up.goAways)
		}
		<-drained
	})
}

// What waits for the client's window when the drain begins arrives when it opens.
func TestHTTP2ClosedWindow(t *testing.T) {
	whole := pattern(400 << 10)
	both(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, whole) })}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.windows = false
		c.request(1, "/")
		c.await("a window full", func() bool { return len(c.bodies[1]) == 65535 })
		drained := s.drain(2*patience, all)
		c.toldOnce()
		c.toldTwice(1)
		time.Sleep(1200 * time.Millisecond) // longer than net/http waits for a connection without streams
		c.mu.Lock()
		c.WriteWindowUpdate(0, 1<<20)
		c.WriteWindowUpdate(1, 1<<20)
		c.mu.Unlock()
		c.gets(1, whole)
		c.closes()
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Announced: 1}) {
			t.Errorf("got %+v", d)
		}
	})
}

// The notice goes out between two frames, however much net/http has to write.
func TestHTTP2NoticeWhileWriting(t *testing.T) {
	stop := make(chan struct{})
	bothOverTCP(t, server.Options{IdleGrace: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		piece := make([]byte, 20000)
		for {
			select {
			case <-stop:
				return
			default:
				w.Write(piece)
			}
		}
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		stop = make(chan struct{})
		c := dial()
		for stream := uint32(1); stream < 10; stream += 2 {
			c.request(stream, "/")
		}
		c.await("some of each", func() bool { return len(c.bodies) == 5 })
		clear(c.bodies)
		drained := s.drain(2*patience, all)
		c.toldOnce()
		c.pong()
		c.toldTwice(9)
		close(stop)
		c.closes()
		<-drained
	})
}

// While the account of states is HTTP/2's, nothing is taken for silent.
func TestHTTP2IsNotSubjectToTheGrace(t *testing.T) {
	both(t, server.Options{IdleGrace: time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		io.WriteString(w, "late")
	})}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		c.request(1, "/")
		await(t, "the request", func() bool { return s.Load().Requests == 1 })
		drained := s.drain(patience, all)
		c.gets(1, "late")
		c.closes()
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Announced: 1}) {
			t.Errorf("got %+v", d)
		}
	})
}

// Load and no retries: each request is answered or, beyond the second GOAWAY's
// last stream, known to be unprocessed; the two steps leave none of these.
func TestHTTP2ClientsThroughDrain(t *testing.T) {
	const clients = 20
	both(t, server.Options{IdleGrace: patience, Handler: http.HandlerFunc(hello)}, func(t *testing.T, s *served, dial func() *http2Client) {
		var lost, refused, asked atomic.Int64
		var running sync.WaitGroup
		warm := make(chan struct{}, clients)
		for range clients {
			c := dial()
			c.answers = true
			running.Go(func() {
				var next uint32 = 1
				for len(c.goAways) == 0 {
					for range 4 { // ahead of the answers
						c.request(next, "/")
						next += 2
					}
					if next == 41 {
						warm <- struct{}{}
					}
					if _, err := c.body(next - 8); err != nil {
						break // see below
					}
				}
				c.until("the end", func() bool { return false })
				for stream := uint32(1); stream < next; stream += 2 {
					asked.Add(1)
					switch err, over := c.ended[stream]; {
					case over && err == nil && string(c.bodies[stream]) == "hello":
					case len(c.goAways) == 2 && stream > c.goAways[1]:
						refused.Add(1)
					default:
						lost.Add(1)
					}
				}
			})
		}
		for range clients {
			<-warm
		}
		drained := s.drain(2*patience, all)
		running.Wait()
		if lost.Load() != 0 || refused.Load() != 0 {
			t.Errorf("of %d requests %d lost and %d refused, want none", asked.Load(), lost.Load(), refused.Load())
		}
		if d := <-drained; d.Connections != (upgrade.Closed{Announced: clients}) {
			t.Errorf("got %+v, want all told to close", d)
		}
	})
}

// Go's own client, which retries what it may.
func TestHTTP2GoClientThroughDrain(t *testing.T) {
	inMemoryTLS(t, server.Options{Handler: http.HandlerFunc(hello)}, func(t *testing.T, s *servedTLS) {
		transport := &http.Transport{TLSClientConfig: s.signed.trust(), ForceAttemptHTTP2: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return s.connect() }}
		defer transport.CloseIdleConnections()
		for range 3 {
			resp, err := (&http.Client{Transport: transport}).Get("https://example.com/")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.ProtoMajor != 2 || string(body) != "hello" || err != nil {
				t.Errorf("got %s %q %v", resp.Proto, body, err)
			}
		}
		begin := time.Now()
		if d := <-s.drain(patience, all); d.Connections != (upgrade.Closed{Announced: 1}) {
			t.Errorf("got %+v", d)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// One that becomes HTTP/2 in the drain is told as well, and served.
func TestHTTP2BeginsInDrain(t *testing.T) {
	inMemory(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: patience}, func(t *testing.T, s *served) {
		splits := []int{0, 1, 13, 14, 15, 23}
		var clients []*client
		for _, begun := range splits {
			c := s.dial()
			io.WriteString(c, preface[:begun])
			clients = append(clients, c)
		}
		await(t, "the connections", func() bool { return s.Accepted() == uint64(len(splits)) })
		drained := s.drain(2*patience, all)
		s.awaitDraining()
		var told []*http2Client
		for i, c := range clients {
			io.WriteString(c, preface[splits[i]:])
			h := newHTTP2Client(t, prefaced{c.Conn})
			h.isFrom("hello")
			h.toldOnce()
			h.pong()
			h.toldTwice(1)
			told = append(told, h)
		}
		for _, h := range told {
			h.closes()
		}
		if d := <-drained; d.Connections != (upgrade.Closed{Announced: len(splits)}) {
			t.Errorf("got %+v, want all told to close", d)
		}
	})
}

// prefaced leaves out the preface, which was sent.
type prefaced struct{ net.Conn }

func (c prefaced) Write(p []byte) (int, error) {
	_, err := c.Conn.Write(bytes.TrimPrefix(p, []byte(preface)))
	return len(p), err
}

// Bytes of a preface, or of a request as short, are not left behind by a move.
func TestBegunConnectionsDoNotMove(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	m := newMovers(t, names("first"))
	<-m.first.drain(patience, all)
	counted := &countedListener{Listener: listen(t)}
	m.first = serveOn(t, counted, server.Options{Handler: names("first")})
	var sent int64
	type begun struct {
		*client
		rest string
	}
	var clients []begun
	for i := 1; i < len(request); i++ {
		c := m.first.dial()
		c.send(request[:i])
		sent += int64(i)
		clients = append(clients, begun{c, request[i:]})
	}
	var known []begun
	for i := 1; i < len(preface); i++ {
		c := m.first.dial()
		c.send(preface[:i])
		sent += int64(i)
		known = append(known, begun{c, preface[i:]})
	}
	total := len(clients) + len(known)
	await(t, "the connections", func() bool { return m.first.Accepted() == uint64(total) && counted.read.Load() == sent })
	drained := m.handOff(2 * patience)
	m.first.awaitDraining()
	time.Sleep(50 * time.Millisecond) // in which none moves
	for _, c := range clients {
		c.send(c.rest)
		if resp, body := c.answer(); body != "first" || resp.Close {
			t.Errorf("before %q: got %q, close %t, want first, and to move then", c.rest, body, resp.Close)
		}
		c.movesOn()
	}
	for _, c := range known {
		c.send(c.rest)
		h := newHTTP2Client(t, prefaced{c.Conn})
		h.isFrom("first")
		h.Close()
	}
	if d := <-drained; d.Moved != len(clients) {
		t.Errorf("got %+v, want %d moved", d, len(clients))
	}
	m.end()
}

// countedListener counts what is read from its connections.
type countedListener struct {
	net.Listener
	read atomic.Int64
}

func (l *countedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{nc.(*net.TCPConn), l}, nil
}

type countedConn struct {
	*net.TCPConn
	listener *countedListener
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.listener.read.Add(int64(n))
	return n, err
}

func TestHTTP2Reasons(t *testing.T) {
	tests := map[string]struct {
		do   func(c *http2Client)
		want server.Reason
	}{
		"client closes":  {func(c *http2Client) { c.isFrom(""); c.Close() }, server.ByClient},
		"client says so": {func(c *http2Client) { c.isFrom(""); c.WriteGoAway(0, http2.ErrCodeNo, nil); c.closes() }, server.ByClient},
		"idle timeout":   {func(c *http2Client) { c.isFrom(""); c.closes() }, server.TimedOut},
		"handler closes": {func(c *http2Client) { c.request(1, "/close"); c.closes() }, server.ConnectionClose},
		"protocol error": {func(c *http2Client) { c.isFrom(""); c.WriteWindowUpdate(2, 1); io.Copy(io.Discard, c.Conn) }, server.Failed},
		"half a header":  {func(c *http2Client) { c.isFrom(""); c.Conn.Write([]byte{0, 0, 9, 1}); io.Copy(io.Discard, c.Conn) }, server.TimedOut},
		"header goes on": {func(c *http2Client) {
			c.isFrom("")
			c.Conn.Write([]byte{0, 0, 1, 1, 0, 0, 0, 0, 3, 0x82})
			io.Copy(io.Discard, c.Conn)
		}, server.TimedOut},
		"half a DATA": {func(c *http2Client) {
			c.open(1, "POST", "/", false)
			c.Conn.Write([]byte{0, 0, 9, 0, 0, 0, 0, 0, 1})
			io.Copy(io.Discard, c.Conn)
		}, server.TimedOut},
		"handler panicked": {func(c *http2Client) { c.request(1, "/panic"); c.body(1); c.Close() }, server.ByClient},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			both(t, server.Options{IdleTimeout: 2 * time.Second, ReadHeaderTimeout: time.Second, ReadBodyTimeout: 500 * time.Millisecond,
				Logger: slog.New(slog.DiscardHandler),
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/panic":
						panic(http.ErrAbortHandler)
					case "/close":
						w.Header().Set("Connection", "close")
					}
					io.Copy(io.Discard, r.Body)
				})}, func(t *testing.T, s *served, dial func() *http2Client) {
				test.do(dial())
				await(t, "the connection's end", func() bool { return s.Load().Connections == upgrade.Connections{} && s.Accepted() == 1 })
				for why, n := range s.Closed() {
					if want := map[bool]uint64{true: 1}[why == test.want]; n != want {
						t.Errorf("closed by reason %v: got %d, want %d", why, n, want)
					}
				}
				<-s.drain(patience, none)
			})
		})
	}
}

// Half of something does not hold the drain beyond its timeouts.
func TestHTTP2HalfAFrameInDrain(t *testing.T) {
	both(t, server.Options{ReadHeaderTimeout: 400 * time.Millisecond, Handler: http.HandlerFunc(hello), Logger: slog.New(slog.DiscardHandler)}, func(t *testing.T, s *served, dial func() *http2Client) {
		for _, half := range [][]byte{{0, 0, 9, 1}, {0, 0, 9, 1, 5, 0, 0, 0, 3, 0x82}, {0, 0, 1, 1, 0, 0, 0, 0, 3, 0x82}} {
			c := dial()
			c.isFrom("hello")
			c.Conn.Write(half)
		}
		begin := time.Now()
		if d := <-s.drain(patience, all); d.Connections.Cut != 0 {
			t.Errorf("got %+v, want none cut", d)
		}
		if took := time.Since(begin); took > 1500*time.Millisecond {
			t.Errorf("took %v, want about the header timeout", took)
		}
	})
}

// The last stream of a GOAWAY is never raised by another.
func TestHTTP2DrainOfConnectionThatEnds(t *testing.T) {
	g := newGate()
	g.after = "done"
	both(t, server.Options{Handler: g}, func(t *testing.T, s *served, dial func() *http2Client) {
		g.open = make(chan struct{})
		c := dial()
		c.request(1, "/")
		<-g.entered
		if err := c.WriteGoAway(0, http2.ErrCodeNo, nil); err != nil {
			t.Fatal(err)
		}
		c.await("net/http's own", func() bool { return len(c.goAways) == 1 })
		drained := s.drain(patience, all)
		s.awaitDraining()
		time.Sleep(200 * time.Millisecond) // beyond the grace
		close(g.open)
		c.gets(1, "done")
		c.closes()
		if len(c.goAways) != 1 || c.goAways[0] != 1 {
			t.Errorf("got GOAWAY for %d, want one for stream 1", c.goAways)
		}
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Client: 1}) {
			t.Errorf("got %+v, want a connection that the client has ended", d)
		}
	})
}

// A net/http that does not take the second step announces the end with a response.
func TestHTTP2InOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServed(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 10 * time.Millisecond})
		s.BreakHTTP2Drain()
		s.Serve()
		speaker, silent := s.dialHTTP2(), s.dialHTTP2()
		speaker.isFrom("hello")
		silent.isFrom("hello")
		drained := s.drain(2*time.Second, all)
		s.awaitDraining()
		speaker.request(3, "/")
		speaker.gets(3, "hello")
		speaker.closes()
		if len(speaker.goAways) != 1 || speaker.goAways[0] != 3 {
			t.Errorf("got GOAWAY for %d, want one for stream 3", speaker.goAways)
		}
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Announced: 1, Grace: 1}) {
			t.Errorf("got %+v, want one told to close, and the silent one closed at the deadline", d)
		}
	})
}

// Whoever turns HTTP/2 off in net/http gets HTTP/1.1, and connections that move.
func TestWithoutHTTP2(t *testing.T) {
	t.Setenv("GODEBUG", "http2server=0")
	var logged bytes.Buffer
	certificate := sign(t, time.Now().Add(time.Hour), "example.com")
	m := newMovers(t, names("first"))
	<-m.first.drain(patience, all)
	over := listen(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("the handler got %s %s", r.Method, r.RequestURI)
		}
		names("first").ServeHTTP(w, r)
	})
	m.first = newServed(t, listen(t), server.Options{Handler: handler, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	m.first.AddTLS(over, &tls.Config{Certificates: []tls.Certificate{certificate.pair(t)}})
	if err := m.first.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.first.Serve()
	config := certificate.trust()
	config.NextProtos = []string{"h2", "http/1.1"}
	secured := (&served{t: t, addr: over.Addr()}).dial().shake(config)
	if got := secured.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("negotiated %q, want http/1.1", got)
	}
	secured.isFrom("first")
	secured.Close()
	fresh, used := m.first.dial(), m.first.dial()
	used.isFrom("first")
	await(t, "two connections", func() bool { return m.first.Load().Connections == upgrade.Connections{New: 1, Idle: 1} })
	if d := <-m.handOff(patience); d.Moved != 2 {
		t.Errorf("got %+v, want both moved", d)
	}
	fresh.isFrom("second")
	used.isFrom("second")
	if n := strings.Count(logged.String(), "level=WARN"); n != 1 || !strings.Contains(logged.String(), "HTTP/2 is not spoken") {
		t.Errorf("logged %s, want a warning that HTTP/2 is not spoken", &logged)
	}
	m.end()
}
