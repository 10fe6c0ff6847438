package streams

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// numbers is a backend that sends numbered events, twenty of them a second, and goes on after the last that its client has seen.
func numbers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	n, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	io.WriteString(w, "retry: 50\n\n")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n++
		fmt.Fprintf(w, "id: %d\ndata: {\ndata:  \"number\": %d }\n\n", n, n)
		w.(http.Flusher).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// An event stream of a backend goes on in the drain, and ends between two events. Its connection migrates: what its
// client asks for next the successor gets.
func TestEventStreamThroughTheProxyEndsInOrder(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		secure   bool
		flags    []string
		stop     bool
		from, to time.Duration
	}{
		{"at its grace", false, []string{"-stream-grace", "1s", "-drain-timeout", "20s"}, false, time.Second, 1100 * time.Millisecond},
		{"at its grace over TLS", true, []string{"-stream-grace", "1s", "-drain-timeout", "20s"}, false, time.Second, 1100 * time.Millisecond},
		{"at the deadline", false, []string{"-drain-timeout", "10s"}, false, 9 * time.Second, 9100 * time.Millisecond},
		{"at a stop", false, []string{"-drain-timeout", "10s"}, true, 9 * time.Second, 9100 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.from > time.Second {
				tier.Slow(t, "waits for the end of a drain")
			}
			way, clientsWay := service.PlainOrSecured(t, tt.secure)
			b := service.Start(t, way, service.Args(append(tt.flags, "-proxy", "/="+backend.Start(t, http.HandlerFunc(numbers)))...))
			pid := b.PID()
			c := clientsWay.Dial(t, b)
			c.Send(t, string(http1.Request("GET", "/events", nil, "Accept: text/event-stream")))
			c.SetReadDeadline(time.Now().Add(await.Hang))
			var resp http1.Response
			if err := c.ReadHead(&resp); err != nil {
				t.Fatal(err)
			}
			if _, err := c.R.Peek(1); err != nil {
				t.Fatal(err)
			}
			var result func() *service.Upgraded
			asked := time.Now() // before the drain can have begun
			if tt.stop {
				b.Signal(syscall.SIGTERM)
			} else {
				result = b.UpgradeMeanwhile()
			}
			drains := func() bool { return strings.Contains(b.Log(), `"to":"draining"`) }
			await.Until(t, "drain", drains)
			began := time.Now()
			if err := c.ReadChunks(&resp); err != nil {
				t.Fatalf("stream: %v, want an end in order, with the last chunk", err)
			}
			if took := time.Since(began); time.Since(asked) < tt.from || took > tt.to+service.Slack {
				t.Errorf("stream ended %v into the drain, want between %v and %v", took, tt.from, tt.to)
			}
			if !bytes.HasSuffix(resp.Body, []byte(" }\n\n")) {
				t.Errorf("stream ended with %q, want a whole event", service.Tail(string(resp.Body), 3))
			}
			if got, want := bytes.Count(resp.Body, []byte("id: ")), int(tt.from/(50*time.Millisecond))/10; got < want {
				t.Errorf("stream brought %d events, want %d at least", got, want)
			}
			b.AwaitExit(pid)
			if !strings.Contains(b.Log(), `"requests_finished":1`) || !strings.Contains(b.Log(), `"closed_forcibly":0`) {
				t.Error("report of the drain: want one request finished, and nothing closed forcibly")
			}
			if tt.stop {
				return
			}
			result()
			c.Send(t, string(http1.Request("GET", "/events", nil, "Last-Event-ID: 700")))
			if err := c.ReadHead(&resp); err != nil || resp.Status != 200 {
				t.Fatalf("the same connection: got %d, %v, want it at the successor", resp.Status, err)
			}
			for lines := bufio.NewScanner(c.R); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "id:") {
					if lines.Text() != "id: 701" {
						t.Errorf("first event: got %s, want 701", lines.Text())
					}
					break
				}
			}
		})
	}
}
