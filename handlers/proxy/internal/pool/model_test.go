package pool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"example.com/baton/handlers/proxy/internal/transport"
)

// chaos is a backend that does anything. It counts what it gets.
type chaos struct {
	t      *testing.T
	mu     *sync.Mutex
	random *rand.Rand
	got    map[string]int // times that a request has reached one of the backends, by id
	refuse bool
}

// roll returns a number below n, and whether the backend refuses connections at the moment.
func (c *chaos) roll(n int) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.random.IntN(20) == 0 {
		c.refuse = !c.refuse
	}
	return c.random.IntN(n), c.refuse
}

func (c *chaos) RoundTrip(r *http.Request) (*http.Response, error) {
	part, refuses := c.roll(1000)
	what, _ := c.roll(20)
	switch {
	case r.Context().Err() != nil:
		return nil, failure{transport.Aborted, r.Context().Err()}
	case refuses:
		return nil, errRefused
	case what == 0:
		return nil, errHandshake
	case what == 1:
		return nil, errNoFiles
	case what == 2:
		time.Sleep(5 * time.Second)
		return nil, errDialTimeout
	}
	id := r.Header.Get("Id")
	c.mu.Lock()
	c.got[id]++
	c.mu.Unlock()
	time.Sleep(time.Duration(part) * time.Millisecond)
	if what < 7 { // it is lost, with a part of its body
		if r.Body != nil {
			io.CopyN(io.Discard, r.Body, int64(part*part/5))
		}
		return nil, []error{errLost, errLost, errLost, errJunk}[what-3]
	}
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if sum := sha256.Sum256(body); err != nil || fmt.Sprintf("%x", sum) != r.Header.Get("Hash") {
			c.t.Errorf("%s: got %d bytes (%v), or others", id, len(body), err)
		}
	}
	response := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}
	if what == 7 {
		response.StatusCode, response.Close = 503, true
	}
	return response, nil
}

func (c *chaos) Probe(context.Context) error {
	if what, refuses := c.roll(10); refuses || what == 0 {
		return errRefused
	}
	return nil
}

func (c *chaos) KeepIdle(bool) {}

// Whatever backends do, every request ends in time, none that must not be is delivered twice, all
// bodies that come whole are those of the clients, and nothing is left.
func TestAnything(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) { anything(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func anything(t *testing.T, seed uint64) {
	random, mu, got := rand.New(rand.NewPCG(seed, 1)), new(sync.Mutex), make(map[string]int)
	options := Options{Wait: time.Duration(random.IntN(10)) * time.Second, Logger: discard}
	if random.IntN(3) == 0 {
		options.HealthPath = "/health"
	}
	var indices []int
	for i := range 1 + random.IntN(3) {
		options.Backends = append(options.Backends, Backend{Name: fmt.Sprint(i), URL: "http://a", Transport: &chaos{t: t, mu: mu, random: random, got: got}})
		indices = append(indices, i)
	}
	p, _ := newPool(t, options)
	g := p.Group(indices...)
	var clients sync.WaitGroup
	for i := range 60 {
		clients.Go(func() {
			mu.Lock()
			method := []string{"GET", "POST", "PUT", "PATCH"}[random.IntN(4)]
			body := bytes.Repeat([]byte{byte(random.Uint32()), byte(i)}, random.IntN(100_000))
			start, patience := random.IntN(20_000), time.Hour
			if random.IntN(4) == 0 {
				patience = time.Duration(random.IntN(5000)) * time.Millisecond
			}
			mu.Unlock()
			time.Sleep(time.Duration(start) * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			r, _ := http.NewRequestWithContext(ctx, method, "http://a/", nil)
			r.Header.Set("Id", fmt.Sprintf("%s %d", method, i))
			if method != "GET" {
				r.Body = io.NopCloser(iotest.HalfReader(bytes.NewReader(body)))
				r.Header.Set("Hash", fmt.Sprintf("%x", sha256.Sum256(body)))
			}
			began := time.Now()
			_, lease, err := g.RoundTrip(r)
			lease.End()
			// Four times it may be sent, and wait before each; two dials may take their time.
			if took, most := time.Since(began), 5*(options.Wait+20*time.Second); took > most {
				t.Errorf("%s: took %v (%v), at most %v", r.Header.Get("Id"), took, err, most)
			}
		})
	}
	clients.Wait()
	p.Close()
	for id, times := range got {
		if id != "" && (times > 1+maxRepeats || times > 1 && (id[:2] == "PO" || id[:2] == "PA")) { // "": health checks
			t.Errorf("%s was delivered %d times", id, times)
		}
	}
	for i, s := range p.Stats() {
		if s.InProgress != 0 || p.backends[i].waiting != 0 || p.Waiting() != 0 {
			t.Errorf("backend %d: %+v, %d wait", i, s, p.backends[i].waiting)
		}
	}
}

// What it costs when all is well.
func BenchmarkRoundTrip(b *testing.B) {
	var fakes []Backend
	for range 3 {
		fakes = append(fakes, Backend{Transport: instant{}})
	}
	p := New(Options{Backends: fakes, Wait: time.Second, Logger: discard})
	defer p.Close()
	g := p.Group(0, 1, 2)
	r, _ := http.NewRequestWithContext(b.Context(), "GET", "http://a/", nil)
	b.ReportAllocs()
	for b.Loop() {
		_, lease, _ := g.RoundTrip(r)
		lease.End()
	}
}

type instant struct{}

var answer = &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}

func (instant) RoundTrip(*http.Request) (*http.Response, error) { return answer, nil }
func (instant) Probe(context.Context) error                     { return nil }
func (instant) KeepIdle(bool)                                   {}
