package systemd

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/machine"
)

// systemctl stop and restart: whatever is under way ends well first.

func TestSystemdStop(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	u := machine.Running(t, "proxy /begun="+backend.Start(t, g))
	answered := held(u, t, g)
	stop := u.Meanwhile("systemctl", "stop", "baton")
	u.Await(t, "stop", func() bool { return u.Show("baton.service", "ActiveState") == "deactivating" })
	u.Await(t, "end of the listener", func() bool {
		c, err := http1.Dial("tcp", u.Address, time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	g.Open()
	answered()
	if r := u.Wait("systemctl stop", stop, time.Minute); r.Code != 0 {
		t.Errorf("systemctl stop: got exit code %d, want 0: %s", r.Code, r.Out)
	}
	u.CheckStopped(t)

	u.Start()
	u.CheckServes(t, 1, "v1")
}

func TestSystemdRestart(t *testing.T) {
	t.Parallel()
	u := machine.Running(t)
	u.Reload()
	first := u.MainPID()
	u.Deploy("v2")
	u.Must("systemctl", "restart", "baton")
	u.CheckServes(t, 1, "v2")
	if u.MainPID() == first {
		t.Error("MainPID did not move")
	}
	if n := u.Stored(); n != 2 {
		t.Errorf("descriptors in the store: got %d, want 2", n)
	}
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0: it was asked for", n)
	}
}

// A predecessor still has a long request, and the service stops: the request gets its answer.
func TestSystemdStopWhileAPredecessorDrains(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	u := machine.Running(t, "proxy /begun="+backend.Start(t, g))
	answered := held(u, t, g)
	first := u.MainPID()
	u.Must("systemctl", "kill", "--signal=HUP", "--kill-who=main", "baton")
	u.Await(t, "next generation", func() bool { return u.MainPID() != first })
	stop := u.Meanwhile("systemctl", "stop", "baton")
	u.Await(t, "stop", func() bool { return u.Show("baton.service", "ActiveState") == "deactivating" })
	await.Throughout(t, time.Second, "the stop waits for the predecessor", func() bool { return len(stop) == 0 })
	g.Open()
	answered()
	if r := u.Wait("systemctl stop", stop, time.Minute); r.Code != 0 {
		t.Errorf("systemctl stop: got exit code %d, want 0: %s", r.Code, r.Out)
	}
	u.CheckStopped(t)
}

// A reload waits for the drain, and the service stops meanwhile.
func TestSystemdStopDuringAReload(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	u := machine.Running(t, "proxy /begun="+backend.Start(t, g))
	answered := held(u, t, g)
	first := u.MainPID()
	reload := u.Meanwhile("systemctl", "reload", "baton")
	u.Await(t, "next generation", func() bool { return u.MainPID() != first })
	stop := u.Meanwhile("systemctl", "stop", "baton")
	u.Await(t, "stop", func() bool { return u.Show("baton.service", "ActiveState") == "deactivating" })
	g.Open()
	answered()
	if r := u.Wait("systemctl stop", stop, time.Minute); r.Code != 0 {
		t.Errorf("systemctl stop: got exit code %d, want 0: %s", r.Code, r.Out)
	}
	u.Wait("systemctl reload", reload, time.Minute) // whichever way it ends
	u.CheckStopped(t)
}

func TestSystemdStopDuringAnUpgrade(t *testing.T) {
	t.Parallel()
	u := machine.Running(t)
	u.DeployScript("echo waiting for godot >&2; exec sleep 300")
	counts, endLoad := u.SmallLoad(t)
	reload := u.Meanwhile("systemctl", "reload", "baton")
	u.Await(t, "successor that hangs", func() bool { return strings.Contains(u.Log(), "waiting for godot") })
	failedBefore := counts.Failures()
	endLoad()
	stop := u.Meanwhile("systemctl", "stop", "baton")
	if r := u.Wait("systemctl stop", stop, time.Minute); r.Code != 0 {
		t.Errorf("systemctl stop: got exit code %d, want 0: %s", r.Code, r.Out)
	}
	if r := u.Wait("systemctl reload", reload, time.Minute); r.Code == 0 {
		t.Errorf("systemctl reload: got exit code 0, want that it fails: %s", r.Out)
	}
	u.CheckStopped(t)
	if failedBefore != 0 {
		t.Errorf("requests lost before the stop: %v", counts)
	}

	u.Deploy("v1")
	u.Start()
	u.CheckServes(t, 1, "v1")
}

var notified = regexp.MustCompile(`Got notification message from PID (\d+) \((.*)\)`)

// What systemd hears, in the words of its own log: a start, an upgrade that fails, one that does not, a stop.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t, "upgrade-timeout 5s")
	u.Must("systemctl", "log-level", "debug")
	u.Start()
	u.DeployScript("exit 1")
	if _, code := u.Run("systemctl", "reload", "baton"); code == 0 {
		t.Error("reload with a release that exits: got exit code 0")
	}
	u.Deploy("v2")
	u.Reload()
	u.Must("systemctl", "stop", "baton")
	u.Must("systemctl", "log-level", "info")
	u.Run("journalctl", "--sync")

	var told []string
	var last, ready string // the pids that said READY=1
	for line := range strings.Lines(u.Must("journalctl", "-q", "-o", "cat", "_PID=1")) {
		m := notified.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for word := range strings.SplitSeq(m[2], ", ") {
			key, _, _ := strings.Cut(word, "=")
			switch key {
			case "READY", "RELOADING", "STOPPING":
				told = append(told, key)
				if key == "READY" {
					last, ready = ready, m[1]
				}
			case "MONOTONIC_USEC":
				told = append(told, key)
			}
		}
	}
	want := "READY RELOADING MONOTONIC_USEC READY RELOADING MONOTONIC_USEC READY STOPPING"
	if got := strings.Join(told, " "); got != want {
		t.Errorf("told: got %s\nwant %s", got, want)
	}
	if last == ready {
		t.Errorf("the last READY=1 came from %s, as the one before, want it from the successor", ready)
	}
	u.CheckStopped(t)
}
