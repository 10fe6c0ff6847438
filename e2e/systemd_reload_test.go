// systemctl reload: it waits, it succeeds only if the new generation serves, and nobody notices.
package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSystemdReloadUnderLoad(t *testing.T) {
	t.Parallel()
	u := running(t)
	u.checkServes(t, 1, "v1")
	first := u.MainPID()
	counts, stop := u.smallLoad(t)

	u.Deploy("v2")
	before := counts.Requests()
	u.Reload()
	u.checkServes(t, 2, "v2")
	if u.MainPID() == first {
		t.Error("MainPID did not move")
	}
	if n := len(u.Processes()); n != 1 {
		t.Errorf("after the reload: %d processes, want 1: the predecessor has drained", n)
	}
	u.await(t, 10*time.Second, "requests after the reload", func() bool { return counts.Requests() > before+100 })
	stop()
	t.Log(counts)
	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	checkKept(t, counts, smallCrowd)
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0", n)
	}
	if out := u.Must("systemctl", "status", "--no-pager", "baton"); !strings.Contains(out, "generation 2") || !strings.Contains(out, "v2") {
		t.Errorf("systemctl status: got %s, want generation and version", out)
	}
	u.Must("systemctl", "stop", "baton")
	u.checkStopped(t)
}

func TestSystemdTwentyReloads(t *testing.T) {
	t.Parallel()
	built(t, "v2")
	u := running(t)
	counts, stop := u.smallLoad(t)
	for i := range 20 {
		version := []string{"v2", "v1"}[i%2]
		u.Deploy(version)
		u.Reload()
		u.checkServes(t, i+2, version)
	}
	stop()
	t.Log(counts)
	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	checkKept(t, counts, smallCrowd)
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0", n)
	}
	if n := u.Stored(); n != 2 {
		t.Errorf("descriptors in the store: got %d, want 2, of the public and the admin listener", n)
	}
	if failed := u.Must("systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("failed units: %s", failed)
	}
}

func TestSystemdReloadOfABadRelease(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(*Unit)
		mend   func(*Unit)
		reason string // in the journal
	}{
		{"crashes", func(u *Unit) { u.DeployScript("echo no such frobnicator >&2; exit 3") }, nil, "no such frobnicator"},
		{"hangs", func(u *Unit) { u.DeployScript("echo waiting for godot >&2; exec sleep 300") }, nil, "waiting for godot"},
		{"is killed", func(u *Unit) { u.DeployScript("kill -9 $$") }, nil, "killed"},
		{"truncated", func(u *Unit) { u.Put("/usr/local/bin/baton", "\x7fELF", 0o755) }, nil, "exec format error"},
		{"missing", func(u *Unit) { os.Remove(u.Path("/usr/local/bin/baton")) }, nil, "no such file"},
		{"bad configuration", func(u *Unit) { u.Configure("frobnicate true", "upgrade-timeout 2s") }, func(u *Unit) { u.Configure("upgrade-timeout 2s") }, "frobnicate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := running(t, "upgrade-timeout 2s")
			pid := u.MainPID()
			counts, stop := u.smallLoad(t)

			tt.spoil(u)
			out, code := u.Run("systemctl", "reload", "baton")
			if code == 0 {
				t.Errorf("systemctl reload: got exit code 0: %s", out)
			}
			log := u.Log()
			if !strings.Contains(strings.ToLower(log), tt.reason) || !strings.Contains(log, "upgrade failed") {
				t.Errorf("journal: got\n%s\nwant the reason: %s", tail(log, 20), tt.reason)
			}
			for priority, want := range map[string]bool{"err": true, "crit": false} {
				out := u.Must("journalctl", "-q", "-o", "cat", "-u", "baton", "-p", priority)
				if got := strings.Contains("\n"+out, "\nupgrade failed; "); got != want || strings.Contains(out, "upgrade begins") {
					t.Errorf("journalctl -p %s: got %q, want the failed upgrade in it: %t", priority, out, want)
				}
			}
			u.checkServes(t, 1, "v1")
			if got := u.MainPID(); got != pid {
				t.Errorf("MainPID: got %d, want %d as before", got, pid)
			}
			u.await(t, 10*time.Second, "only the process that serves", func() bool { return len(u.Processes()) == 1 })

			u.Deploy("v2")
			if tt.mend != nil {
				tt.mend(u)
			}
			u.Reload()
			u.checkServes(t, 2, "v2")
			stop()
			if counts.Failures() != 0 {
				t.Errorf("requests lost: %v", counts)
			}
			checkKept(t, counts, smallCrowd)
			if n := u.Restarts(); n != 0 {
				t.Errorf("NRestarts: got %d, want 0", n)
			}
		})
	}
}

// held makes a request that a backend holds back, and returns what waits for its whole answer.
func (u *Unit) held(t *testing.T, g *gate) (answered func()) {
	t.Helper()
	c := mustDial(t, "tcp", u.Address)
	c.send(t, string(request("GET", "/begun", nil, "Connection: close")))
	g.await(t, 1)
	return func() {
		t.Helper()
		if resp := c.expectWithin(t, "GET", http.StatusOK, 30*time.Second); string(resp.Body) != "hello, world" {
			t.Errorf("body of the held request: got %q, want the whole", resp.Body)
		}
	}
}

// A reload goes past a predecessor that still has a long request, and waits for it where none may be left behind.
func TestSystemdReloadDuringADrain(t *testing.T) {
	for _, waits := range []bool{false, true} {
		name, lines := "goes past", []string(nil)
		if waits {
			name, lines = "waits", []string{"max-draining 0"}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			u := running(t, append(lines, "proxy /="+backend(t, g))...)
			answered := u.held(t, g)
			first := u.MainPID()
			u.Must("systemctl", "kill", "--signal=HUP", "--kill-who=main", "baton")
			u.await(t, 20*time.Second, "next generation", func() bool { return u.MainPID() != first })

			second := u.MainPID()
			u.Deploy("v2")
			reload := u.Meanwhile("systemctl", "reload", "baton")
			if waits {
				u.await(t, 20*time.Second, "reload", func() bool { return u.Show("baton.service", "ActiveState") == "reloading" })
				throughout(t, time.Second, "the reload waits for the predecessor", func() bool { return len(reload) == 0 && u.MainPID() == second })
				g.open()
				answered()
			}
			if r := u.wait("systemctl reload", reload, 30*time.Second); r.code != 0 {
				t.Errorf("systemctl reload: got exit code %d, want 0: %s", r.code, r.out)
			}
			u.checkServes(t, 3, "v2")
			if !waits {
				u.await(t, 5*time.Second, "the end of the second generation only", func() bool { return len(u.Processes()) == 2 })
				g.open()
				answered()
			}
			u.await(t, 5*time.Second, "only the process that serves", func() bool { return len(u.Processes()) == 1 })
			if n := u.Restarts(); n != 0 {
				t.Errorf("NRestarts: got %d, want 0", n)
			}
		})
	}
}

// Reloads that are asked for at once are one or two upgrades, and each says how its own went.
func TestSystemdReloadsAtOnce(t *testing.T) {
	t.Parallel()
	u := running(t)
	counts, stop := u.smallLoad(t)
	var all []<-chan result
	for range 4 {
		all = append(all, u.Meanwhile("systemctl", "reload", "baton"))
	}
	for _, done := range all {
		if r := u.wait("systemctl reload", done, time.Minute); r.code != 0 {
			t.Errorf("systemctl reload: got exit code %d, want 0: %s", r.code, r.out)
		}
	}
	s, err := u.Status()
	if err != nil || s.Generation < 2 {
		t.Fatalf("status: got %+v, %v, want generation 2 or later", s, err)
	}
	u.checkServes(t, s.Generation, "v1")
	stop()
	if counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	checkKept(t, counts, smallCrowd)
}
