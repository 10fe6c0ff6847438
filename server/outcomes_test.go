package server_test

import (
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// outcomeHandler answers as the path says.
func outcomeHandler(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ok":
		io.WriteString(w, "x")
	case "/written":
		w.Write([]byte("x"))
	case "/copied":
		w.(io.ReaderFrom).ReadFrom(io.LimitReader(zeros{}, 10))
	case "/error":
		http.Error(w, "error", http.StatusInternalServerError)
	case "/bad gateway":
		w.WriteHeader(http.StatusBadGateway)
	case "/panic":
		panic(http.ErrAbortHandler)
	case "/breaks off":
		io.WriteString(w, "x")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "/client leaves":
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case "/denied":
		http.Error(w, "denied", http.StatusForbidden)
	case "/missing":
		http.NotFound(w, r)
	case "/bad request":
		http.Error(w, "bad", http.StatusBadRequest)
	case "/redirect":
		http.Redirect(w, r, "/ok", http.StatusFound)
	case "/unchanged":
		w.WriteHeader(http.StatusNotModified)
	case "/empty":
	case "/flushed":
		http.NewResponseController(w).Flush()
	case "/no content":
		w.WriteHeader(http.StatusNoContent)
	case "/hint":
		w.WriteHeader(http.StatusEarlyHints)
		w.Write(nil)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	one := upgrade.Outcomes{Started: 1, Answered: 1, Ended: 1}
	failed, denied, redirected, empty := one, one, one, one
	failed.Failed, denied.Denied, redirected.Redirected, empty.Empty = 1, 1, 1, 1
	for _, test := range []struct {
		method, path string
		want         upgrade.Outcomes
	}{
		{"GET", "/ok", one}, {"GET", "/written", one}, {"GET", "/copied", one},
		{"GET", "/error", failed}, {"GET", "/bad%20gateway", failed}, {"GET", "/panic", failed}, {"GET", "/breaks%20off", failed},
		{"GET", "/client%20leaves", one},
		{"GET", "/denied", denied}, {"GET", "/missing", denied}, {"GET", "/bad%20request", one},
		{"GET", "/redirect", redirected}, {"GET", "/unchanged", one},
		{"GET", "/empty", empty}, {"GET", "/flushed", empty}, {"GET", "/hint", empty},
		{"POST", "/empty", one}, {"HEAD", "/empty", one}, {"GET", "/no%20content", one},
	} {
		both(t, server.Options{Handler: http.HandlerFunc(outcomeHandler)}, func(t *testing.T, s *served, dial func() *http2Client) {
			c := dial()
			c.open(1, test.method, test.path, true)
			if test.path == "/client%20leaves" {
				await(t, "the request", func() bool { return s.Outcomes().Started == 1 })
				c.Close()
			} else {
				c.body(1)
			}
			await(t, "the end", func() bool { return s.Outcomes().Ended == 1 })
			if got := s.Outcomes(); withoutLatency(got) != test.want {
				t.Errorf("%s %s: got %+v, want %+v", test.method, test.path, got, test.want)
			}
			c.Close()
			<-s.drain(patience, all)
		})
		t.Run("HTTP1", inBubble(func(t *testing.T) {
			s := serveOn(t, memory(), server.Options{Handler: http.HandlerFunc(outcomeHandler)})
			c := s.dial()
			c.send(test.method + " " + test.path + " HTTP/1.1\r\nHost: x\r\n\r\n")
			if test.path == "/client%20leaves" {
				await(t, "the request", func() bool { return s.Outcomes().Started == 1 })
			} else {
				await(t, "the end", func() bool { return s.Outcomes().Ended == 1 })
			}
			c.Close()
			await(t, "the end", func() bool { return s.Outcomes().Ended == 1 })
			if got := s.Outcomes(); withoutLatency(got) != test.want {
				t.Errorf("%s %s: got %+v, want %+v", test.method, test.path, got, test.want)
			}
			<-s.drain(patience, all)
		}))
	}
}

// withoutLatency returns what else is counted.
func withoutLatency(o upgrade.Outcomes) upgrade.Outcomes {
	o.Latency = upgrade.Latencies{}
	return o
}

// What takes as long as the client likes is left out of the latency.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveOn(t, memory(), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(300 * time.Millisecond)
			switch r.URL.Path {
			case "/events":
				w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
				w.Write(nil)
			case "/hijack":
				nc, _, _ := w.(http.Hijacker).Hijack()
				nc.Close()
			}
		})})
		for _, path := range []string{"/", "/events", "/hijack"} {
			s.dial().send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		time.Sleep(time.Second)
		o := s.Outcomes()
		if median, requests := o.Latency.Median(); o.Ended != 3 || requests != 1 || median < 300*time.Millisecond || median > 400*time.Millisecond {
			t.Errorf("got %v for %d of %d requests, want 300 ms for one of 3", median, requests, o.Ended)
		}
		<-s.drain(patience, all)
	})
}

// A client that leaves in the middle of a request's body is no failure of the server.
func TestOutcomeOfABodyThatBreaksOff(t *testing.T) {
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	})})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
	c.Close()
	await(t, "the end", func() bool { return s.Outcomes().Ended == 1 })
	if got := s.Outcomes(); got.Failed != 0 {
		t.Errorf("got %+v, want no failure", got)
	}
	<-s.drain(patience, all)
}

// While a handler runs, its request has begun; once it has written a header, it is answered. One
// that hijacks its connection is answered then.
func TestOutcomesInBetween(t *testing.T) {
	g := newGate()
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.entered <- struct{}{}
		<-g.open
		var nc net.Conn
		if r.URL.Path == "/hijack" {
			nc, _, _ = w.(http.Hijacker).Hijack()
		} else {
			w.WriteHeader(http.StatusOK)
		}
		g.entered <- struct{}{}
		<-g.open
		if nc != nil {
			nc.Close()
		}
	})})
	for i, path := range []string{"/", "/hijack"} {
		n := uint64(i)
		c := s.dial()
		c.send("POST " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		<-g.entered
		for _, want := range []upgrade.Outcomes{{Started: n + 1, Answered: n, Ended: n}, {Started: n + 1, Answered: n + 1, Ended: n}} {
			if got := withoutLatency(s.Outcomes()); got != want {
				t.Errorf("%s: got %+v, want %+v", path, got, want)
			}
			g.open <- struct{}{}
			if want.Answered == n {
				<-g.entered
			}
		}
		await(t, "the end", func() bool { return s.Outcomes().Ended == n+1 })
	}
	<-s.drain(10*time.Millisecond, all)
}
