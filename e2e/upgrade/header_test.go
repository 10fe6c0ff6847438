package upgrade

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Partial requests at the start of a drain.
func TestHalfARequestInTheDrain(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	for _, migrate := range []bool{true, false} {
		t.Run(fmt.Sprintf("migrate=%v", migrate), func(t *testing.T) { halfARequest(t, migrate) })
	}
}

func halfARequest(t *testing.T, migrate bool) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "1s", "-drain-timeout", "5s", fmt.Sprintf("-migrate=%v", migrate)))
	half, slow, lost := b.Dial(), b.Dial(), b.Dial()
	whole := string(http1.Request("GET", "/100.bin", nil))
	half.Send(t, whole[:len(whole)-2]) // all but the last line
	slow.Send(t, whole[:8])
	lost.Send(t, whole[:8])
	await.Until(t, "the bytes to be read", func() bool { return b.Metric("baton_connections", "state", "new") >= 3 })
	result := service.UpgradeInBackground(t, b)
	service.AwaitDrain(t, b)
	half.Send(t, whole[len(whole)-2:])
	slow.Send(t, whole[8:])
	for name, c := range map[string]*http1.Conn{"header without its end": half, "half a request line": slow} {
		if resp := c.Expect(t, "GET", 200); resp.Close != !migrate {
			t.Errorf("%s, finished in the drain: got close %v, want %v", name, resp.Close, !migrate)
		}
	}
	u := result()
	if u.Predecessor.DrainSeconds > 5+service.Slack.Seconds() {
		t.Errorf("drain: got %v s, want the deadline of 5 s at most", u.Predecessor.DrainSeconds)
	}
	// Never finished: an answer or an end, but no open connection.
	lost.SetReadDeadline(time.Now().Add(await.Hang))
	if _, err := io.Copy(io.Discard, lost.R); http1.EndingOf(err) == http1.StillOn {
		t.Error("request that is never finished: connection still open after the drain")
	}
}

// One byte at a time: the header timeout ends it, or the drain deadline if that comes first.
func TestSlowHeader(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	tests := []struct {
		name  string
		flags []string
		drain bool
	}{
		{"header timeout", []string{"-read-header-timeout", "1s"}, false},
		{"drain deadline", []string{"-read-header-timeout", "1h", "-drain-timeout", "1s", "-idle-grace", "200ms"}, true},
		{"header timeout in the drain", []string{"-read-header-timeout", "1s", "-drain-timeout", "1h", "-idle-grace", "200ms"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Args(tt.flags...))
			c := b.Dial()
			ended, stop := make(chan http1.Ending, 1), make(chan struct{})
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(stop)
			wg.Go(func() {
				drip := time.NewTicker(100 * time.Millisecond)
				defer drip.Stop()
				for _, char := range []byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 4000)) {
					if _, err := c.Write([]byte{char}); err != nil {
						return
					}
					select {
					case <-drip.C:
					case <-stop:
						return
					}
				}
			})
			wg.Go(func() {
				c.SetReadDeadline(time.Now().Add(await.Hang))
				_, err := io.Copy(io.Discard, c.R)
				ended <- http1.EndingOf(err)
			})
			if tt.drain {
				b.Upgrade()
			}
			if <-ended == http1.StillOn {
				t.Error("connection: still open")
			}
		})
	}
}
