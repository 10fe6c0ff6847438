package pool

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// result is what RoundTrip returns, and after how long.
type result struct {
	status int
	err    error
	after  time.Duration
}

// send sends n requests at a time, and returns what becomes of them.
func send(ctx context.Context, g *Group, n int) <-chan result {
	results, began := make(chan result, n), time.Now()
	for range n {
		go func() {
			request, _ := http.NewRequestWithContext(ctx, "GET", "http://a/", nil)
			response, lease, err := g.RoundTrip(request)
			lease.End()
			results <- result{statusOf(response, err), err, time.Since(began)}
		}()
	}
	return results
}

func TestWaitUntilOneAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fake{outcomes: []outcome{refuse}, probe: errRefused}, &fake{outcomes: []outcome{refuse}, probe: errRefused}
		p, g := newPool(t, Options{Wait: 5 * time.Second}, a, b)
		results := send(t.Context(), g, MaxWaiting)
		time.Sleep(3*time.Second + time.Millisecond)
		if p.Waiting() != MaxWaiting {
			t.Errorf("%d wait, want %d", p.Waiting(), MaxWaiting)
		}
		// It is the next probe that finds it, and one at a time was sent.
		b.set(nil, ok)
		for range MaxWaiting {
			if r := <-results; r.status != 200 || r.after > 3*time.Second+2*fastPause {
				t.Fatalf("got %d (%v) after %v", r.status, r.err, r.after)
			}
		}
		p.Close()
		if a.deliveries() != 0 || b.deliveries() != MaxWaiting {
			t.Errorf("got %d and %d requests, want 0 and %d", a.deliveries(), b.deliveries(), MaxWaiting)
		}
		for i := 1; i < len(a.probes); i++ {
			if pause := a.probes[i].Sub(a.probes[i-1]); pause < fastPause {
				t.Fatalf("%v between two probes, want %v", pause, fastPause)
			}
		}
	})
}

func TestWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{refuse}, probe: errRefused}
		p, g := newPool(t, Options{Wait: 5 * time.Second}, a)
		results := send(t.Context(), g, 10*MaxWaiting)
		for range 9 * MaxWaiting {
			if r := <-results; r.status != 503 || !errors.Is(r.err, errQueueFull) || r.after != 0 {
				t.Fatalf("got %d (%v) after %v, want 503 at once", r.status, r.err, r.after)
			}
		}
		if p.Waiting() != MaxWaiting {
			t.Errorf("%d wait, want %d", p.Waiting(), MaxWaiting)
		}
		for range MaxWaiting {
			if r := <-results; r.status != 503 || r.after != 5*time.Second {
				t.Fatalf("got %d (%v) after %v, want 503 after 5 s", r.status, r.err, r.after)
			}
		}
		if s := p.Stats()[0]; p.Waiting() != 0 || s.State != Down || s.InProgress != 0 {
			t.Errorf("%d wait, %+v", p.Waiting(), s)
		}
	})
}

func TestWaitEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(p *Pool, leave context.CancelFunc)
		want int // 0: the error of the context
	}{
		{"the client leaves", func(_ *Pool, leave context.CancelFunc) { leave() }, 0},
		{"the pool is closed", func(p *Pool, _ context.CancelFunc) { p.Close() }, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fake{outcomes: []outcome{refuse}, probe: errRefused}
				p, g := newPool(t, Options{Wait: time.Hour}, a)
				ctx, leave := context.WithCancel(t.Context())
				results := send(ctx, g, 10)
				time.Sleep(time.Second)
				test.end(p, leave)
				for range 10 {
					if r := <-results; r.status != test.want || r.after != time.Second || test.want == 0 && !errors.Is(r.err, context.Canceled) {
						t.Errorf("got %d (%v) after %v, want %d", r.status, r.err, r.after, test.want)
					}
				}
				if p.Waiting() != 0 {
					t.Errorf("%d wait", p.Waiting())
				}
				leave()
			})
		})
	}
}

func TestWaitWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fake{outcomes: []outcome{refuse}, probe: errRefused}, &fake{outcomes: []outcome{refuse, ok}}
		_, g := newPool(t, Options{}, a, b)
		if r := <-send(t.Context(), g, 1); r.status != 503 || r.after != 0 {
			t.Errorf("got %d after %v, want 503 at once", r.status, r.after)
		}
		time.Sleep(2 * time.Second) // one that nobody waits for is probed as well
		if r := <-send(t.Context(), g, 1); r.status != 200 {
			t.Errorf("got %d (%v), want 200", r.status, r.err)
		}
	})
}

// Nothing runs when all is well.
func TestProberEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{refuse, ok}}
		p, g := newPool(t, Options{Wait: time.Minute}, a)
		<-send(t.Context(), g, 1)
		synctest.Wait()
		p.goroutines.Wait()
		if p.backends[0].probing {
			t.Error("it is probed although it is up")
		}
	})
}

// A backend that leaves gets no new requests until it has gone and is back.
func TestLeavingIsAvoided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fake{outcomes: []outcome{ok, {code: 503, close: true}}}, &fake{outcomes: []outcome{ok}}
		p, g := newPool(t, Options{Wait: time.Minute}, a, b)
		for range 100 {
			<-send(t.Context(), g, 1)
			time.Sleep(50 * time.Millisecond)
		}
		if a.deliveries() != 2 || b.deliveries() != 98 {
			t.Errorf("got %d and %d requests, want 2 and 98", a.deliveries(), b.deliveries())
		}
		a.set(errRefused, refuse)
		time.Sleep(2 * time.Second)
		if got := p.Stats()[0].State; got != Down {
			t.Errorf("got %v, want down", got)
		}
		a.set(nil, ok)
		time.Sleep(2 * time.Second)
		if got := p.Stats()[0].State; got != Up {
			t.Errorf("got %v, want up", got)
		}
	})
}

// The only backend leaves: who comes waits for it. One request a second asks whether it was
// meant so.
func TestLeavingAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{ok, {code: 503, close: true}}}
		_, g := newPool(t, Options{Wait: time.Minute}, a)
		<-send(t.Context(), g, 1)
		<-send(t.Context(), g, 1)
		results := send(t.Context(), g, 20)
		time.Sleep(3*time.Second + trialPause/2)
		if got := a.deliveries(); got < 4 || got > 5 {
			t.Errorf("got %d requests in 3.5 s, want 4 or 5", got)
		}
		a.set(nil, ok)
		failed := 0
		for range 20 {
			if r := <-results; r.status != 200 {
				failed++
			} else if r.after > 5*time.Second {
				t.Errorf("after %v", r.after)
			}
		}
		if failed > 3 {
			t.Errorf("%d got a 503", failed)
		}
	})
}

// One that closes every connection says nothing by that.
func TestNotLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{{code: 200, close: true}, {code: 503, close: true}}}
		p, g := newPool(t, Options{Wait: time.Minute}, a)
		for range 3 {
			<-send(t.Context(), g, 1)
		}
		if got := p.Stats()[0].State; got != Up {
			t.Errorf("got %v, want up", got)
		}
	})
}

// Requests that wait are spread over the backends that come back.
func TestWaitersSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		a, b := &fake{outcomes: []outcome{refuse}, probe: errRefused, hold: hold}, &fake{outcomes: []outcome{refuse}, probe: errRefused, hold: hold}
		p, g := newPool(t, Options{Wait: time.Minute}, a, b)
		results := send(t.Context(), g, 100)
		time.Sleep(time.Second)
		a.set(nil, ok)
		time.Sleep(time.Second)
		b.set(nil, ok)
		time.Sleep(2 * time.Second)
		more := send(t.Context(), g, 100)
		time.Sleep(time.Second)
		if s := p.Stats(); s[0].InProgress != 100 || s[1].InProgress != 100 {
			t.Errorf("%d and %d in progress, want 100 each", s[0].InProgress, s[1].InProgress)
		}
		close(hold)
		for range 100 {
			<-results
			<-more
		}
	})
}

// source is the body of a client that sends as it likes.
type source struct {
	parts chan []byte // closed: the client has gone
	read  int
	mu    sync.Mutex
}

func (s *source) Read(p []byte) (int, error) {
	part, ok := <-s.parts
	if !ok {
		return 0, io.ErrUnexpectedEOF
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read += len(part)
	return copy(p, part), nil
}

func (s *source) Close() error { return nil }

// The body is read while the request waits, so that the client's end is noticed.
func TestWaitReadsBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{refuse}, probe: errRefused}
		p, g := newPool(t, Options{Wait: time.Hour}, a)
		body := &source{parts: make(chan []byte)}
		request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://a/", body)
		done := make(chan error)
		go func() {
			_, _, err := g.RoundTrip(request)
			done <- err
		}()
		for range MaxReplay / 1024 {
			body.parts <- make([]byte, 1024)
		}
		synctest.Wait()
		select {
		case body.parts <- nil:
			t.Error("more is read than may be kept")
		default:
		}
		p.Close()
		<-done
	})
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{refuse}, probe: errRefused}
		p, g := newPool(t, Options{Wait: time.Hour}, a)
		body := &source{parts: make(chan []byte)}
		request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://a/", body)
		time.AfterFunc(time.Second, func() { close(body.parts) })
		began := time.Now()
		_, _, err := g.RoundTrip(request)
		if !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(began) != time.Second || p.Waiting() != 0 {
			t.Errorf("got %v after %v, want the error of the body", err, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{refuse}, probe: errRefused}
		_, g := newPool(t, Options{Wait: time.Second}, a)
		body := &source{parts: make(chan []byte)}
		request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://a/", body)
		request.Header.Set("Expect", "100-continue")
		_, _, err := g.RoundTrip(request)
		select {
		case body.parts <- nil:
			t.Error("a body is read that the client has not been asked for")
		default:
		}
		if statusOf(nil, err) != 503 {
			t.Errorf("got %v", err)
		}
	})
}

// One that was down for long is probed at once when a request comes.
func TestWaitHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{refuse}, probe: errRefused}
		_, g := newPool(t, Options{Wait: time.Minute}, a)
		<-send(t.Context(), g, 1)
		time.Sleep(time.Hour + 300*time.Millisecond)
		a.set(nil, ok)
		if r := <-send(t.Context(), g, 1); r.status != 200 || r.after > fastPause {
			t.Errorf("got %d (%v) after %v", r.status, r.err, r.after)
		}
	})
}

// What is lacking here is no failure of the backend.
func TestLocalFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{{err: errNoFiles}}}
		p, g := newPool(t, Options{Wait: 5 * time.Second}, a)
		r := <-send(t.Context(), g, 1)
		if s := p.Stats()[0]; r.status != 502 || s.State != Up || s.Errors > 30 {
			t.Errorf("got %d, %+v, want 502, up and a few attempts", r.status, s)
		}
	})
}

// A request that was lost goes to another backend, even if that has more to do.
func TestRepeatElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fake{outcomes: []outcome{lose}}, &fake{outcomes: []outcome{ok}}
		p, g := newPool(t, Options{}, a, b)
		p.backends[1].inProgress = 100
		if r := <-send(t.Context(), g, 1); r.status != 200 || a.deliveries() != 1 {
			t.Errorf("got %d after %d attempts elsewhere", r.status, a.deliveries())
		}
	})
}
