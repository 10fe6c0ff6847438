package upgrade_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/upgrade"
)

// parent returns the parent of a process.
func parent(t *testing.T, pid int) (ppid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "PPid:")
	fmt.Sscan(rest, &ppid)
	return ppid
}

// line is a line of generations, and where its parts are.
type line struct {
	t       *testing.T
	dir     string
	program string // what is executed
	below   string // as a child of this, run with the argument "run"; empty: of the test
	plan    plan   // of the next generation
	first   *exec.Cmd
	stderr  string     // path of what all print
	passed  []*os.File // to the first generation
}

// latch makes a file that something waits for, until it is removed.
func (l *line) latch(name string) (path string) {
	l.t.Helper()
	path = l.path(name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { os.Remove(path) })
	return path
}

// newLine makes a line without its first generation.
func newLine(t *testing.T) *line {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, dir: dir, program: filepath.Join(dir, "program"), stderr: filepath.Join(dir, "stderr")}
	l.plan = plan{Listen: []string{"unix:" + l.path("s")}, Control: l.path("control"), PIDFile: l.path("pid"), Timeout: patience}
	if err := os.Symlink(self, l.program); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *line) path(name string) string { return filepath.Join(l.dir, name) }

func (l *line) setPlan(change func(*plan)) {
	l.t.Helper()
	change(&l.plan)
	text, err := json.Marshal(l.plan)
	if err != nil {
		l.t.Fatal(err)
	}
	next := l.path("plan.next")
	if err := errors.Join(os.WriteFile(next, text, 0o600), os.Rename(next, l.path("plan"))); err != nil {
		l.t.Fatal(err)
	}
}

// launch executes a first generation, and awaits that it serves.
func (l *line) launch() {
	l.t.Helper()
	l.first = l.start()
	l.await("generation 1 serves", func() bool { _, err := l.try(); return err == nil })
	l.t.Cleanup(func() {
		status, err := l.status()
		if err == nil {
			syscall.Kill(status.PID, syscall.SIGTERM)
			l.awaitEnd(status.PID)
		}
		if l.t.Failed() {
			l.t.Logf("what the generations printed:\n%s", l.printed())
		}
	})
}

func (l *line) start() *exec.Cmd {
	l.t.Helper()
	l.setPlan(func(*plan) {})
	out, err := os.OpenFile(l.stderr, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(l.program)
	if l.below != "" {
		cmd = exec.Command(l.below, "run")
	}
	cmd.Dir = l.dir
	// The race detector would otherwise hold up each exit for a second.
	cmd.Env = append(os.Environ(), planVar+"="+l.path("plan"), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = out
	cmd.ExtraFiles = l.passed
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cmd.Process.Release() }) // its pidfd would be closed when it is collected, in the middle of another test
	return cmd
}

func (l *line) terminate(pid int) {
	l.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		l.t.Fatal(err)
	}
	l.awaitEnd(pid)
}

func (l *line) printed() string {
	text, _ := os.ReadFile(l.stderr)
	return string(text)
}

func (l *line) await(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("still not after %v: %s\n%s", patience, what, l.printed())
		}
	}
}

// awaitEnd awaits the end of a process, and reaps it if it is ours by now.
func (l *line) awaitEnd(pid int) {
	l.t.Helper()
	l.await(fmt.Sprintf("process %d is gone", pid), func() bool {
		syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		return syscall.Kill(pid, 0) != nil
	})
}

// try connects to the first listener and asks who answers.
func (l *line) try() (answer, error) {
	network, addr := "tcp", l.plan.Listen[0]
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	return tryAt(network, addr)
}

func tryAt(network, addr string) (a answer, err error) {
	nc, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return a, err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	return a, json.NewDecoder(nc).Decode(&a)
}

func (l *line) who() answer {
	l.t.Helper()
	a, err := l.try()
	if err != nil {
		l.t.Fatalf("nobody answers: %v\n%s", err, l.printed())
	}
	return a
}

func (l *line) upgrade() upgrade.Outcome {
	l.t.Helper()
	o, err := l.ask(nil)
	if err != nil {
		l.t.Fatalf("ask for an upgrade: %v\n%s", err, l.printed())
	}
	return o
}

func (l *line) ask(progress func(string)) (upgrade.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return upgrade.Ask(ctx, l.plan.Control, upgrade.Overrides{}, progress)
}

func (l *line) status() (upgrade.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return upgrade.AskStatus(ctx, l.plan.Control)
}

func (l *line) pidFile() int {
	text, _ := os.ReadFile(l.plan.PIDFile)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// awaitSuccessor awaits that a successor starts and has said hello, and returns
// its pid.
func (l *line) awaitSuccessor() (pid int) {
	l.t.Helper()
	l.await("the successor starts", func() bool {
		s, err := l.status()
		if err == nil && len(s.Generations) == 2 {
			pid = s.Generations[1].PID
		}
		return pid != 0
	})
	return pid
}
