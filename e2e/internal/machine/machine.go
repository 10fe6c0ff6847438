// Package machine boots systemd in namespaces of its own, and runs Baton as its service.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// Machine is one booted systemd.
type Machine struct {
	T      testing.TB
	Shared string // a directory that has the same path inside and outside
	Root   string // the root of the files inside, as seen from outside
	Host   string // a loopback address that no other machine or service uses
	Faulty bool   // what runs inside may panic

	cgroup string // the directory of all its cgroups
	Init   *process.Process
}

// CommandTime bounds every command inside a machine.
const CommandTime = 3 * time.Minute

// Run runs a command inside, bounded in time, and returns what it wrote and its exit code.
// It may be called from any goroutine.
func (m *Machine) Run(args ...string) (out string, code int) {
	m.T.Helper()
	return m.RunIn(nil, args...)
}

// RunIn is Run with a standard input.
func (m *Machine) RunIn(stdin io.Reader, args ...string) (out string, code int) {
	m.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), CommandTime+10*time.Second)
	defer cancel()
	pid := strconv.Itoa(m.Init.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"-t", pid, "-m", "-u", "-i", "-p", "-C", "--",
		"timeout", "-k", "1", strconv.Itoa(int(CommandTime.Seconds())),
	}, args...)...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat", "SYSTEMD_URLIFY=0", "GORACE=atexit_sleep_ms=0",
	}
	cmd.Stdin = stdin
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch code = cmd.ProcessState.ExitCode(); {
	case err != nil && !errors.As(err, &exit):
		m.T.Errorf("run %v in the machine: %v", args, err)
	case code == 124:
		m.T.Errorf("run %v in the machine: no end within %v:\n%s", args, CommandTime, text)
	}
	return string(text), code
}

// Must runs a command that has to succeed, and returns what it wrote.
func (m *Machine) Must(args ...string) string {
	m.T.Helper()
	out, code := m.Run(args...)
	if code != 0 {
		m.T.Fatalf("%s: got exit code %d, want 0:\n%s", strings.Join(args, " "), code, service.Tail(out, 40))
	}
	return out
}

// Journal returns what a unit has written, and what systemd says of it.
func (m *Machine) Journal(unit string) string {
	m.T.Helper()
	m.Run("journalctl", "--sync")
	out, _ := m.Run("journalctl", "-q", "--no-pager", "-o", "short-precise", "-u", unit)
	return out
}

// Show returns a property of a unit.
func (m *Machine) Show(unit, property string) string {
	m.T.Helper()
	return strings.TrimSpace(m.Must("systemctl", "show", "-P", property, unit))
}

// Path returns the path outside of a file inside.
func (m *Machine) Path(inside string) string { return m.Root + inside }

// Put writes a file inside, by rename, and the directories above it where they are missing.
func (m *Machine) Put(inside, content string, mode os.FileMode) {
	m.T.Helper()
	if err := os.MkdirAll(filepath.Dir(m.Path(inside)), 0o755); err != nil {
		m.T.Fatal(err)
	}
	files.Put(m.T, []byte(content), m.Path(inside), mode)
}

// Install puts a copy of a file of the host in place inside, by rename and executable.
func (m *Machine) Install(from, inside string) {
	m.T.Helper()
	if err := os.MkdirAll(filepath.Dir(m.Path(inside)), 0o755); err != nil {
		m.T.Fatal(err)
	}
	files.Install(m.T, from, m.Path(inside))
}

// Share copies a file of the host to the shared directory unless it is there, and returns its path.
func (m *Machine) Share(from string) (path string) {
	m.T.Helper()
	path = filepath.Join(m.Shared, filepath.Base(from))
	if _, err := os.Stat(path); err != nil {
		files.Install(m.T, from, path)
	}
	return path
}

func (m *Machine) chmod(path string, mode os.FileMode) {
	m.T.Helper()
	if err := os.Chmod(path, mode); err != nil {
		m.T.Fatal(err)
	}
}

// Outside returns the pid that a process inside has outside.
func (m *Machine) Outside(inside int) (pid int) {
	m.T.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/status")
	namespace, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.Init.Pid))
	for _, path := range procs {
		if ns, err := os.Readlink(filepath.Dir(path) + "/ns/pid"); err != nil || ns != namespace {
			continue
		}
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			// NSpid: outermost ... innermost
			if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
				all := strings.Fields(ids)
				if all[len(all)-1] == strconv.Itoa(inside) {
					pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
					return pid
				}
			}
		}
	}
	m.T.Fatalf("process %d of the machine: not there", inside)
	return 0
}

// PowerOff shuts the machine down as an operator does.
func (m *Machine) PowerOff() {
	m.T.Helper()
	m.Run("systemctl", "poweroff", "--no-block") // may be ended by what it begins
	if !m.Init.Within(await.Hang) {
		m.T.Fatal("machine: runs a minute after poweroff")
	}
}

// inspect looks for races and panics of whatever ran inside.
func (m *Machine) inspect() {
	m.T.Helper()
	if m.Init == nil || !m.Init.Alive() {
		return
	}
	m.Run("journalctl", "--sync")
	out, _ := m.Run("journalctl", "-q", "--no-pager", "-o", "short-precise")
	out = service.WithoutRequests(out)
	signs := []string{"WARNING: DATA RACE", "panic:", "fatal error:", "goroutine 1 ["}
	if m.Faulty {
		signs = signs[:1]
	}
	for _, sign := range signs {
		if i := strings.Index(out, sign); i >= 0 {
			m.T.Errorf("journal has %q:\n%.4000s", sign, out[max(0, i-200):])
		}
	}
	if m.T.Failed() {
		m.T.Logf("journal of the machine (the last lines):\n%s", service.Tail(out, 80))
	}
}
