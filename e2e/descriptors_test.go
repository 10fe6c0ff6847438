package e2e

import (
	"syscall"
	"testing"
	"time"
)

// descriptorLimit bounds how many the service may have.
func descriptorLimit(n int) option {
	return func(s *setup) { s.descriptors = n }
}

// Whatever clients hold, the service can be asked, upgraded and stopped.
func TestClientsHoldAllDescriptors(t *testing.T) {
	t.Parallel()
	const limit = 256
	for name, use := range map[string]func(t *testing.T, c *conn){
		"by connections that send nothing": func(*testing.T, *conn) {},
		"by requests that are proxied":     func(t *testing.T, c *conn) { c.send(t, string(request("GET", "/hold", nil))) },
		"by halves of a request":           func(t *testing.T, c *conn) { c.send(t, "GET / HTTP/1.1\r\nHost:") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			b := start(t, descriptorLimit(limit), args("-proxy", "/="+backend(t, g), "-idle-grace", "50ms", "-drain-timeout", "2s", "-read-header-timeout", "1m"))
			for n := 2; n <= 3; n++ {
				var all []*conn
				for range 2 * limit { // most of them wait to be accepted
					c := b.Dial()
					all = append(all, c)
					use(t, c)
				}
				await(t, 20*time.Second, "a shortage", func() bool {
					accepted := b.Metric("baton_connections_accepted_total")
					time.Sleep(100 * time.Millisecond)
					return accepted > 50 && b.Metric("baton_connections_accepted_total") == accepted
				})
				if code, _, stderr := b.run("status", "-control", b.Control); code != 0 {
					t.Errorf("status: got exit code %d, %s", code, stderr)
				}
				if got := b.probe("/readyz"); got != 200 {
					t.Errorf("/readyz: got %d, want 200", got)
				}
				if n == 2 {
					b.Upgrade("-timeout", "30s")
				} else {
					b.Signal(syscall.SIGHUP)
					b.AwaitGeneration(n, 20*time.Second)
				}
				for _, c := range all {
					c.Close()
				}
				await(t, 20*time.Second, "an answer", func() bool {
					resp, err := fetch(b.Network, b.Address, "GET", "/")
					return err == nil && resp.Status == 200
				})
			}
		})
	}
}

// A connection that is idle makes room for a client that waits; one with a request does not.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := start(t, descriptorLimit(256), args("-proxy", "/="+backend(t, g)))
	busy := b.Dial()
	busy.send(t, string(request("GET", "/hold", nil)))
	g.await(t, 1)
	for range 300 { // each leaves an idle connection behind
		c := b.Dial()
		c.send(t, string(request("GET", "/", nil)))
		if resp := c.expect(t, "GET", 200); resp.Close {
			t.Fatal("got Connection: close")
		}
	}
	g.open()
	busy.expect(t, "GET", 200)
}
