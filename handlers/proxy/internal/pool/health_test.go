package pool

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

func TestHealth(t *testing.T) {
	unwell := outcome{code: 500}
	for _, test := range []struct {
		name  string
		probe outcome // of the health path from 10 s on
		want  State   // 3 s later, and 5 s after that
		then  State
	}{
		{"well", ok, Up, Up},
		{"redirects", outcome{code: 302}, Up, Up},
		{"fails", unwell, Sick, Sick},
		{"not found", outcome{code: 404}, Sick, Sick},
		{"nonsense", outcome{err: errJunk}, Sick, Sick},
		{"too slow", outcome{err: errSilent}, Sick, Sick},
		{"refuses", refuse, Down, Down},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &fake{outcomes: []outcome{ok}}
				logged, logger := testserver.Capture()
				p, _ := newPool(t, Options{HealthPath: "/healthz", Logger: logger}, a)
				time.Sleep(10*time.Second + time.Millisecond)
				if got := a.deliveries(); got != 6 {
					t.Errorf("asked %d times in 10 s, want 6", got)
				}
				a.set(nil, test.probe)
				time.Sleep(2*healthPause + time.Second)
				if got := p.Stats()[0].State; got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
				time.Sleep(time.Minute)
				if got := p.Stats()[0].State; got != test.then {
					t.Errorf("a minute later: got %v, want %v", got, test.then)
				}
				a.set(nil, ok)
				time.Sleep(healthPause)
				if got := p.Stats()[0].State; got != Up {
					t.Errorf("well again: got %v, want up", got)
				}
				lines := len(logged.With("backend gets no new requests")) + len(logged.With("backend is up"))
				if want := map[bool]int{true: 0, false: 2}[test.want == Up]; lines != want {
					t.Errorf("got %d lines, want %d", lines, want)
				}
				p.Close()
			})
		})
	}
}

// failsKept fails health checks that do not end their connection, as a process does that still has it
// when its successor has the address.
type failsKept struct{ *fake }

func (k failsKept) RoundTrip(r *http.Request) (*http.Response, error) {
	if !r.Close {
		return &http.Response{StatusCode: 503, Body: http.NoBody}, nil
	}
	return k.fake.RoundTrip(r)
}

func TestHealthOfSuccessor(t *testing.T) {
	if err := CheckHealth(t.Context(), Backend{URL: "http://a", Transport: failsKept{&fake{outcomes: []outcome{ok}}}}, "/healthz"); err != nil {
		t.Errorf("got %v, want the successor asked", err)
	}
}

func TestHealthOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{ok, {code: 500}, ok, {code: 500}, ok, ok}}
		p, _ := newPool(t, Options{HealthPath: "/healthz"}, a)
		for range 60 {
			time.Sleep(500 * time.Millisecond)
			if got := p.Stats()[0].State; got != Up {
				t.Errorf("got %v, want up", got)
			}
		}
		p.Close()
	})
}

// A request that waits for one that is sick need not wait for the next check.
func TestHealthWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{{code: 503}}}
		p, g := newPool(t, Options{HealthPath: "/healthz", Wait: time.Minute, Logger: discard}, a)
		time.Sleep(3 * time.Second)
		results := send(t.Context(), g, 10)
		time.Sleep(1234 * time.Millisecond)
		a.set(nil, ok)
		for range 10 {
			if r := <-results; r.status != 200 || r.after > 1234*time.Millisecond+slowPause {
				t.Errorf("got %d (%v) after %v", r.status, r.err, r.after)
			}
		}
		p.Close()
	})
}

// All are sick, and stay so.
func TestHealthAllSick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fake{outcomes: []outcome{{code: 500}}}, &fake{outcomes: []outcome{{code: 404}}}
		p, g := newPool(t, Options{HealthPath: "/healthz", Wait: 5 * time.Second}, a, b)
		time.Sleep(3 * time.Second)
		if r := <-send(t.Context(), g, 1); r.status != 503 || r.after != 5*time.Second {
			t.Errorf("got %d (%v) after %v, want 503 after 5 s", r.status, r.err, r.after)
		}
		p.Close()
	})
}

// It is down, and comes back, and takes a while until it is well: that does not make it sick.
func TestHealthWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{refuse}}
		p, g := newPool(t, Options{HealthPath: "/healthz", Wait: time.Minute}, a)
		results := send(t.Context(), g, 10)
		time.Sleep(time.Second)
		a.set(nil, outcome{code: 503})
		time.Sleep(3 * time.Second)
		if got := p.Stats()[0].State; got != Down {
			t.Errorf("got %v, want down", got)
		}
		a.set(nil, ok)
		for range 10 {
			if r := <-results; r.status != 200 || r.after > 4*time.Second+2*slowPause {
				t.Errorf("got %d (%v) after %v", r.status, r.err, r.after)
			}
		}
		p.Close()
	})
}
