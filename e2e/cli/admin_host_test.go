package cli

import (
	"fmt"
	"testing"

	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
)

// The admin listener and the names by which it is asked.

// A web page whose name leads to the admin listener (DNS rebinding) reads nothing there.
func TestAdminHostNames(t *testing.T) {
	t.Parallel()
	b := service.Start(t)
	for host, want := range map[string]int{
		b.Admin: 200, "localhost:9180": 200, "[::1]:9180": 200, "baton": 200,
		"evil.example:9180": 421, "localhost.evil.example": 421, b.Host + ".evil.example": 421, "evil.example/localhost": 400,
	} {
		for _, path := range []string{"/", "/status", "/metrics"} {
			c := http1.MustDial(t, "tcp", b.Admin)
			c.Send(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host))
			var resp http1.Response
			if err := c.ReadHead(&resp); err != nil || resp.Status != want {
				t.Errorf("%s of %s: got %d, %v, want %d", path, host, resp.Status, err, want)
			}
			c.Close()
		}
	}
}
