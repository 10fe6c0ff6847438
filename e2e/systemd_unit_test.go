// The unit files: what systemd says of them, timeouts that follow from the flags, and a sandbox that takes
// nothing away that Baton needs.
package e2e

import (
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// exposure is what systemd-analyze security may say of the service, at most.
const exposure = 1.5

func TestSystemdUnitsAreSound(t *testing.T) {
	t.Parallel()
	u := installed(t)
	if out := u.Must("systemd-analyze", "verify", "--man=no", "baton.service", "baton.socket"); out != "" {
		t.Errorf("systemd-analyze verify: got %s, want nothing", out)
	}
	out := u.Must("systemd-analyze", "security", "--offline=false", "baton.service")
	m := regexp.MustCompile(`Overall exposure level for baton.service: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("systemd-analyze security: got\n%s", out)
	}
	if got, err := strconv.ParseFloat(m[1], 64); err != nil || got > exposure {
		t.Errorf("systemd-analyze security: got %s, want %v at most\n%s", m[1], exposure, out)
	}
}

// settings returns the values of a unit file by their names; of those that are given twice the last.
func settings(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			all[name] = value
		}
	}
	return all
}

// The timeouts of the unit follow from the defaults of the flags, so that neither is changed alone.
func TestSystemdTimeoutsFollowFromTheFlags(t *testing.T) {
	t.Parallel()
	_, help, _ := run(t, built(t, "v1"), os.Environ(), "-h")
	flag := func(name string) time.Duration {
		t.Helper()
		m := regexp.MustCompile(`-` + name + ` \w+\n[^\n]*\(default "?([0-9a-z.]+)"?\)`).FindStringSubmatch(help)
		if m == nil {
			if regexp.MustCompile(`-` + name + ` \w+\n`).MatchString(help) {
				return 0 // a default of zero is not printed
			}
			t.Fatalf("baton -h: no -%s in\n%s", name, help)
		}
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	unit := settings(t, "../systemd/baton.service")
	duration := func(text string) time.Duration {
		t.Helper()
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := regexp.MustCompile(`-timeout (\S+)`).FindStringSubmatch(unit["ExecReload"])
	if m == nil {
		t.Fatalf("ExecReload=%s: no -timeout", unit["ExecReload"])
	}

	const (
		overstay = 5 * time.Second  // until a drain that hangs is ended
		hooks    = 10 * time.Second // of a stop
		spare    = 5 * time.Second
	)
	drain := flag("drain-timeout") + overstay
	if got, want := duration(m[1]), drain+flag("upgrade-timeout")+drain; got != want {
		t.Errorf("-timeout of ExecReload: got %v, want %v", got, want)
	}
	if got, want := duration(unit["TimeoutStartSec"]), duration(m[1])+spare; got != want {
		t.Errorf("TimeoutStartSec: got %v, want %v", got, want)
	}
	if got, want := duration(unit["TimeoutStopSec"]), flag("shutdown-delay")+drain+hooks+spare; got != want {
		t.Errorf("TimeoutStopSec: got %v, want %v", got, want)
	}
}

// life is everything that a service does: it serves, is upgraded, crashes, and stops.
func (u *Unit) life(t *testing.T) {
	t.Helper()
	u.checkServes(t, 1, "v1")
	counts, endLoad := u.smallLoad(t)
	u.Deploy("v2")
	u.Reload()
	u.checkServes(t, 2, "v2")
	u.DeployScript("exit 1")
	if _, code := u.Run("systemctl", "reload", "baton"); code == 0 {
		t.Error("reload with a release that exits: got exit code 0")
	}
	u.checkServes(t, 2, "v2")
	endLoad()
	if counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	for _, path := range []string{"/metrics", "/readyz", "/"} {
		if resp, err := fetch("tcp", u.Admin, "GET", path); err != nil || resp.Status != 200 {
			t.Errorf("admin listener, %s: got %+v, %v, want 200", path, resp, err)
		}
	}
	resp, err := fetch("tcp", u.Address, "GET", "/fixed/16256")
	if err != nil || string(resp.Body) != string(pattern(16256)) {
		t.Errorf("proxied request: got %v, want the backend's answer", err)
	}
	u.Deploy("v1")
	u.Kill("KILL", u.MainPID())
	u.await(t, 20*time.Second, "restart", func() bool { return u.Restarts() == 1 && answers("tcp", u.Address) })
	u.Reload()
	u.checkServes(t, 2, "v1")
	if n := u.Stored(); n != 2 {
		t.Errorf("descriptors in the store: got %d, want 2", n)
	}
	u.Must("systemctl", "stop", "baton")
	u.checkStopped(t)
}

func TestSystemdUser(t *testing.T) {
	t.Parallel()
	u := running(t, "proxy /fixed="+backend(t, http.HandlerFunc(echo)))
	pid := u.MainPID()
	owner := strings.Fields(u.Must("ps", "-o", "user=,group=", "-p", strconv.Itoa(pid)))
	if len(owner) != 2 || owner[0] != "baton" || owner[1] != "baton" {
		t.Errorf("main process: got user and group %v, want baton", owner)
	}
	u.life(t)
}

func TestSystemdDynamicUser(t *testing.T) {
	t.Parallel()
	u := installed(t, "proxy /fixed="+backend(t, http.HandlerFunc(echo)))
	u.Must("userdel", "baton") // or it would be the one
	u.DropIn("baton.service", "user", "[Service]", "DynamicUser=yes")
	u.Start()
	if uid, err := strconv.Atoi(strings.TrimSpace(u.Must("ps", "-o", "uid=", "-p", strconv.Itoa(u.MainPID())))); err != nil || uid < 61184 || uid > 65519 {
		t.Errorf("main process: got user %d, %v, want a dynamic one, of 61184 to 65519", uid, err)
	}
	u.life(t)
}

// What the sandbox denies it denies quietly. Here it kills instead, and all goes well nevertheless: Baton
// never tries anything that is denied.
func TestSystemdFilterHitsNothing(t *testing.T) {
	t.Parallel()
	if race {
		t.Skip("the race detector makes system calls of its own; TestSystemdUser runs with it")
	}
	u := installed(t, "proxy /fixed="+backend(t, http.HandlerFunc(echo)))
	u.DropIn("baton.service", "kill", "[Service]", "SystemCallErrorNumber=kill")
	u.Start()
	u.life(t)
	if log := u.Log(); strings.Contains(log, "SYS") {
		t.Errorf("journal: got\n%s\nwant no word of SIGSYS", tail(log, 30))
	}
}

// A person reads this.
func TestSystemdStatusText(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	u := installed(t, "proxy /begun="+backend(t, g))
	u.DropIn("baton.service", "often", "[Service]", "WatchdogSec=3s") // the text comes with its pings
	u.Start()
	text := func() string { return u.Show("baton.service", "StatusText") }
	u.await(t, 10*time.Second, "status text", func() bool { return strings.Contains(text(), "generation 1, version v1") })
	answered := u.held(t, g)
	u.await(t, 20*time.Second, "request in the status text", func() bool {
		return strings.Contains(text(), "1 request")
	})
	u.Deploy("v2")
	first := u.MainPID()
	u.Must("systemctl", "kill", "--signal=HUP", "--kill-who=main", "baton")
	u.await(t, 20*time.Second, "next generation", func() bool { return u.MainPID() != first })
	u.await(t, 20*time.Second, "the drain in the status text", func() bool {
		got := text()
		return strings.Contains(got, "generation 2, version v2") && strings.Contains(got, "generation 1 still drains: 1 request")
	})
	t.Log(text())
	g.open()
	answered()
	u.await(t, 20*time.Second, "status text after the drain", func() bool {
		return !strings.Contains(text(), "generation 1")
	})
	t.Log(text())
}
