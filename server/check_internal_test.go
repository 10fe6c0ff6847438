package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
)

// A self-test may take as long as it takes: only wrong behaviour switches a feature off.
func TestSelfTestsOnABusyMachine(t *testing.T) {
	const before = 7 // connections that speak HTTP/1.1
	always := func(http.ConnState) bool { return true }
	for name, test := range map[string]struct {
		slow   func(attempt int) time.Duration // how long net/http takes for each step
		states func(http.ConnState) bool       // that become known
		closes func(attempt int) bool          // net/http ends the connection of HTTP/2 in the drain
		safe   bool
		http2  http2Support
		warns  string
	}{
		"a quick one": {safe: true, http2: http2Support{true, true, true}},
		"minutes for each step": {slow: func(int) time.Duration { return 7 * time.Minute },
			safe: true, http2: http2Support{true, true, true}},
		"so slow at first that net/http gives up": {
			slow:   func(attempt int) time.Duration { return time.Hour / time.Duration(attempt*attempt) },
			closes: func(attempt int) bool { return attempt < 4 },
			safe:   true, http2: http2Support{true, true, true}},
		"net/http does not tell of states": {states: func(http.ConnState) bool { return false },
			http2: http2Support{true, true, true}, warns: "net/http does not read as expected"},
		"slowly, net/http does not tell of states": {slow: func(int) time.Duration { return 7 * time.Minute },
			states: func(http.ConnState) bool { return false },
			http2:  http2Support{true, true, true}, warns: "net/http does not read as expected"},
		"net/http ends connections of HTTP/2": {closes: func(int) bool { return true },
			safe: true, http2: http2Support{speaks: true}, warns: "clients of HTTP/2 may have to repeat"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logged bytes.Buffer
				s := New(Options{Handler: http.NotFoundHandler(), Logger: slog.New(slog.NewTextHandler(&logged, nil))})
				if test.states == nil {
					test.states = always
				}
				report, attempts := s.http.ConnState, atomic.Int64{}
				s.http.ConnState = func(nc net.Conn, state http.ConnState) {
					if state == http.StateNew {
						attempts.Add(1)
					}
					attempt := int(attempts.Load())
					if test.slow != nil && state != http.StateClosed {
						time.Sleep(test.slow(max(attempt-before, 1)))
					}
					if test.states(state) {
						report(nc, state)
					}
					if h, ok := connOf(nc).follower().(*http2Conn); ok && h.announced.Load() && test.closes != nil && test.closes(attempt-before) {
						nc.Close()
					}
				}
				if err := s.Check(t.Context()); err != nil {
					t.Error(err)
				}
				if safe, http2 := s.isSafe(), s.http2(); safe != test.safe || http2 != test.http2 {
					t.Errorf("got safe %t and HTTP/2 %+v, want %t and %+v", safe, http2, test.safe, test.http2)
				}
				if n := strings.Count(logged.String(), "level=WARN"); n != min(len(test.warns), 1) || !strings.Contains(logged.String(), test.warns) {
					t.Errorf("logged %q, want %q alone", &logged, test.warns)
				}
			})
		})
	}
}

// A net/http that hangs is not waited for any longer than the caller wants.
func TestCheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Handler: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler)})
		released := make(chan struct{})
		report := s.http.ConnState
		s.http.ConnState = func(nc net.Conn, state http.ConnState) {
			<-released
			report(nc, state)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if err := s.Check(ctx); err == nil || time.Since(begin) != time.Minute {
			t.Errorf("got %v after %v, want an error after a minute", err, time.Since(begin))
		}
		close(released)
		synctest.Wait()
		if !s.isSafe() || s.http2() != (http2Support{true, true, true}) {
			t.Error("a feature is switched off")
		}
	})
}

// A server that has ended does not pass, and does not hang.
func TestCheckOfAClosedServer(t *testing.T) {
	s := New(Options{Handler: http.NotFoundHandler()})
	s.http.Close()
	if err := s.Check(t.Context()); err == nil {
		t.Error("got success")
	}
}

func TestTimelessConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		c := timeless{far}
		c.SetReadDeadline(time.Now().Add(time.Second))
		c.SetWriteDeadline(time.Now().Add(time.Second))
		go func() {
			time.Sleep(time.Hour)
			io.WriteString(near, "late")
		}()
		if n, err := c.Read(make([]byte, 9)); n != 4 || err != nil {
			t.Errorf("got %d bytes, %v", n, err)
		}
		c.SetReadDeadline(time.Unix(1, 0))
		if _, err := c.Read(make([]byte, 9)); err == nil {
			t.Error("a deadline in the past wakes nobody")
		}
	})
}

// No self-test is mistaken, in whatever order goroutines run: in a bubble they run in another each time.
func TestSelfTestsManyTimes(t *testing.T) {
	var logged bytes.Buffer
	starts := tier.Times(t, "starts", 50, 300, 300)
	for range starts {
		synctest.Test(t, func(t *testing.T) {
			s := New(Options{Handler: http.NotFoundHandler(), Logger: slog.New(slog.NewTextHandler(&logged, nil))})
			s.tls13()
			if err := s.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	if logged.Len() > 0 {
		t.Errorf("logged %s", &logged)
	}
}
