package systemd

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// The unit files: what systemd says of them, timeouts that follow from the flags, and a sandbox that takes
// nothing away that Baton needs.

// exposure is what systemd-analyze security may say of the service, at most.
const exposure = 1.5

func TestSystemdUnitsAreSound(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t)
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

// The timeouts of the unit follow from the defaults of the flags and from baton.conf, so that neither is changed alone.
func TestSystemdTimeoutsFollowFromTheFlags(t *testing.T) {
	t.Parallel()
	_, help, _ := process.Run(t, build.Version(t, "v1"), os.Environ(), "-h")
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
	unit := settings(t, "../../systemd/baton.service")
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

	conf, err := os.ReadFile("../../systemd/baton.conf")
	if err != nil {
		t.Fatal(err)
	}
	watch := regexp.MustCompile(`(?m)^watch (\S+)$`).FindSubmatch(conf)
	if watch == nil {
		t.Fatal("baton.conf: no watch")
	}

	const (
		overstay = 5 * time.Second  // until a drain that hangs is ended
		hooks    = 10 * time.Second // of a stop
		spare    = 5 * time.Second
	)
	drain := flag("drain-timeout") + overstay
	if got, want := duration(m[1]), drain+flag("upgrade-timeout")+flag("canary-time")+duration(string(watch[1]))+drain; got != want {
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
func life(u *machine.Unit, t *testing.T) {
	t.Helper()
	u.CheckServes(t, 1, "v1")
	counts, endLoad := u.SmallLoad(t)
	u.Deploy("v2")
	u.Reload()
	u.CheckServes(t, 2, "v2")
	u.DeployScript("exit 1")
	if _, code := u.Run("systemctl", "reload", "baton"); code == 0 {
		t.Error("reload with a release that exits: got exit code 0")
	}
	u.CheckServes(t, 2, "v2")
	endLoad()
	if counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	for _, path := range []string{"/metrics", "/readyz", "/"} {
		if resp, err := http1.Fetch("tcp", u.Admin, "GET", path); err != nil || resp.Status != 200 {
			t.Errorf("admin listener, %s: got %+v, %v, want 200", path, resp, err)
		}
	}
	resp, err := http1.Fetch("tcp", u.Address, "GET", "/fixed/16256")
	if err != nil || string(resp.Body) != string(exchange.Pattern(16256)) {
		t.Errorf("proxied request: got %v, want the backend's answer", err)
	}
	u.Deploy("v1")
	u.Kill("KILL", u.MainPID())
	u.Await(t, "restart", func() bool { return u.Restarts() == 1 && http1.Answers("tcp", u.Address) })
	u.Reload()
	u.CheckServes(t, 2, "v1")
	if n := u.Stored(); n != 2 {
		t.Errorf("descriptors in the store: got %d, want 2", n)
	}
	u.Must("systemctl", "stop", "baton")
	u.CheckStopped(t)
}

func TestSystemdUser(t *testing.T) {
	t.Parallel()
	u := machine.Running(t, "proxy /fixed="+backend.Start(t, http.HandlerFunc(backend.Echo)))
	pid := u.MainPID()
	owner := strings.Fields(u.Must("stat", "-c", "%U %G", fmt.Sprintf("/proc/%d", pid)))
	if len(owner) != 2 || owner[0] != "baton" || owner[1] != "baton" {
		t.Errorf("main process: got user and group %v, want baton", owner)
	}
	life(u, t)
}

func TestSystemdDynamicUser(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t, "proxy /fixed="+backend.Start(t, http.HandlerFunc(backend.Echo)))
	u.Must("userdel", "baton") // or it would be the one
	u.DropIn("baton.service", "user", "[Service]", "DynamicUser=yes")
	u.Start()
	if uid, err := strconv.Atoi(strings.TrimSpace(u.Must("stat", "-c", "%u", fmt.Sprintf("/proc/%d", u.MainPID())))); err != nil || uid < 61184 || uid > 65519 {
		t.Errorf("main process: got user %d, %v, want a dynamic one, of 61184 to 65519", uid, err)
	}
	life(u, t)
}

// What the sandbox denies it denies quietly. Here it kills instead, and all goes well nevertheless: Baton
// never tries anything that is denied.
func TestSystemdFilterHitsNothing(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t, "proxy /fixed="+backend.Start(t, http.HandlerFunc(backend.Echo)))
	u.DropIn("baton.service", "kill", "[Service]", "SystemCallErrorNumber=kill")
	u.Start()
	life(u, t)
	if log := u.Log(); strings.Contains(log, "SYS") {
		t.Errorf("journal: got\n%s\nwant no word of SIGSYS", service.Tail(log, 30))
	}
}

// A person reads this.
func TestSystemdStatusText(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	u := machine.Installed(t, "proxy /begun="+backend.Start(t, g))
	u.DropIn("baton.service", "often", "[Service]", "WatchdogSec=3s") // the text comes with its pings
	u.Start()
	text := func() string { return u.Show("baton.service", "StatusText") }
	u.Await(t, "status text", func() bool { return strings.Contains(text(), "generation 1, version v1") })
	answered := held(u, t, g)
	u.Await(t, "request in the status text", func() bool {
		return strings.Contains(text(), "1 request")
	})
	u.Deploy("v2")
	first := u.MainPID()
	u.Must("systemctl", "kill", "--signal=HUP", "--kill-who=main", "baton")
	u.Await(t, "next generation", func() bool { return u.MainPID() != first })
	u.Await(t, "the drain in the status text", func() bool {
		got := text()
		return strings.Contains(got, "generation 2, version v2") && strings.Contains(got, "generation 1 still drains: 1 request")
	})
	t.Log(text())
	g.Open()
	answered()
	u.Await(t, "status text after the drain", func() bool {
		return !strings.Contains(text(), "generation 1")
	})
	t.Log(text())
}
