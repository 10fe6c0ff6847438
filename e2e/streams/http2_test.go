package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// heard is what has come of a response, and when.
type heard struct {
	body []byte
	err  error // nil: it ended in order
	at   time.Time
}

// begin returns a client that makes requests on one connection, as long as it may.
func begin(o service.Over, t testing.TB, b *service.Baton) (begin func(path string, fields ...string) (end <-chan heard)) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: o.Config, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP2(o.Config != nil)
	transport.Protocols.SetUnencryptedHTTP2(o.Config == nil)
	t.Cleanup(transport.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return func(path string, fields ...string) <-chan heard {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, "GET", o.URL("http", b, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(fields); i += 2 {
			r.Header.Set(fields[i], fields[i+1])
		}
		ended := make(chan heard, 1)
		go func() {
			var h heard
			resp, err := transport.RoundTrip(r)
			if h.err = err; err == nil {
				h.body, h.err = io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
					h.err = errors.Join(h.err, fmt.Errorf("got %s %s", resp.Proto, resp.Status))
				}
			}
			h.at = time.Now()
			ended <- h
		}()
		return ended
	}
}

// Streams of one connection of HTTP/2 end each in its time and in order, while others of it go on.
func TestStreamsOfHTTP2(t *testing.T) {
	t.Parallel()
	const grace = 500 * time.Millisecond
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "prior knowledge", true: "TLS"}[secure], func(t *testing.T) {
			t.Parallel()
			held := backend.NewGate(t)
			way, clientsWay := service.PlainOrSecured(t, secure)
			b := service.Start(t, way, service.Args("-idle-grace", "100ms", "-stream-grace", grace.String(), "-proxy", "/begun="+backend.Start(t, held), "-proxy", "/numbers="+backend.Start(t, http.HandlerFunc(numbers))))
			pid := b.PID()
			begin := begin(clientsWay, t, b)
			waiting := begin("/begun")
			held.Await(t, 1)
			stream := begin("/numbers")
			await.Until(t, "two requests on one connection", func() bool {
				g := b.Status().Generations[0]
				return g.RequestsInFlight == 2 && g.Connections.Active == 1 && g.Connections.New+g.Connections.Idle == 0
			})
			asked := time.Now() // before the drain can have begun
			result := b.UpgradeMeanwhile()
			await.Until(t, "drain", func() bool { return strings.Contains(b.Log(), `"to":"draining"`) })
			began := time.Now()
			end := <-stream
			if took := end.at.Sub(began); end.err != nil || end.at.Sub(asked) < grace || took > grace+100*time.Millisecond+service.Slack {
				t.Errorf("stream of the backend: %v after %v, want its end in order after %v", end.err, took, grace)
			}
			if !bytes.HasSuffix(end.body, []byte(" }\n\n")) {
				t.Errorf("stream ended with %q, want a whole event", service.Tail(string(end.body), 3))
			}
			next := bytes.Count(end.body, []byte("id: ")) + 1
			again := begin("/numbers", "Last-Event-ID", fmt.Sprint(next-1)) // to the successor, on another connection
			await.Until(t, "stream of the successor", func() bool {
				for _, g := range b.Status().Generations {
					if g.PID != pid && g.RequestsInFlight == 1 {
						return true
					}
				}
				return false
			})
			await.Throughout(t, 200*time.Millisecond, "predecessor, which has an answer to give", func() bool { return b.Follow(pid).Alive() })
			held.Open()
			if end := <-waiting; end.err != nil {
				t.Errorf("request under way: %v", end.err)
			}
			if p := result().Predecessor; p.RequestsFinished != 2 || p.Connections.Cut+p.Connections.Error+p.Connections.Timeout != 0 || p.Connections.Announced+p.Connections.Client != 1 {
				t.Errorf("report of the drain: got %+v, want two requests finished, and their connection closed in order", p)
			}
			result = b.UpgradeMeanwhile()
			if end := <-again; end.err != nil || !bytes.HasPrefix(end.body, fmt.Appendf(nil, "retry: 50\n\nid: %d\n", next)) {
				t.Errorf("stream of the successor: got %.40q, %v, want it from event %d on, and its end in order", end.body, end.err, next)
			}
			result()
		})
	}
}

// A backend that streams without an end is not cut before the deadline, and its client sees that the body is not whole.
func TestEndlessStreamIsCutAtTheDeadline(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				io.WriteString(w, "on and on\n")
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, endless), "-drain-timeout", "1s", "-idle-grace", "100ms"))
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/", nil)))
	c.SetReadDeadline(time.Now().Add(await.Hang))
	if _, err := c.R.Peek(1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	u := b.Upgrade()
	var resp http1.Response
	if err := c.Receive("GET", &resp); err == nil {
		t.Error("stream that was cut: got an end in order, want the body to be seen as truncated")
	}
	if len(resp.Body) == 0 {
		t.Error("stream: got nothing of its body")
	}
	if took := time.Since(began); took < 900*time.Millisecond || u.Predecessor.Connections.Cut != 1 {
		t.Errorf("closed after %v, report %+v, want 1 closed forcibly after the deadline of 1 s", took, u.Predecessor.Connections)
	}
}
