package deploy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A crashing is a service of which the main process dies again and again.
type crashing struct {
	t      *testing.T
	dir    string
	target string
	config string
}

func newCrashing(t *testing.T) *crashing {
	t.Helper()
	dir := resolved(t, t.TempDir())
	c := &crashing{t, dir, filepath.Join(dir, "baton"), filepath.Join(dir, "conf")}
	write(t, c.target, "the new release")
	write(t, c.target+".previous", "the one before")
	write(t, c.config, "listen :0\n")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("SERVICE_RESULT", "signal")
	t.Setenv("EXIT_CODE", "killed")
	t.Setenv("EXIT_STATUS", "KILL")
	time.Sleep(20 * time.Millisecond) // the time of an inode is that coarse
	c.ready(0)
	return c
}

// ready sets since when the service is ready, by the stand-in for systemctl.
func (c *crashing) ready(since time.Duration) {
	c.t.Helper()
	var clock unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &clock); err != nil {
		c.t.Fatal(err)
	}
	at := (time.Duration(clock.Nano()) - since).Microseconds()
	write(c.t, filepath.Join(c.dir, "systemctl"), fmt.Sprintf("#!/bin/sh\ncat <<END\nLoadState=loaded\nActiveState=deactivating\nSubState=stop-post\nMainPID=0\n"+
		"InactiveExitTimestampMonotonic=%[1]d\nActiveEnterTimestampMonotonic=%[1]d\nExecMainStartTimestampMonotonic=%[1]d\nExecStart={ path=%[2]s ; argv[]=%[2]s ; ignore_errors=no }\nEND\n", at, c.target))
}

func (c *crashing) crash(times int) (said string) {
	c.t.Helper()
	var out bytes.Buffer
	for range times {
		if err := afterCrash(&out, "x.service", []string{"-config", c.config}); err != nil {
			fmt.Fprintln(&out, err)
		}
	}
	return out.String()
}

func (c *crashing) check(target, previous, kept string) {
	c.t.Helper()
	for path, want := range map[string]string{c.target: target, c.target + ".previous": previous, c.target + ".crashed": kept} {
		if got, _ := os.ReadFile(path); string(got) != want {
			c.t.Errorf("%s: got %q, want %q", filepath.Base(path), got, want)
		}
	}
	if left, _ := filepath.Glob(c.target + ".crashes.*"); len(left) > 0 {
		c.t.Errorf("left behind: %v", left)
	}
}

func TestAfterCrash(t *testing.T) {
	c := newCrashing(t)
	if said := c.crash(2); said != "" {
		t.Errorf("two crashes: got %s", said)
	}
	c.check("the new release", "the one before", "")
	if said := c.crash(1); !strings.HasPrefix(said, "<3>baton: the next release crashed 3 times within a minute (signal: KILL) and was replaced at ") {
		t.Errorf("three crashes: got %q", said)
	}
	c.check("the one before", "", "the new release")
	r := readCrashes(c.target).Replaced
	if r == nil || r.By != fileKey(c.target) || r.Kept != c.target+".crashed" {
		t.Errorf("written down: got %+v", r)
	}
	// The one before crashes as well: there is nothing left to go back to, and nothing to do.
	if said := c.crash(5); said != "" {
		t.Errorf("the one before crashes: got %s", said)
	}
	c.check("the one before", "", "the new release")
	if info, err := os.Stat(crashesFile(c.target)); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("got %v, %v, want a file that everybody reads", info, err)
	}
}

func TestAfterCrashThatIsNone(t *testing.T) {
	c := newCrashing(t)
	for _, tt := range []struct{ name, result, status string }{{"stop", "success", "0"}, {"no user", "exit-code", "217"}} {
		t.Setenv("SERVICE_RESULT", tt.result)
		t.Setenv("EXIT_STATUS", tt.status)
		if said := c.crash(3); said != "" {
			t.Errorf("%s: got %s", tt.name, said)
		}
	}
	c.check("the new release", "the one before", "")
}

func TestAfterCrashSwitchedOff(t *testing.T) {
	c := newCrashing(t)
	write(t, c.config, "crash-rollback false\n")
	if said := c.crash(4); said != "" {
		t.Errorf("got %s", said)
	}
	c.check("the new release", "the one before", "")
}

// What was put in place after the start of the process that has died is not to blame.
func TestAfterCrashOfWhatWasThereBefore(t *testing.T) {
	c := newCrashing(t)
	c.ready(30 * time.Second)
	if said := c.crash(4); said != "" {
		t.Errorf("got %s", said)
	}
	c.check("the new release", "the one before", "")
	if crashes := readCrashes(c.target); len(crashes.Crashes) != 0 {
		t.Errorf("written down: got %+v, want nothing", crashes)
	}
}

// What would not start with this configuration is put nowhere.
func TestAfterCrashWithAConfigurationOfLater(t *testing.T) {
	c := newCrashing(t)
	write(t, c.config, "setting-of-later true\n")
	if said := c.crash(3); !strings.Contains(said, "rejects today's configuration: configuration file, line 1: unknown setting") {
		t.Errorf("got %s", said)
	}
	c.check("the new release", "the one before", "")
}

func TestAfterCrashDuringADeploy(t *testing.T) {
	c := newCrashing(t)
	lock, err := os.Create(c.target + ".deploy-lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if said := c.crash(3); !strings.Contains(said, "a deploy of "+c.target+" runs") {
		t.Errorf("got %s", said)
	}
	c.check("the new release", "the one before", "")
}

// A release is new while it has served for less than a minute, or is in place for less. One that has served before is
// not new again because it does not start any more.
func TestHasProved(t *testing.T) {
	t.Parallel()
	var clock unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &clock); err != nil {
		t.Fatal(err)
	}
	ago := func(d time.Duration) time.Duration { return max(time.Duration(clock.Nano())-d, 1) }
	target := write(t, filepath.Join(t.TempDir(), "x"), "")
	for _, tt := range []struct {
		name                    string
		inPlace, started, ready time.Duration // ago
		left                    time.Duration // as well
		want                    bool
	}{
		{"all for long", time.Hour, 2 * time.Minute, 2 * time.Minute, 0, true},
		{"just put there", 0, 2 * time.Minute, 2 * time.Minute, 0, false},
		{"just started", time.Hour, time.Second, time.Second, 0, false},
		{"never ready", time.Hour, time.Second, 1e6 * time.Hour, 0, false},
		{"served for long before this start", time.Hour, time.Second, 3 * time.Minute, 10 * time.Second, true},
		{"served for a moment before this start", time.Hour, time.Second, 3 * time.Minute, 170 * time.Second, false},
		{"another one served for long", 2 * time.Minute, time.Second, 3 * time.Minute, 10 * time.Second, false},
	} {
		u := unit{Started: ago(tt.started), Ready: ago(tt.ready)}
		if tt.left > 0 {
			u.Left = ago(tt.left)
		}
		if got := u.hasProved(target, time.Now().Add(tt.inPlace)); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
