package deploy

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/tier"
)

// --rollback works whatever goes on. Each situation is made again and again: from v1 to a release that is bad
// in some way, and back.

// rollbacks is how often each of them is made.
func rollbacks(t *testing.T) int {
	t.Helper()
	if *tier.Soak > 0 {
		return *tier.Soak
	}
	return tier.Times(t, "rollbacks", 1, 1, 8)
}

// checkBack checks that v1 is in place and serves, without a way back to what was bad.
func checkBack(u *machine.Unit, i int, out string) {
	u.T.Helper()
	s, err := u.Status()
	if err != nil || s.Version != "v1" || s.State != "serving" || !http1.Answers("tcp", u.Address) {
		u.T.Fatalf("rollback %d: status %+v, %v, want v1 serving\n%s\n%s", i, s, err, out, u.Log())
	}
	if got := versionOf(u.T, u.Path(inMachine)); got != "v1" {
		u.T.Fatalf("rollback %d: in place is %s, want v1\n%s", i, got, out)
	}
	if left, _ := filepath.Glob(u.Path(inMachine + ".deploy*")); len(left) > 0 {
		u.T.Fatalf("rollback %d: left behind: %v\n%s", i, left, out)
	}
}

// A deploy that waits for the drain is ended, and the drain is not waited for.
func TestSystemdRollbackDuringADrain(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	u := machine.Running(t, "max-draining 10", "drain-timeout 10m", "proxy /begun="+backend.Start(t, g))
	for i := range rollbacks(t) {
		c := http1.MustDial(t, "tcp", u.Address)
		c.Send(t, string(http1.Request("GET", "/begun", nil, "Connection: close")))
		g.Await(t, 1)
		deploy := u.Meanwhile("baton-deploy", releaseIn(u, "v2"))
		u.Await(t, "v2", func() bool { s, err := u.Status(); return err == nil && s.Version == "v2" })
		back := u.Wait("the rollback", u.Meanwhile("baton-deploy", "--rollback"), 5*time.Minute)
		if r := u.Wait("the deploy", deploy, 5*time.Minute); r.Code == 0 || !strings.Contains(r.Out, "interrupted") {
			t.Fatalf("deploy: got exit code %d, want that it is ended\n%s", r.Code, r.Out)
		}
		if back.Code != 0 {
			t.Fatalf("rollback %d: got exit code %d\n%s", i, back.Code, back.Out)
		}
		checkBack(u, i, back.Out)
		if s, err := u.Status(); err != nil || len(s.Generations) < 2 {
			t.Fatalf("rollback %d: got %+v, %v, want a generation that drains still", i, s, err)
		}
		c.Close()
		u.Await(t, "end of the drain", func() bool { s, err := u.Status(); return err == nil && len(s.Generations) == 1 })
	}
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0", n)
	}
}

// A release that never comes to serve is given up at once.
func TestSystemdRollbackWhileADeployWaits(t *testing.T) {
	t.Parallel()
	u := machine.Running(t, "upgrade-timeout 10m", "idle-grace 100ms")
	counts, stop := gentleLoad(t, u.Address, 0)
	bad := filepath.Join(u.Shared, "hangs")
	files.Put(t, stub(releaseIn(u, "v2"), "exec sleep 1000"), bad, 0o755)
	pid := u.MainPID()
	for i := range rollbacks(t) {
		deploy := u.Meanwhile("baton-deploy", bad)
		u.Await(t, "the release that hangs", func() bool { s, err := u.Status(); return err == nil && s.State == "upgrading" })
		back := u.Meanwhile("baton-deploy", "--rollback")
		if r := u.Wait("the deploy", deploy, 5*time.Minute); r.Code == 0 {
			t.Fatalf("deploy: got exit code 0\n%s", r.Out)
		}
		r := u.Wait("the rollback", back, 5*time.Minute)
		if r.Code != 0 {
			t.Fatalf("rollback %d: got exit code %d\n%s", i, r.Code, r.Out)
		}
		checkBack(u, i, r.Out)
	}
	if got := u.MainPID(); got != pid {
		t.Errorf("pid %d serves, want %d, as from the beginning", got, pid)
	}
	if stop(); counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
}

// In a loop of restarts, whatever the moment, and right after a crash.
func TestSystemdRollbackOfACrash(t *testing.T) {
	tier.Long(t, "rolls back by hand, under systemd; TestSystemdCrashRollback has systemd do it")
	t.Parallel()
	tests := []struct {
		name    string
		config  string
		release func(u *machine.Unit) string
		crash   func(u *machine.Unit, i int)
	}{
		{"dies at once", "crash-rollback false", func(u *machine.Unit) string { return releaseIn(u, build.Dies(time.Millisecond)) }, func(u *machine.Unit, i int) {
			u.Await(t, "loop of restarts", func() bool { return u.Restarts() > 0 })
			time.Sleep(time.Duration(i*37) % 500 * time.Millisecond) // another moment of the loop each time
		}},
		{"right after a crash", "crash-rollback false", func(u *machine.Unit) string { return releaseIn(u, "v2") }, func(u *machine.Unit, i int) {
			u.Kill("KILL", u.MainPID())
		}},
		// systemd may have gone back already, or be about to.
		{"dies at once, and is replaced", "crash-rollback true", func(u *machine.Unit) string { return releaseIn(u, build.Dies(time.Millisecond)) }, func(u *machine.Unit, i int) {
			u.Await(t, "loop of restarts", func() bool { return u.Restarts() > i%4 })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u := machine.Running(t, "idle-grace 100ms", tt.config)
			for i := range rollbacks(t) {
				u.Run("systemctl", "reset-failed", "baton") // and the count of restarts
				u.Run("baton-deploy", tt.release(u))
				if versionOf(t, u.Path(inMachine)) == "v1" {
					continue // it died so early that the deploy has gone back itself
				}
				tt.crash(u, i)
				out, code := u.Run("baton-deploy", "--rollback")
				if code != 0 {
					t.Fatalf("rollback %d: got exit code %d\n%s\n%s", i, code, out, u.Log())
				}
				checkBack(u, i, out)
				if tt.config == "crash-rollback true" {
					continue
				}
				// Nothing leads forward again to what crashed.
				if out, code := u.Run("baton-deploy", "--rollback"); code != 1 || !strings.Contains(out, "there is no "+inMachine+".previous to go back to") {
					t.Fatalf("a second rollback: got exit code %d\n%s", code, out)
				}
				checkBack(u, i, out)
			}
		})
	}
}

// A release that is sick is found out although a connection holds the drain up, and what was before serves.
func TestSystemdDeployOfASickReleaseDuringADrain(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	u := machine.Running(t, "drain-timeout 10m", "proxy /begun="+backend.Start(t, g))
	c := http1.MustDial(t, "tcp", u.Address)
	c.Send(t, string(http1.Request("GET", "/begun", nil, "Connection: close")))
	g.Await(t, 1)
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, err := u.Status(); err != nil || s.Version != "v1" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(application.Close)
	out := deployIn(u, 1, "--health", "/", "--health", application.URL+"/x", releaseIn(u, "v2"))
	for _, want := range []string{"/x answers 404, and the release before answered 200", "v1 (", "is in place again, and generation 3"} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s\nwant %s", out, want)
		}
	}
	checkFilesIn(u, "v1", "")
	g.Open()
	c.Expect(t, "GET", http.StatusOK)
	u.Await(t, "end of the reload", func() bool { return u.Show("baton.service", "ActiveState") == "active" })
	u.CheckServes(t, 3, "v1")
}
