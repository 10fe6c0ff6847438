package deploy

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A unit is what systemd knows of a service.
type unit struct {
	Name      string
	Load      string // "loaded", "not-found"
	Active    string
	Sub       string
	PID       int    // the main process; 0 if there is none
	Job       string // that is queued or under way; empty if none is
	CanReload bool
	Program   string // that ExecStart= names
	Arguments string // all of the words of ExecStart=

	// On the monotonic clock; 0 if it never was.
	Started time.Duration // at the last start
	Ready   time.Duration // when it was last ready
	Left    time.Duration // when it last ceased to be
	Main    time.Duration // since when the main process is that
}

// showUnit asks systemd for a unit.
func showUnit(name string) (unit, error) {
	out, err := exec.Command("systemctl", "show", "-p", "LoadState", "-p", "ActiveState", "-p", "SubState",
		"-p", "MainPID", "-p", "Job", "-p", "CanReload", "-p", "ExecStart", "-p", "InactiveExitTimestampMonotonic", "-p", "ActiveEnterTimestampMonotonic",
		"-p", "ActiveExitTimestampMonotonic", "-p", "ExecMainStartTimestampMonotonic", name).CombinedOutput()
	if err != nil {
		return unit{}, fmt.Errorf("query systemd for %s: %s", name, cmp.Or(strings.TrimSpace(string(out)), err.Error()))
	}
	return parseUnit(name, string(out)), nil
}

// parseUnit reads what `systemctl show` prints.
func parseUnit(name, shown string) unit {
	u := unit{Name: name, CanReload: true}
	for line := range strings.Lines(shown) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "LoadState":
			u.Load = value
		case "ActiveState":
			u.Active = value
		case "SubState":
			u.Sub = value
		case "MainPID":
			u.PID, _ = strconv.Atoi(value)
		case "Job":
			u.Job = value
		case "CanReload":
			u.CanReload = value == "yes"
		case "InactiveExitTimestampMonotonic":
			u.Started = microseconds(value)
		case "ActiveEnterTimestampMonotonic":
			u.Ready = microseconds(value)
		case "ActiveExitTimestampMonotonic":
			u.Left = microseconds(value)
		case "ExecMainStartTimestampMonotonic":
			u.Main = microseconds(value)
		case "ExecStart":
			_, rest, _ := strings.Cut(value, "path=")
			u.Program, rest, _ = strings.Cut(rest, " ; argv[]=")
			u.Arguments, _, _ = strings.Cut(rest, " ; ignore_errors=")
		}
	}
	return u
}

func microseconds(text string) time.Duration {
	n, _ := strconv.ParseInt(text, 10, 64)
	return time.Duration(n) * time.Microsecond
}

// isAlive reports whether the service runs, rather than being stopped, failed or in a
// loop of restarts.
func (u unit) isAlive() bool { return u.Active == "active" || u.Active == "reloading" }

// isDown reports whether nothing runs, nor will without a start.
func (u unit) isDown() bool { return (u.Active == "inactive" || u.Active == "failed") && u.Job == "" }

// isChanging reports whether a start, a stop or an upgrade is under way. A loop of
// restarts is none of these: it goes on until somebody acts.
func (u unit) isChanging() bool {
	switch u.Active {
	case "reloading", "deactivating":
		return true
	case "inactive", "failed":
		return u.Job != "" // between two starts
	case "activating":
		return !strings.HasPrefix(u.Sub, "auto-restart")
	}
	return false
}

// awaitUnit waits until nothing is under way in a unit. It returns the state that it
// waited for to end, if it had to.
func awaitUnit(name string, limit time.Duration, shown progress) (u unit, waited string, err error) {
	for began := time.Now(); ; {
		if u, err = showUnit(name); err != nil || !u.isChanging() {
			return u, waited, err
		}
		if time.Since(began) > limit {
			return u, waited, fmt.Errorf("%s has been %s for %d s; nothing was replaced", name, u.Active, int(limit.Seconds()))
		}
		waited = u.Active
		shown.say(name + " is " + u.Active)
		time.Sleep(100 * time.Millisecond)
	}
}

// Target returns the file that a deploy has to replace: the program that the main
// process was started as, with symlinks followed; of a service that is not alive, p is
// nil, and it is the program that the unit names.
func (u unit) target(p *process) (string, error) {
	program := u.Program
	if p != nil && strings.HasPrefix(p.Arguments[0], "/") {
		program = p.Arguments[0]
		// Behind something like numactl or env, it is named in the line all the same.
		if program != u.Program && !strings.Contains(" "+u.Arguments+" ", " "+program+" ") {
			return "", fmt.Errorf("%s is configured to run %s, but the running process was started as %s: restart it first; nothing was replaced", u.Name, u.Program, program)
		}
	}
	target, err := filepath.EvalSymlinks(program)
	if info, statErr := os.Stat(target); err != nil || statErr != nil || !info.Mode().IsRegular() {
		hint := ""
		if p != nil {
			hint = fmt.Sprintf(", as with: cp /proc/%d/exe %s", p.PID, program)
		}
		return "", fmt.Errorf("%s, which %s runs, does not exist; put a binary in its place%s", program, u.Name, hint)
	}
	return target, nil
}

var errNoProcess = errors.New("no main process")

// Running returns the main process of a service that is alive, nil of another. It fails
// where no deploy can be.
func (u unit) running() (*process, error) {
	if u.Load != "loaded" {
		return nil, fmt.Errorf("there is no %s: systemd says it is %s", u.Name, cmp.Or(u.Load, "unknown"))
	}
	if !u.isAlive() {
		return nil, nil
	}
	if u.PID == 0 {
		return nil, fmt.Errorf("%s has %w", u.Name, errNoProcess)
	}
	p := readProcess(u.PID)
	if p == nil {
		return nil, fmt.Errorf("cannot read the environment of pid %d, the main process of %s: run this as root, or as the user of the service", u.PID, u.Name)
	}
	if me := os.Geteuid(); me != 0 && me != p.UID {
		return nil, fmt.Errorf("%s runs as user %d: run this as root, or as that user", u.Name, p.UID)
	}
	if !u.CanReload {
		return nil, fmt.Errorf("%s has no ExecReload=, and so cannot upgrade", u.Name)
	}
	return p, nil
}

// fileID names the file that a path leads to as `stat -c %d:%i` does; "" if there is none.
func fileID(path string) string {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
