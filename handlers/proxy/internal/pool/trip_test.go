package pool

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What is sent where, and what the client gets. The cases are those that nginx's tests of
// proxy_next_upstream and proxy_non_idempotent and HAProxy's of retries, redispatch and retry-on
// are about, where they say something about what Baton does by itself.
func TestRetries(t *testing.T) {
	for _, test := range []struct {
		name      string
		method    string
		body      int
		backends  [][]outcome
		want      int
		delivered []int // times
	}{
		{"nginx: error of a connect, GET", "GET", 0, [][]outcome{{refuse}, {ok}}, 200, []int{0, 1}},
		{"nginx: error of a connect, POST", "POST", 10, [][]outcome{{refuse}, {ok}}, 200, []int{0, 1}},
		{"nginx: error of a connect, large POST", "POST", 1 << 20, [][]outcome{{refuse}, {ok}}, 200, []int{0, 1}},
		{"nginx: timeout of a connect", "POST", 10, [][]outcome{{{err: errDialTimeout}}, {ok}}, 200, []int{0, 1}},
		{"nginx: closed before a response, GET", "GET", 0, [][]outcome{{lose}, {ok}}, 200, []int{1, 1}},
		{"nginx: closed before a response, POST", "POST", 10, [][]outcome{{lose}, {ok}}, 502, []int{1, 0}},
		{"nginx: non-idempotent, LOCK", "LOCK", 0, [][]outcome{{lose}, {ok}}, 502, []int{1, 0}},
		{"nginx: non-idempotent, PATCH", "PATCH", 10, [][]outcome{{lose}, {ok}}, 502, []int{1, 0}},
		{"nginx: idempotent, PUT", "PUT", 10, [][]outcome{{lose}, {ok}}, 200, []int{1, 1}},
		{"nginx: idempotent, DELETE", "DELETE", 0, [][]outcome{{lose}, {ok}}, 200, []int{1, 1}},
		{"nginx: without http_500 it passes", "GET", 0, [][]outcome{{{code: 500}}, {ok}}, 500, []int{1, 0}},
		{"nginx: without http_503 it passes", "GET", 0, [][]outcome{{{code: 503}}, {ok}}, 503, []int{1, 0}},
		{"nginx: without http_404 it passes", "GET", 0, [][]outcome{{{code: 404}}, {ok}}, 404, []int{1, 0}},
		{"nginx: without invalid_header it is 502", "GET", 0, [][]outcome{{{err: errJunk}}, {ok}}, 502, []int{1, 0}},
		{"nginx: a body that is not buffered, and partly sent", "PUT", 1 << 20, [][]outcome{{{err: errLost, reads: 100 << 10}}, {ok}}, 502, []int{1, 0}},
		{"nginx: tries are bounded", "GET", 0, [][]outcome{{lose}, {lose}, {lose}}, 502, []int{2, 1, 1}},
		{"nginx: all refuse", "GET", 0, [][]outcome{{refuse}, {refuse}}, 503, []int{0, 0}},
		{"nginx: all have lost their sockets", "GET", 0, [][]outcome{{{err: errNoSocket}}, {{err: errNoSocket}}}, 503, []int{0, 0}},
		{"HAProxy: conn-failure, the same server", "POST", 10, [][]outcome{{handshake, ok}}, 200, []int{1}},
		{"HAProxy: redispatch", "POST", 10, [][]outcome{{handshake}, {ok}}, 200, []int{0, 1}},
		{"HAProxy: empty-response, the same server", "GET", 0, [][]outcome{{lose, ok}}, 200, []int{2}},
		{"HAProxy: empty-response, POST", "POST", 10, [][]outcome{{lose, ok}}, 502, []int{1}},
		{"HAProxy: empty-response, retries are used up", "GET", 0, [][]outcome{{lose}}, 502, []int{1 + maxRepeats}},
		{"HAProxy: a body that fits a buffer", "PUT", MaxReplay - 1, [][]outcome{{lose, ok}}, 200, []int{2}},
		{"HAProxy: a larger body", "PUT", MaxReplay + 1, [][]outcome{{lose, ok}}, 502, []int{1}},
		{"HAProxy: a larger body of which little was sent", "PUT", 1 << 20, [][]outcome{{{err: errLost, reads: 10}, ok}}, 200, []int{2}},
		{"HAProxy: junk-response", "GET", 0, [][]outcome{{{err: errJunk}, ok}}, 502, []int{1}},
		{"response-timeout: it may still be at work", "GET", 0, [][]outcome{{{err: errSilent}}, {ok}}, 504, []int{1, 0}},
		{"sent, and then nobody is there", "GET", 0, [][]outcome{{lose, refuse}}, 503, []int{1}},
		{"sent, then refused, then there", "GET", 0, [][]outcome{{lose, refuse, ok}}, 200, []int{2}},
		{"somebody is there, who has no TLS", "GET", 0, [][]outcome{{refuse}, {handshake}}, 502, []int{0, 0}},
		{"nobody in time", "GET", 0, [][]outcome{{refuse}, {{err: errDialTimeout}}}, 504, []int{0, 0}},
		{"no descriptors here, for a moment", "POST", 10, [][]outcome{{{err: errNoFiles}, ok}}, 200, []int{1}},
		{"no descriptors here", "POST", 10, [][]outcome{{{err: errNoFiles}}}, 502, []int{0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var fakes []*fake
				for _, outcomes := range test.backends {
					f := &fake{outcomes: outcomes}
					if last := outcomes[len(outcomes)-1]; progressOf(last.err) != 0 {
						f.probe = last.err
					}
					fakes = append(fakes, f)
				}
				p, g := newPool(t, Options{Wait: 5 * time.Second}, fakes...)
				body := bytes.Repeat([]byte("0123456789abcdef"), test.body/16+1)[:test.body]
				request, _ := http.NewRequestWithContext(t.Context(), test.method, "http://a/", nil)
				if test.body > 0 {
					request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
				}
				began := time.Now()
				response, lease, err := g.RoundTrip(request)
				if got := statusOf(response, err); got != test.want {
					t.Errorf("got %d (%v), want %d", got, err, test.want)
				}
				if took := time.Since(began); took > 11*time.Second {
					t.Errorf("took %v", took)
				}
				for i, f := range fakes {
					if f.deliveries() != test.delivered[i] {
						t.Errorf("backend %d: got it %d times, want %d", i, f.deliveries(), test.delivered[i])
					}
				}
				if err == nil && test.want == 200 {
					checkBody(t, fakes, lease.Backend(), body)
				}
				lease.End()
				for i, s := range p.Stats() {
					if s.InProgress != 0 {
						t.Errorf("backend %d: %d in progress", i, s.InProgress)
					}
				}
				if p.Waiting() != 0 {
					t.Errorf("%d wait", p.Waiting())
				}
			})
		})
	}
}

func checkBody(t *testing.T, fakes []*fake, name string, body []byte) {
	t.Helper()
	f := fakes[name[0]-'a']
	if f.delivered[len(f.delivered)-1] != sha256.Sum256(body) {
		t.Error("the body that was answered is not the client's")
	}
}

// A backend that gets no requests has no idle connections either, for the end of which it might wait.
func TestIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fake{outcomes: []outcome{ok}}
		p, g := newPool(t, Options{Wait: time.Minute, Logger: discard}, a)
		check := func(when string, want bool) {
			t.Helper()
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.keepsNone == want {
				t.Errorf("%s: it may keep idle connections: %t, want %t", when, !a.keepsNone, want)
			}
		}
		<-send(t.Context(), g, 1)
		check("up", true)
		a.set(errRefused, refuse)
		waiting := send(t.Context(), g, 1)
		synctest.Wait()
		check("down", false)
		a.set(nil, outcome{code: 503, close: true})
		<-waiting
		check("leaving", false)
		a.set(nil, ok)
		time.Sleep(time.Minute)
		<-send(t.Context(), g, 1)
		check("up again", true)
		p.Close()
		check("closed", false)
	})
}

// attempts is a backend that loses the connection amid the body of the first request.
type attempts struct {
	fake
	trailers []http.Header // of the requests
}

func (a *attempts) RoundTrip(r *http.Request) (*http.Response, error) {
	a.trailers = append(a.trailers, r.Trailer)
	if len(a.trailers) == 1 {
		io.ReadFull(r.Body, make([]byte, 2))
		return nil, errLost
	}
	io.Copy(io.Discard, r.Body)
	return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
}

// end is called at the end of a body.
type end func()

func (e end) Read([]byte) (int, error) { e(); return 0, io.EOF }

// Trailers go into the attempt that reads the end of the body: the transport of an earlier one may still look at its own.
func TestTrailersOfAttempts(t *testing.T) {
	a := &attempts{}
	p := New(Options{Backends: []Backend{{Name: "a", URL: "http://a", Transport: a}}, Wait: time.Minute, Logger: discard})
	p.progressOf = progressOf
	t.Cleanup(p.Close)
	r, _ := http.NewRequestWithContext(t.Context(), "PUT", "http://a/", nil)
	r.Trailer, r.ContentLength = http.Header{"Sum": nil}, -1
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("body"), end(func() { r.Trailer["Sum"] = []string{"1"} })))
	_, lease, err := p.Group(0).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	lease.End()
	if got, want := fmt.Sprint(a.trailers), "[map[Sum:[]] map[Sum:[1]]]"; got != want {
		t.Errorf("got the trailers %s, want %s", got, want)
	}
}
