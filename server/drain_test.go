package server_test

import (
	"io"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

func TestDrainAnnouncesWhenHeaderIsWritten(t *testing.T) {
	for name, after := range map[string]string{"body": "late", "no body": ""} {
		t.Run(name, inBubble(func(t *testing.T) {
			g := newGate()
			g.after = after
			s := serveOn(t, memory(), server.Options{Handler: g})
			c := s.dial()
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			<-g.entered
			drained := s.drain(patience, all)
			synctest.Wait()
			begin := time.Now()
			close(g.open)
			resp, body := c.answer()
			if !resp.Close || body != after {
				t.Errorf("got close %v and body %q, want Connection: close and %q", resp.Close, body, after)
			}
			c.closedCleanly()
			d := <-drained
			if took := time.Since(begin); took > 100*time.Millisecond { // Shutdown polls
				t.Errorf("the drain ended %v after the response, want at once", took)
			}
			if d.Requests != 1 || d.Connections != (upgrade.Closed{ConnectionClose: 1}) {
				t.Errorf("got %+v, want one request finished and one connection sent Connection: close", d)
			}
		}))
	}
}

func TestDrainAfterHeaderIsWrittenWaitsForNextRequest(t *testing.T) {
	g := newGate()
	g.before, g.after = "early ", "late"
	s := serve(t, server.Options{Handler: g})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-g.entered
	drained := s.drain(patience, all)
	s.awaitDraining()
	close(g.open)
	if resp, body := c.answer(); resp.Close || body != "early late" {
		t.Errorf("first answer: got close %v, body %q", resp.Close, body)
	}
	if resp, body := c.get("/"); !resp.Close || body != "early late" {
		t.Errorf("second answer: got close %v, body %q, want the announcement", resp.Close, body)
	}
	c.closedCleanly()
	if d := <-drained; d.Requests != 2 || d.Connections.ConnectionClose != 1 {
		t.Errorf("got %+v, want 2 requests finished and 1 connection sent Connection: close", d)
	}
}

func TestDrainWithNothingToDo(t *testing.T) {
	inMemory(t, server.Options{Handler: http.HandlerFunc(hello)}, func(t *testing.T, s *served) {
		if d := <-s.drain(patience, all); d.Seconds > 0.05 { // net/http looks in a moment whether its self-tests have ended
			t.Errorf("a drain without connections took %v s, want no time", d.Seconds)
		}
	})
}

// A client that sends on must get the answer that it was promised.
func TestPipelinedClientGetsWholeAnswer(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	g := newGate()
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.ServeHTTP(w, r)
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Write(make([]byte, size))
	})})
	c := s.dial()
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	c.send(request)
	<-g.entered
	c.send(request)
	drained := s.drain(patience, all)
	s.awaitDraining()
	close(g.open)
	for i, last := range []bool{false, true} {
		resp, body := c.answer()
		if len(body) != size || resp.Close != last {
			t.Errorf("answer %d: got %d bytes, close %v, want %d, %v", i, len(body), resp.Close, size, last)
		}
		c.send(request) // too late to be answered
	}
	<-drained
}

func TestDeadlineClosesForcibly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.before = "begun"
		s := serveOn(t, memory(), server.Options{Handler: g})
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-g.entered
		d := <-s.drain(200*time.Millisecond, all)
		if d.Seconds != .450 {
			t.Errorf("a drain with a handler that hangs took %v s, want 200 ms, and 250 ms for the handler", d.Seconds)
		}
		if d.Requests != 0 || d.Connections != (upgrade.Closed{DrainTimeout: 1}) {
			t.Errorf("got %+v, want no request finished and one connection closed forcibly", d)
		}
		close(g.open)
		synctest.Wait()
		if n := s.Load().Requests; n != 0 {
			t.Errorf("%d requests are left", n)
		}
	})
}

func TestHijackedConnectionLivesThroughDrain(t *testing.T) {
	told := make(chan struct{})
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		io.WriteString(nc, "mine\n")
		<-server.Draining(r.Context())
		close(told)
		line, _ := buf.ReadString('\n')
		io.WriteString(nc, line)
	})})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, _ := c.in.ReadString('\n'); line != "mine\n" {
		t.Fatalf("got %q, want mine", line)
	}
	if got := s.Load(); got.Requests != 1 || got.Connections != (upgrade.Connections{Hijacked: 1}) {
		t.Errorf("got load %+v, want 1 request and 1 hijacked connection", got)
	}
	drained := s.drain(patience, all)
	<-told
	c.send("still here\n")
	if line, _ := c.in.ReadString('\n'); line != "still here\n" {
		t.Errorf("got %q, want an echo during the drain", line)
	}
	if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
		t.Errorf("got %+v, want one request finished and one connection closed by its handler", d)
	}
}

func TestDrainingOfForeignContext(t *testing.T) {
	if ch := server.Draining(t.Context()); ch != nil {
		t.Error("got a channel for a context that is no request's")
	}
}

func TestSilentConnectionAtTheDeadlineIsNotCut(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: time.Minute})
	s.dial().get("/")
	busy := s.dial()
	busy.send("GET / HTTP/1.1\r\nHost:")
	await(t, "both", func() bool {
		c := s.Load().Connections
		return c.Idle == 1 && c.New == 1
	})
	if d := <-s.drain(300*time.Millisecond, all); d.Connections != (upgrade.Closed{IdleGrace: 1, DrainTimeout: 1}) {
		t.Errorf("got %+v, want the idle one closed, and the one in the midst of a header closed forcibly", d.Connections)
	}
}
