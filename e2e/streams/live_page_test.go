package streams

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Pages that are being watched do not hold a drain: their streams end, and the next ones, on the same connection, are the
// successor's.
func TestLivePageEndsAtTheDrain(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/2", true: "HTTP/2 over TLS"}[secure], func(t *testing.T) {
			t.Parallel()
			if secure {
				tier.Slow(t, "waits for longer than an event may take")
			}
			way, clientsWay := service.PlainOrSecured(t, secure)
			b := service.Start(t, way)
			page := begin(clientsWay, t, b)("/events")
			lives := func() bool { return b.Status().Generations[0].RequestsInFlight == 1 }
			await.Until(t, "request", lives)
			if secure { // the time that a client has to take an event is no bound for the stream
				await.Throughout(t, 3500*time.Millisecond, "stream, of which nothing is wanted yet", lives)
			}
			result := b.UpgradeMeanwhile()
			await.Until(t, "drain", func() bool { return strings.Contains(b.Log(), `"to":"draining"`) })
			began := time.Now()
			if end := <-page; end.err != nil || !bytes.HasSuffix(end.body, []byte("\n\n")) || end.at.Sub(began) > 100*time.Millisecond+service.Slack {
				t.Errorf("got %q, %v, after %v, want its end in order at once", end.body, end.err, end.at.Sub(began))
			}
			if p := result().Predecessor; p.RequestsFinished != 1 || p.Moved+p.Connections.Announced+p.Connections.Client != 1 || p.DrainSeconds > 2+service.Slack.Seconds() {
				t.Errorf("report of the drain: got %+v, want one request finished, and its connection migrated, or closed in order, soon", p)
			}
		})
	}
	t.Run("HTTP/1.1", livePageEndsAtTheDrain)
}

func livePageEndsAtTheDrain(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Args("-drain-timeout", "1h"))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/events", nil, "Accept: text/event-stream")))
	c.SetReadDeadline(time.Now().Add(await.Hang))
	var resp http1.Response
	if err := c.ReadHead(&resp); err != nil {
		t.Fatal(err)
	}
	if resp.Status != 200 || !strings.HasPrefix(resp.Header("Content-Type"), "text/event-stream") {
		t.Fatalf("events: got %d, %s", resp.Status, resp.Header("Content-Type"))
	}
	// The first event is there before anything happens.
	if line, err := c.R.Peek(1); err != nil {
		t.Fatalf("first event: %q, %v", line, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.ReadChunks(&resp) }()
	result := service.UpgradeInBackground(t, b)
	if err := <-ended; err != nil {
		t.Errorf("stream: %v, want an end in order, with the last chunk", err)
	}
	b.AwaitExit(pid)
	if p := result().Predecessor; p.Connections != (service.Connections{}) || p.Moved != 1 {
		t.Errorf("report of the drain: got %+v, want the connection migrated", p)
	}
	c.Send(t, string(http1.Request("GET", "/events", nil, "Accept: text/event-stream")))
	if err := c.ReadHead(&resp); err != nil || resp.Status != 200 {
		t.Fatalf("events of the successor: got %d, %v", resp.Status, err)
	}
	for lines := bufio.NewScanner(c.R); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data:") {
			if !strings.Contains(lines.Text(), `"generation":2`) {
				t.Errorf("event of the successor: got %s, want generation 2", lines.Text())
			}
			break
		}
	}
}
