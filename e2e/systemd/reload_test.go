package systemd

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// systemctl reload: it waits, it succeeds only if the new generation serves, and nobody notices.

func TestSystemdReloadUnderLoad(t *testing.T) {
	t.Parallel()
	u := machine.Running(t)
	u.CheckServes(t, 1, "v1")
	first := u.MainPID()
	counts, stop := u.SmallLoad(t)

	u.Deploy("v2")
	before := counts.Requests()
	u.Reload()
	u.CheckServes(t, 2, "v2")
	if u.MainPID() == first {
		t.Error("MainPID did not move")
	}
	if n := len(u.Processes()); n != 1 {
		t.Errorf("after the reload: %d processes, want 1: the predecessor has drained", n)
	}
	u.Await(t, "requests after the reload", func() bool { return counts.Requests() > before+100 })
	stop()
	t.Log(counts)
	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	load.CheckKept(t, counts, machine.SmallCrowd)
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0", n)
	}
	if out := u.Must("systemctl", "status", "--no-pager", "baton"); !strings.Contains(out, "generation 2") || !strings.Contains(out, "v2") {
		t.Errorf("systemctl status: got %s, want generation and version", out)
	}
	u.Must("systemctl", "stop", "baton")
	u.CheckStopped(t)
}

func TestSystemdTwentyReloads(t *testing.T) {
	tier.Long(t, "makes 20 reloads under load; TestSystemdReloadUnderLoad makes a few")
	t.Parallel()
	build.Version(t, "v2")
	u := machine.Running(t)
	counts, stop := u.SmallLoad(t)
	for i := range 20 {
		version := []string{"v2", "v1"}[i%2]
		u.Deploy(version)
		u.Reload()
		u.CheckServes(t, i+2, version)
	}
	stop()
	t.Log(counts)
	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	load.CheckKept(t, counts, machine.SmallCrowd)
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
	tier.Long(t, "reloads to one bad release after the other under systemd; e2e/trial does without it")
	t.Parallel()
	tests := []struct {
		name   string
		spoil  func(*machine.Unit)
		mend   func(*machine.Unit)
		reason string // in the journal
	}{
		{"crashes", func(u *machine.Unit) { u.DeployScript("echo no such frobnicator >&2; exit 3") }, nil, "no such frobnicator"},
		{"hangs", func(u *machine.Unit) { u.DeployScript("echo waiting for godot >&2; exec sleep 300") }, nil, "waiting for godot"},
		{"is killed", func(u *machine.Unit) { u.DeployScript("kill -9 $$") }, nil, "killed"},
		{"truncated", func(u *machine.Unit) { u.Put("/usr/local/bin/baton", "\x7fELF", 0o755) }, nil, "exec format error"},
		{"missing", func(u *machine.Unit) { os.Remove(u.Path("/usr/local/bin/baton")) }, nil, "no such file"},
		{"bad configuration", func(u *machine.Unit) { u.Configure("frobnicate true", "upgrade-timeout 5s") }, func(u *machine.Unit) { u.Configure("upgrade-timeout 5s") }, "frobnicate"},
	}
	u := machine.Running(t, "upgrade-timeout 5s")
	counts, stop := u.SmallLoad(t)
	versions := []string{"v1", "v2"}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			generation, version, next := i+1, versions[i%2], versions[(i+1)%2]
			pid := u.MainPID()
			added := u.LogFromNow()
			reported := func(priority string) string {
				return u.Must("journalctl", "-q", "-o", "cat", "-u", "baton", "-p", priority)
			}
			failures := func(log string) int { return strings.Count("\n"+log, "\nupgrade failed; ") }
			earlier := failures(reported("err"))

			tt.spoil(u)
			out, code := u.Run("systemctl", "reload", "baton")
			if code == 0 {
				t.Errorf("systemctl reload: got exit code 0: %s", out)
			}
			log := added()
			if !strings.Contains(strings.ToLower(log), tt.reason) || !strings.Contains(log, "upgrade failed") {
				t.Errorf("journal: got\n%s\nwant the reason: %s", service.Tail(log, 20), tt.reason)
			}
			for priority, want := range map[string]int{"err": earlier + 1, "crit": 0} {
				got := reported(priority)
				if n := failures(got); n != want || strings.Contains(got, "upgrade started") {
					t.Errorf("journalctl -p %s: got %d failed upgrades in %q, want %d", priority, n, got, want)
				}
			}
			u.CheckServes(t, generation, version)
			if got := u.MainPID(); got != pid {
				t.Errorf("MainPID: got %d, want %d as before", got, pid)
			}
			u.Await(t, "only the process that serves", func() bool { return len(u.Processes()) == 1 })

			u.Deploy(next)
			if tt.mend != nil {
				tt.mend(u)
			}
			u.Reload()
			u.CheckServes(t, generation+1, next)
		})
	}
	stop()
	if counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	load.CheckKept(t, counts, machine.SmallCrowd)
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0", n)
	}
}

// held makes a request that a backend holds back, and returns what waits for its whole answer.
func held(u *machine.Unit, t *testing.T, g *backend.Gate) (answered func()) {
	t.Helper()
	c := http1.MustDial(t, "tcp", u.Address)
	c.Send(t, string(http1.Request("GET", "/begun", nil, "Connection: close")))
	g.Await(t, 1)
	return func() {
		t.Helper()
		if resp := c.Expect(t, "GET", http.StatusOK); string(resp.Body) != "hello, world" {
			t.Errorf("body of the held request: got %q, want the whole", resp.Body)
		}
	}
}

// A reload goes past a predecessor that still has a long request, and waits for it where none may be left behind.
func TestSystemdReloadDuringADrain(t *testing.T) {
	t.Parallel()
	for _, waits := range []bool{false, true} {
		name, lines := "goes past", []string(nil)
		if waits {
			name, lines = "waits", []string{"max-draining 0"}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := backend.NewGate(t)
			u := machine.Running(t, append(lines, "proxy /="+backend.Start(t, g))...)
			answered := held(u, t, g)
			first := u.MainPID()
			u.Must("systemctl", "kill", "--signal=HUP", "--kill-who=main", "baton")
			u.Await(t, "next generation", func() bool { return u.MainPID() != first })

			second := u.MainPID()
			u.Deploy("v2")
			reload := u.Meanwhile("systemctl", "reload", "baton")
			if waits {
				u.Await(t, "reload", func() bool { return u.Show("baton.service", "ActiveState") == "reloading" })
				await.Throughout(t, time.Second, "the reload waits for the predecessor", func() bool { return len(reload) == 0 && u.MainPID() == second })
				g.Open()
				answered()
			}
			if r := u.Wait("systemctl reload", reload, time.Minute); r.Code != 0 {
				t.Errorf("systemctl reload: got exit code %d, want 0: %s", r.Code, r.Out)
			}
			u.CheckServes(t, 3, "v2")
			if !waits {
				u.Await(t, "the end of the second generation only", func() bool { return len(u.Processes()) == 2 })
				g.Open()
				answered()
			}
			u.Await(t, "only the process that serves", func() bool { return len(u.Processes()) == 1 })
			if n := u.Restarts(); n != 0 {
				t.Errorf("NRestarts: got %d, want 0", n)
			}
		})
	}
}

// Reloads that are asked for at once are one or two upgrades, and each says how its own went.
func TestSystemdReloadsAtOnce(t *testing.T) {
	t.Parallel()
	u := machine.Running(t)
	counts, stop := u.SmallLoad(t)
	var all []<-chan machine.Result
	for range 4 {
		all = append(all, u.Meanwhile("systemctl", "reload", "baton"))
	}
	for _, done := range all {
		if r := u.Wait("systemctl reload", done, machine.CommandTime); r.Code != 0 {
			t.Errorf("systemctl reload: got exit code %d, want 0: %s", r.Code, r.Out)
		}
	}
	s, err := u.Status()
	if err != nil || s.Generation < 2 {
		t.Fatalf("status: got %+v, %v, want generation 2 or later", s, err)
	}
	u.CheckServes(t, s.Generation, "v1")
	stop()
	if counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	load.CheckKept(t, counts, machine.SmallCrowd)
}
