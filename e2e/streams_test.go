// What lasts longer than a request: WebSockets through the proxy, and the live page.
package e2e

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// webSocketEcho is a backend that says what it hears.
func webSocketEcho(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/ws" {
		http.NotFound(w, r)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// dialWebSocket connects, and returns a way to say something and hear it again.
func dialWebSocket(t *testing.T, b *Baton) (c *websocket.Conn, say func(string) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+b.Address+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	say = func(s string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Write(ctx, websocket.MessageText, []byte(s)); err != nil {
			return err
		}
		_, heard, err := c.Read(ctx)
		if err == nil && string(heard) != s {
			t.Errorf("message: got %q, want %q", heard, s)
		}
		return err
	}
	if err := say("first"); err != nil {
		t.Fatal(err)
	}
	return c, say
}

func TestWebSocketThroughAnUpgrade(t *testing.T) {
	t.Parallel()
	b := start(t, args("-proxy", "/="+backend(t, http.HandlerFunc(webSocketEcho)), "-idle-grace", "200ms"))
	c, say := dialWebSocket(t, b)
	pid := b.PID()
	result := upgradeInBackground(t, b)
	awaitDrain(t, b)
	// Well beyond the grace: a conversation is not an idle connection.
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		if err := say("still there?"); err != nil {
			t.Fatalf("message in the drain: %v", err)
		}
	}
	if !b.follow(pid).alive() {
		t.Error("predecessor: gone under its WebSocket")
	}
	_, other := dialWebSocket(t, b)
	if err := other("to the successor"); err != nil {
		t.Errorf("new WebSocket: %v", err)
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v, want the close frame answered", err)
	}
	b.awaitExit(pid, 3*time.Second)
	if u := result(); u.Predecessor.Connections.Cut != 0 {
		t.Errorf("report of the drain: got %+v, want nothing cut", u.Predecessor)
	}
	if err := other("on it goes"); err != nil {
		t.Errorf("WebSocket of the successor: %v", err)
	}
}

func TestWebSocketAtTheDrainDeadline(t *testing.T) {
	tests := []struct {
		name string
		end  func(b *Baton)
	}{
		{"upgrade", func(b *Baton) { b.Upgrade() }},
		{"stop", func(b *Baton) { b.Signal(syscall.SIGTERM) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, args("-proxy", "/="+backend(t, http.HandlerFunc(webSocketEcho)), "-idle-grace", "200ms", "-drain-timeout", "1s"))
			_, say := dialWebSocket(t, b)
			pid, began := b.PID(), time.Now()
			tt.end(b)
			for say("until the deadline") == nil {
				if time.Since(began) > 5*time.Second {
					t.Fatal("WebSocket: alive 5 s after the drain began, with a deadline of 1 s")
				}
			}
			if took := time.Since(began); took < 900*time.Millisecond {
				t.Errorf("WebSocket ended after %v, want the deadline of 1 s", took)
			}
			if p := b.awaitExit(pid, 3*time.Second); p.known && p.outcome() != "exit status 0" {
				t.Errorf("process: got %s, want exit status 0", p.outcome())
			}
		})
	}
}

// Pages that are being watched do not hold a drain: they are told, end in order, and come back to the successor.
func TestLivePageEndsAtTheDrain(t *testing.T) {
	t.Parallel()
	b := start(t, args("-drain-timeout", "10s"))
	pid := b.PID()
	c := b.Dial()
	c.send(t, string(request("GET", "/events", nil, "Accept: text/event-stream")))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var resp response
	if err := c.readHead(&resp); err != nil {
		t.Fatal(err)
	}
	if resp.Status != 200 || !strings.HasPrefix(resp.Header("Content-Type"), "text/event-stream") {
		t.Fatalf("events: got %d, %s", resp.Status, resp.Header("Content-Type"))
	}
	// The first event is there before anything happens.
	if line, err := c.r.Peek(1); err != nil {
		t.Fatalf("first event: %q, %v", line, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.readChunks(&resp) }()
	result := upgradeInBackground(t, b)
	began := time.Now()
	if err := <-ended; err != nil {
		t.Errorf("stream: %v, want an end in order, with the last chunk", err)
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("stream ended %v after the successor served, want at once", took)
	}
	b.awaitExit(pid, defaultGrace+slack)
	if u := result(); u.Predecessor.Connections.Cut != 0 {
		t.Errorf("report of the drain: got %+v, want nothing cut", u.Predecessor.Connections)
	}
	again := b.Dial()
	again.send(t, string(request("GET", "/events", nil, "Accept: text/event-stream")))
	again.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err := again.readHead(&resp); err != nil || resp.Status != 200 {
		t.Fatalf("events of the successor: got %d, %v", resp.Status, err)
	}
	for lines := bufio.NewScanner(again.r); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data:") {
			if !strings.Contains(lines.Text(), `"generation":2`) {
				t.Errorf("event of the successor: got %s, want generation 2", lines.Text())
			}
			break
		}
	}
}

// A backend that streams without an end is not cut before the deadline, and its client sees that the body is not whole.
func TestEndlessStreamIsCutAtTheDeadline(t *testing.T) {
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
	b := start(t, args("-proxy", "/="+backend(t, endless), "-drain-timeout", "1s", "-idle-grace", "100ms"))
	c := b.Dial()
	c.send(t, string(request("GET", "/", nil)))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	u := b.Upgrade()
	var resp response
	if err := c.receive("GET", &resp); err == nil {
		t.Error("stream that was cut: got an end in order, want the body to be seen as truncated")
	}
	if len(resp.Body) == 0 {
		t.Error("stream: got nothing of its body")
	}
	if took := time.Since(began); took < 900*time.Millisecond || u.Predecessor.Connections.Cut != 1 {
		t.Errorf("cut after %v, report %+v, want 1 cut after the deadline of 1 s", took, u.Predecessor.Connections)
	}
}
