package server_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// A server pauses and accepts again, over and over, while clients connect: none is refused or
// reset, and each is answered.
func TestPauseAndResumeUnderLoad(t *testing.T) {
	tier.Slow(t, "has clients that connect again and again")
	t.Parallel()
	s := serve(t, server.Options{Handler: names("first")})
	var clients sync.WaitGroup
	var answered atomic.Int64
	stop := make(chan struct{})
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				nc, err := net.Dial("tcp", s.addr.String())
				if err != nil {
					t.Error(err)
					return
				}
				nc.SetDeadline(time.Now().Add(hang))
				io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				answer, err := io.ReadAll(nc)
				nc.Close()
				if err != nil || len(answer) == 0 {
					t.Errorf("got %q, %v", answer, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	for range 300 {
		before := answered.Load()
		s.Share(upgrade.Handoff{Kept: all}, 1)
		s.Reclaim()
		await(t, "an answer", func() bool { return answered.Load() > before })
	}
	close(stop)
	clients.Wait()
	<-s.drain(patience, all)
}

// twin returns another generation that accepts from the same queue.
func (s *served) twin(t *testing.T, opts server.Options) *served {
	t.Helper()
	f, err := s.listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return newServed(t, ln, opts)
}

// Of two generations with one queue the first accepts nothing after the takeover, and all of it
// after it has taken back; what was queued in between is answered.
func TestTakeoverAndTakeBackOfAQueue(t *testing.T) {
	t.Parallel()
	first := serve(t, server.Options{Handler: names("first")})
	waiting := first.dial() // of the first while it pauses: it may have been about to accept
	waiting.isFrom("first")
	for range 20 {
		second := first.twin(t, server.Options{Handler: names("second")})
		second.Serve()
		first.Share(handoff(second), 1)
		waiting.movesOn()
		accepted := first.Accepted()
		for range 10 {
			c := first.dial()
			c.isFrom("second")
			c.Close()
		}
		if n := first.Accepted(); n != accepted {
			t.Errorf("%d connections were accepted in the pause", n-accepted)
		}
		first.Reclaim()
		if d := <-second.drainBy(patience, handoff(first)); d.Migrated < 1 {
			t.Errorf("got %+v, want a connection that returns", d)
		}
		c := first.dial()
		c.isFrom("first")
		c.Close()
		waiting.isFrom("first")
	}
	<-first.drain(patience, all)
}

// From a listener that the successor does not have connections are accepted until the drain.
func TestListenerThatIsNotKeptIsNotPaused(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Options{Handler: names("first")})
	checkUnserved := func(want uint64) {
		t.Helper()
		address, n := s.Unserved()
		if n != want || (address != "") != (want > 0) {
			t.Errorf("unserved: got %d connections to %q, want %d", n, address, want)
		}
	}
	s.dial().isFrom("first")
	s.Share(upgrade.Handoff{Kept: none}, 0.5)
	s.dial().isFrom("first")
	checkUnserved(0)
	s.Share(upgrade.Handoff{Kept: none}, 1)
	checkUnserved(0)
	s.dial().isFrom("first")
	s.dial().isFrom("first")
	checkUnserved(2)
	s.Reclaim()
	checkUnserved(0)
	<-s.drain(patience, none)
}

// A drain that begins while nothing is accepted answers what is queued and nobody else accepts.
func TestDrainOfAPausedServer(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Options{Handler: names("first")})
	s.dial().isFrom("first")
	s.Share(upgrade.Handoff{Kept: all}, 1)
	c := s.dial()
	c.send(request)
	drained := s.drain(patience, none)
	if _, body := c.answer(); body != "first" {
		t.Errorf("got %q", body)
	}
	<-drained
	s = serve(t, server.Options{Handler: names("first")})
	s.Share(upgrade.Handoff{Kept: all}, 1)
	<-s.drain(patience, all)
}

// noDeadlines is a listener that has none: it pauses with the next connection.
type noDeadlines struct{ net.Listener }

func TestPauseWithoutDeadlines(t *testing.T) {
	t.Parallel()
	s := serveOn(t, noDeadlines{listen(t)}, server.Options{Handler: names("first")})
	s.Share(upgrade.Handoff{Kept: all}, 1)
	var clients []*client
	for range 10 {
		c := s.dial()
		c.send(request)
		clients = append(clients, c)
	}
	if n := s.Accepted(); n > 1 {
		t.Errorf("%d connections were accepted, want one at most", n)
	}
	s.Reclaim()
	for _, c := range clients {
		if _, body := c.answer(); body != "first" {
			t.Errorf("got %q", body)
		}
	}
	<-s.drain(patience, all)
}
