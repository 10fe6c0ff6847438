package limits

import (
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// descriptorLimit bounds how many the service may have.
func descriptorLimit(n int) service.Option {
	return func(s *service.Setup) { s.Descriptors = n }
}

// Whatever clients hold, the service can be asked, upgraded and stopped.
func TestClientsHoldAllDescriptors(t *testing.T) {
	tier.Slow(t, "takes all descriptors of a service")
	t.Parallel()
	const limit = 256
	for name, use := range map[string]func(t *testing.T, c *http1.Conn){
		"by connections that send nothing": func(*testing.T, *http1.Conn) {},
		"by requests that are proxied":     func(t *testing.T, c *http1.Conn) { c.Send(t, string(http1.Request("GET", "/hold", nil))) },
		"by halves of a request":           func(t *testing.T, c *http1.Conn) { c.Send(t, "GET / HTTP/1.1\r\nHost:") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := backend.NewGate(t)
			b := service.Start(t, descriptorLimit(limit), service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", "50ms", "-drain-timeout", "2s", "-read-header-timeout", "1m"))
			for n := 2; n <= 3; n++ {
				var all []*http1.Conn
				for range 2 * limit { // most of them wait to be accepted
					c := b.Dial()
					all = append(all, c)
					use(t, c)
				}
				await.Until(t, "a shortage", func() bool {
					accepted := b.Metric("baton_connections_accepted_total")
					time.Sleep(100 * time.Millisecond)
					return accepted > 50 && b.Metric("baton_connections_accepted_total") == accepted
				})
				if code, _, stderr := b.Run("status", "-control", b.Control); code != 0 {
					t.Errorf("status: got exit code %d, %s", code, stderr)
				}
				if got := b.Probe("/readyz"); got != 200 {
					t.Errorf("/readyz: got %d, want 200", got)
				}
				if n == 2 {
					b.Upgrade("-timeout", "30s")
				} else {
					b.Signal(syscall.SIGHUP)
					b.AwaitGeneration(n)
				}
				for _, c := range all {
					c.Close()
				}
				await.Until(t, "an answer", func() bool {
					resp, err := http1.Fetch(b.Network, b.Address, "GET", "/")
					return err == nil && resp.Status == 200
				})
			}
		})
	}
}

// A connection that is idle makes room for a client that waits; one with a request does not.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	tier.Slow(t, "opens many connections")
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, descriptorLimit(256), service.Args("-proxy", "/="+backend.Start(t, g)))
	busy := b.Dial()
	busy.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	for range 300 { // each leaves an idle connection behind
		c := b.Dial()
		c.Send(t, string(http1.Request("GET", "/", nil)))
		if resp := c.Expect(t, "GET", 200); resp.Close {
			t.Fatal("got Connection: close")
		}
	}
	g.Open()
	busy.Expect(t, "GET", 200)
}
