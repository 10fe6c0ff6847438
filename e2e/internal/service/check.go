package service

import (
	"slices"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
)

// CheckState checks that one generation, and nobody else, serves, whoever is asked.
func CheckState(t *testing.T, b *Baton, generation, pid int) {
	t.Helper()
	// A predecessor that has reported may still be about to exit.
	var s *Status
	if !await.Holds(await.Hang, func() bool {
		s = b.Status()
		return s.Generation == generation && s.PID == pid && s.State == "serving" && len(s.Generations) == 1 &&
			slices.Equal(b.Alive(), []int{pid}) && slices.Equal(process.Descendants(b.Mark), []int{pid})
	}) {
		t.Errorf("status: got %+v, want generation %d, pid %d, serving alone; alive are %v of %v", s, generation, pid, b.Alive(), process.Descendants(b.Mark))
	}
	if got := b.PID(); got != pid {
		t.Errorf("PID file: got %d, want %d", got, pid)
	}
	if got := b.Metric("baton_generation"); got != float64(generation) {
		t.Errorf("baton_generation: got %v, want %d", got, generation)
	}
	if got := b.Metric("baton_state", "state", "serving"); got != 1 {
		t.Errorf("baton_state serving: got %v, want 1", got)
	}
	if code := b.Probe("/readyz"); code != 200 {
		t.Errorf("readyz: got %d, want 200", code)
	}
}

// CheckServes checks the same, and that the files of the service are served without any sign of a drain.
func CheckServes(t *testing.T, b *Baton, generation, pid int) {
	t.Helper()
	CheckState(t, b, generation, pid)
	c := b.Dial()
	for range 3 {
		c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		if resp := c.Expect(t, "GET", 200); resp.Close {
			t.Error("response: got Connection: close, want the connection kept")
		}
	}
	c.Close()
}

// CheckServesOn checks that new requests are answered now, one after the other.
func CheckServesOn(t *testing.T, b *Baton) {
	t.Helper()
	for range 10 {
		if resp := b.Get("/100.bin"); resp.Status != 200 {
			t.Errorf("request: got %d, want 200", resp.Status)
		}
	}
}

// Refused says whether nobody listens on the public address any more.
func Refused(b *Baton) func() bool {
	return func() bool {
		c, err := http1.Dial(b.Network, b.Address, time.Second)
		if err != nil {
			return true
		}
		c.Close()
		return false
	}
}

const (
	// DefaultGrace is how long an idle connection that cannot move lives in a drain unless -idle-grace says otherwise.
	DefaultGrace = time.Second
	// Slack is by how much what ends at a moment may be late, on a machine that is very busy. It is far less than
	// the default of -drain-timeout.
	Slack = 10 * time.Second
	// patience is how long a client of a crowd waits for an answer. Only a hang takes as long.
	patience = await.Hang
)

// CheckMigrated checks that all generations together count as many connections that left one as came to another.
func CheckMigrated(t *testing.T, b *Baton, moved int) {
	t.Helper()
	out, in := b.Metric("baton_connections_migrated_total", "direction", "out"), b.Metric("baton_connections_migrated_total", "direction", "in")
	if out != float64(moved) || in != out {
		t.Errorf("baton_connections_migrated_total: got %v out, %v in, want %d each, as reported", out, in, moved)
	}
}
