package clients

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

var h2loadSummary = regexp.MustCompile(`requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)

// h2load never connects again: each of its requests is answered only if its connections outlive every upgrade.
func TestH2load(t *testing.T) {
	tier.Slow(t, "asks another program to be the client")
	t.Parallel()
	path := tier.Tool(t, "h2load")
	upgrades := *tier.Soak
	if upgrades == 0 {
		upgrades = tier.Times(t, "upgrades", 1, 3, 5)
	}
	for _, way := range []struct {
		name   string
		scheme string
		args   []string
	}{
		{"HTTP/1.1", "http", []string{"--h1", "-m", "1"}},
		{"HTTP/1.1 over TLS", "https", []string{"--h1", "-m", "1"}},
		{"HTTP/2", "http", nil},
		{"HTTP/2 over TLS", "https", nil},
		{"HTTP/2 over TLS with ChaCha20", "https", []string{"--tls13-ciphers=TLS_CHACHA20_POLY1305_SHA256"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			address := s.Address
			if way.scheme == "https" {
				address = s.Secure()
			}
			const clients = 10
			requests := 90 * upgrades
			if *tier.Soak > 0 && !slices.Contains(way.args, "--h1") {
				// An upgrade takes longer with streams that overlap, as each connection waits for a moment without any.
				requests *= 8
			}
			var out bytes.Buffer
			url := way.scheme + "://" + address
			cmd := exec.Command(path, append([]string{"-m", "3", "-c", strconv.Itoa(clients), "-n", strconv.Itoa(requests)}, append(way.args,
				url+"/fixed/1000", url+"/drip/20000", url+"/drip/200000")...)...)
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			t.Cleanup(func() { cmd.Process.Kill() })
			await.Until(t, "connections", func() bool { return s.Connections() == clients })
			made, running := 0, true
			for ; running && made < upgrades; made++ {
				select {
				case err := <-done:
					done <- err
					running = false
					continue
				default:
				}
				u := s.Upgrade()
				// It closes a connection when it has no more to ask on it.
				if c := u.Predecessor.Connections; c != (service.Connections{Client: c.Client}) {
					t.Errorf("upgrade %d: closed %+v, want all migrated", made+1, c)
				}
			}
			if err := <-done; err != nil {
				t.Errorf("h2load: %v", err)
			}
			m := h2loadSummary.FindStringSubmatch(out.String())
			if m == nil {
				t.Fatalf("no summary in\n%s", &out)
			}
			if m[4] != m[1] || m[5]+m[6]+m[7] != "000" || made == 0 {
				t.Errorf("%d upgrades: got\n%s\nwant all requests answered", made, &out)
			}
			if got := s.Metric("baton_connections_accepted_total"); got != clients {
				t.Errorf("connections accepted: got %v, want %d", got, clients)
			}
			t.Logf("%d upgrades: %s", made, m[0])
		})
	}
}
