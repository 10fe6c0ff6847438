package deploy

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// A release that is good at first and crashes later: what was there before comes back.

func TestSystemdCrashRollback(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{500 * time.Millisecond, 3 * time.Second} {
		t.Run(fmt.Sprintf("dies %v after ready", after), func(t *testing.T) {
			if after < time.Second {
				tier.Long(t, "is a second crash, sooner after the start")
			}
			t.Parallel()
			u := machine.Running(t, "idle-grace 100ms")
			out, code := u.Run("baton-deploy", releaseIn(u, build.Dies(after)))
			if code == 1 && after < time.Second { // so early that the script may notice
				checkFilesIn(u, "v1", "")
				return
			} else if code != 0 {
				t.Fatalf("deploy: got exit code %d\n%s", code, out)
			}
			most := 3
			if after < time.Second && (u.Restarts() > 0 || u.Show("baton.service", "ActiveState") != "active") {
				most++ // it crashed while the script ran, perhaps: that is not counted, as the script sees to what serves
			}
			u.Await(t, "the release before", func() bool {
				s, err := u.Status()
				return err == nil && s.Version == "v1"
			})
			u.CheckServes(t, 1, "v1")
			checkFilesIn(u, "v1", "")
			if got := versionOf(t, u.Path(inMachine+".crashed")); got != build.Dies(after) {
				t.Errorf("what crashed: got %q, want it to be kept", got)
			}
			if n := u.Restarts(); n < 3 || n > most {
				t.Errorf("NRestarts: got %d, want 3 to %d", n, most)
			}
			const said = `version dies-after-\S+ crashed 3 times within a minute \(signal: KILL\) and was replaced at `
			u.Await(t, "the status text", func() bool {
				return regexp.MustCompile(`generation 1, version v1, .*` + said).MatchString(u.Show("baton.service", "StatusText"))
			})
			for what, got := range map[string]string{
				"journal":      u.Must("journalctl", "-q", "-p", "err", "-o", "cat", "-u", "baton.service"),
				"baton status": u.Must("baton", "status"),
				"systemctl":    u.Must("systemctl", "status", "--no-pager", "baton"),
			} {
				if !regexp.MustCompile(said).MatchString(got) {
					t.Errorf("%s: got\n%s\nwant %s", what, got, said)
				}
			}
			metrics, err := http1.Fetch("tcp", u.Admin, "GET", "/metrics")
			if err != nil || !regexp.MustCompile(`(?m)^baton_crash_rollback_timestamp_seconds 1\.`).Match(metrics.Body) {
				t.Errorf("metrics: got %v, want the time of the replacement", err)
			}
			// The next release begins anew.
			deployIn(u, 0, releaseIn(u, "v3"))
			checkFilesIn(u, "v3", "v1")
			if text := u.Must("baton", "status"); strings.Contains(text, "crashed") {
				t.Errorf("baton status of the next release: got %s", text)
			}
		})
	}
}

// With the switch off, or with nothing to go back to, a service crashes as before.
func TestSystemdCrashWithoutRollback(t *testing.T) {
	t.Parallel()
	u := machine.Running(t, "idle-grace 100ms", "crash-rollback false")
	for range 4 {
		restarts := u.Restarts()
		u.Kill("KILL", u.MainPID())
		u.Await(t, "restart", func() bool { return u.Restarts() > restarts && http1.Answers("tcp", u.Address) })
	}
	u.CheckServes(t, 1, "v1")
	checkFilesIn(u, "v1", "")
	u.Put(inMachine+".previous", string(contentOf(t, "v2")), 0o755)
	for range 4 {
		restarts := u.Restarts()
		u.Kill("KILL", u.MainPID())
		u.Await(t, "restart", func() bool { return u.Restarts() > restarts && http1.Answers("tcp", u.Address) })
	}
	u.CheckServes(t, 1, "v1")
	checkFilesIn(u, "v1", "v2")
	if log := service.WithoutRequests(u.Must("journalctl", "-q", "-o", "cat", "-u", "baton.service")); strings.Contains(log, "crashed 3 times") {
		t.Errorf("journal: got\n%s", log)
	}
}
