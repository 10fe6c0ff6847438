package server_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// The idle grace, and what it must spare.

func TestIdleGrace(t *testing.T) {
	const grace = 300 * time.Millisecond
	inMemory(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace}, testIdleGrace)
}

func testIdleGrace(t *testing.T, s *served) {
	const grace = 300 * time.Millisecond
	silent, spoken, late := s.dial(), s.dial(), s.dial()
	spoken.get("/")
	late.get("/")
	synctest.Wait()
	if got := s.Load().Connections; got != (upgrade.Connections{New: 1, Idle: 2}) {
		t.Fatalf("got %+v, want three connections", got)
	}
	begin := time.Now()
	drained := s.drain(patience, all)
	s.awaitDraining()
	if resp, _ := late.get("/"); !resp.Close {
		t.Error("request within the grace: got no announcement")
	}
	late.closedCleanly()
	for _, c := range []*client{silent, spoken} {
		c.closedCleanly()
		if after := time.Since(begin); after != grace {
			t.Errorf("idle connection closed after %v, want %v", after, grace)
		}
	}
	if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: 1, IdleGrace: 2}) {
		t.Errorf("got %+v, want 1 sent Connection: close and 2 after the grace", d.Connections)
	}
}

// A client may be in the midst of a request whenever the grace ends: also when
// net/http holds its beginning without having read from the socket for it.
func TestGraceSparesBegunRequests(t *testing.T) {
	const request = "GET /second HTTP/1.1\r\nHost: x\r\nX-Long: " // is split at each byte
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	for name, first := range map[string]string{
		"new connection": "",
		"pipelined":      "GET /first HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, server.Options{Handler: echo, IdleGrace: 50 * time.Millisecond})
			var clients []*client
			for i := 1; i <= len(request); i++ {
				c := s.dial()
				c.send(first + request[:i])
				if first != "" {
					if _, body := c.answer(); body != "/first" {
						t.Fatalf("got %q, want /first", body)
					}
				}
				clients = append(clients, c)
			}
			quiet := s.dial() // tells when the grace is over
			await(t, "all connections", func() bool { return s.Accepted() == uint64(len(clients)+1) })
			drained := s.drain(4*patience, all)
			quiet.closedCleanly()
			for i, c := range clients {
				c.send(request[i+1:] + "y\r\n\r\n")
				if resp, body := c.answer(); body != "/second" || !resp.Close {
					t.Errorf("split after %q: got %q, close %v, want /second with the announcement", request[:i+1], body, resp.Close)
				}
			}
			<-drained
		})
	}
}

// net/http's buffer is full and empty again in the midst of this header.
func TestGraceSparesHeaderThatFillsTheBuffer(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 50 * time.Millisecond})
	const line = "GET / HTTP/1.1\r\nHost: x\r\n"
	begun := line + "X: " + strings.Repeat("a", 4096-len(line)-len("X: \r\n")) + "\r\n"
	fresh, used, quiet := s.dial(), s.dial(), s.dial()
	used.get("/")
	for _, c := range []*client{fresh, used} {
		c.send(begun)
	}
	await(t, "the connections", func() bool { return s.Accepted() == 3 })
	drained := s.drain(patience, all)
	quiet.closedCleanly()
	for _, c := range []*client{fresh, used} {
		c.send("\r\n")
		if resp, _ := c.answer(); resp.StatusCode != 200 || !resp.Close {
			t.Errorf("got status %d, close %v, want 200 with the announcement", resp.StatusCode, resp.Close)
		}
	}
	<-drained
}

// A thread that has taken a request from the socket may be held up before it can
// say so: the end of the grace in this moment must not destroy the connection.
func TestGraceSparesRequestJustRead(t *testing.T) {
	const grace = 200 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	held := &heldListener{Listener: ln, taken: make(chan struct{}), release: make(chan struct{})}
	s := serveOn(t, held, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace})
	c, quiet := s.dial(), s.dial()
	await(t, "both connections", func() bool { return s.Accepted() == 2 })
	drained := s.drain(patience, all)
	s.awaitDraining()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-held.taken
	quiet.closedCleanly() // the grace is over for both
	close(held.release)
	if resp, body := c.answer(); resp.StatusCode != 200 || body != "hello" || !resp.Close {
		t.Errorf("got %d %q, close %v, want the answer with the announcement", resp.StatusCode, body, resp.Close)
	}
	<-drained
}

// What comes as the grace ends puts the connection back into service, with the
// deadlines that net/http asked for.
func TestRequestAtTheEndOfGrace(t *testing.T) {
	const clients = 200
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 100 * time.Millisecond, ReadHeaderTimeout: patience})
	var speakers []*client
	for range clients {
		speakers = append(speakers, s.dial())
	}
	await(t, "the connections", func() bool { return s.Accepted() == clients })
	begin := time.Now() // no grace begins before
	drained := s.drain(patience, all)
	var lost, early, late atomic.Int64
	var asked sync.WaitGroup
	for i, c := range speakers {
		asked.Go(func() {
			// Around the end of the grace: before it each must be answered,
			// after it none can be.
			at := 90*time.Millisecond + time.Duration(i)*100*time.Microsecond
			time.Sleep(time.Until(begin.Add(at))) // the moment is what is tested
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n")
			io.WriteString(c, "\r\n")
			sent := time.Since(begin)
			resp, err := http.ReadResponse(c.in, nil)
			switch {
			case err == nil && !resp.Close:
				early.Add(1) // the drain began afterwards, and has a grace for this one
			case err != nil && sent < 100*time.Millisecond:
				lost.Add(1)
			case err != nil:
				late.Add(1)
			}
		})
	}
	asked.Wait()
	d := <-drained
	if lost.Load() > 0 {
		t.Errorf("%d requests lost that were sent within the grace", lost.Load())
	}
	if got := int64(d.Connections.IdleGrace); got != early.Load()+late.Load() {
		t.Errorf("%d connections closed after the grace, but %d requests answered before the drain and %d never: one was aborted while it was read",
			got, early.Load(), late.Load())
	}
}

// A few stray bytes are no request for which a drain should wait for long.
func TestStrayBytesDoNotHoldDrain(t *testing.T) {
	const header = 200 * time.Millisecond
	inMemory(t, server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: header, IdleGrace: 10 * time.Millisecond}, func(t *testing.T, s *served) {
		for _, bytes := range []string{"\r\n", "G"} {
			c := s.dial()
			c.get("/")
			c.send(bytes)
		}
		synctest.Wait()
		begin := time.Now()
		<-s.drain(4*patience, all)
		if took := time.Since(begin); took != header {
			t.Errorf("the drain took %v, want the header timeout", took)
		}
	})
}

func TestHeaderTimeoutHoldsInDrain(t *testing.T) {
	const header = 300 * time.Millisecond
	inMemory(t, server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: header, IdleGrace: 10 * time.Millisecond}, func(t *testing.T, s *served) {
		begin := time.Now()
		c := s.dial()
		c.send("GET / HT")
		synctest.Wait()
		drained := s.drain(patience, all)
		c.answer() // net/http takes what has come for the whole: 400
		if took := time.Since(begin); took != header {
			t.Errorf("closed after %v, want %v", took, header)
		}
		if d := <-drained; d.Connections != (upgrade.Closed{Timeout: 1}) {
			t.Errorf("got %+v, want one timeout", d.Connections)
		}
	})
}
