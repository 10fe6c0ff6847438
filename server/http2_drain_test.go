package server_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

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
		if d := <-drained; d.Requests != 16 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v, want 16 requests and one connection sent Connection: close", d)
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

// A client that connects in the drain is sent no GOAWAY before it had time for a request.
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
		if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 3}) {
			t.Errorf("got %+v, want 3 sent Connection: close", d)
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
		if d := <-drained; d.Connections != (upgrade.Closed{DrainTimeout: 1}) || c.statuses[3] != "" {
			t.Errorf("got %+v and status %q, want one closed forcibly", d, c.statuses[3])
		}
	})
}

// Uploads and downloads are whole, and flow control is as it was.
func TestHTTP2BodiesThroughDrain(t *testing.T) {
	tier.Slow(t, "sends large bodies")
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
	t.Parallel()
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
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v", d)
		}
	})
}

// The notice goes out between two frames, however much net/http has to write.
func TestHTTP2NoticeWhileWriting(t *testing.T) {
	tier.Slow(t, "waits for drains")
	t.Parallel()
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
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v", d)
		}
	})
}

// Load and no retries: each request is answered or, beyond the second GOAWAY's
// last stream, known to be unprocessed; the two steps leave none of these.
func TestHTTP2ClientsThroughDrain(t *testing.T) {
	tier.Slow(t, "has clients on both sides of a drain")
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
		if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: clients}) {
			t.Errorf("got %+v, want all sent Connection: close", d)
		}
	})
}

// Go's own client, which retries what it may.
func TestHTTP2GoClientThroughDrain(t *testing.T) {
	inMemoryTLS(t, server.Options{Handler: http.HandlerFunc(hello)}, func(t *testing.T, s *servedTLS) {
		transport := &http.Transport{TLSClientConfig: s.signed.Client(), ForceAttemptHTTP2: true,
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
		if d := <-s.drain(patience, all); d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
			t.Errorf("got %+v", d)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
