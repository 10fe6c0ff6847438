// Package service runs a Baton as an operator has it, with a directory of its own, and the commands to run it.
//
// When a test ends, the service has to stop in order and to leave no process behind.
package service

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
)

// Baton is one service through all its generations.
type Baton struct {
	T    testing.TB
	Dir  string // the folder of everything below
	Bin  string // what is run, and replaced by Deploy
	Host string // a loopback address that no other service uses

	Network, Address string // of the first public listener
	Admin            string
	Control          string
	PIDFile          string
	Config           string // the configuration file; given with -config if it was there at the start

	Setup Setup
	Mark  string // in the environment of every process of this service

	mu    sync.Mutex
	Known map[int]*process.Process
	bad   map[int]bool // processes that are not expected to exit with 0
}

// Start starts a service and waits until it is ready. When the test ends, the service has to stop in order.
func Start(t testing.TB, options ...Option) *Baton {
	t.Helper()
	b := Prepare(t, options...)
	b.Launch()
	b.AwaitReady()
	return b
}

// Prepare lays out the folder of a service without starting it.
func Prepare(t testing.TB, options ...Option) *Baton {
	t.Helper()
	var s Setup
	for _, option := range options {
		option(&s)
	}
	// Not t.TempDir: a unix socket's path has room for 107 bytes, and the name of a test may be long.
	dir, err := os.MkdirTemp("", "baton-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host := Loopback()
	b := &Baton{
		T: t, Dir: dir, Host: host, Setup: s, Mark: "E2E_MARK=" + dir,
		Bin:     filepath.Join(dir, "baton"),
		Control: filepath.Join(dir, "control.sock"),
		PIDFile: filepath.Join(dir, "baton.pid"),
		Config:  filepath.Join(dir, "baton.conf"),
		Admin:   net.JoinHostPort(host, FreePort(t, host)),
		Known:   make(map[int]*process.Process),
		bad:     make(map[int]bool),
	}
	if len(s.Listen) == 0 {
		s.Listen = []string{"HOST:PORT"}
	}
	b.Setup.Listen = nil
	for _, address := range s.Listen {
		b.Setup.Listen = append(b.Setup.Listen, strings.Replace(b.Expand(address), "PORT", FreePort(t, host), 1))
	}
	b.Network, b.Address = SplitAddress(b.Setup.Listen[0])
	b.Setup.Sockets = make(map[string]*os.File)
	b.bindSockets()
	if s.Config != "" {
		b.Configure(s.Config)
	}
	b.Deploy("v1")
	t.Cleanup(b.end)
	return b
}

// Grace returns how long the service keeps a silent connection in a drain.
func (b *Baton) Grace() time.Duration {
	b.T.Helper()
	i := slices.Index(b.Setup.Args, "-idle-grace")
	if i < 0 {
		return DefaultGrace
	}
	grace, err := time.ParseDuration(b.Setup.Args[i+1])
	if err != nil {
		b.T.Fatal(err)
	}
	return grace
}

// Flags returns the flags with which the service is started.
func (b *Baton) Flags() []string {
	flags := []string{"-control", b.Control, "-pid-file", b.PIDFile, "-log-format", "json"}
	if !b.Setup.adminInFile {
		flags = append(flags, "-admin", b.Admin)
	}
	if !b.Setup.listenInFile {
		for _, address := range b.Setup.Listen {
			flags = append(flags, "-listen", address)
		}
	}
	if b.Setup.Config != "" {
		flags = append(flags, "-config", b.Config)
	}
	for _, arg := range b.Setup.Args {
		flags = append(flags, b.Expand(arg))
	}
	return flags
}

// Launch starts the first generation.
func (b *Baton) Launch() *process.Process {
	b.T.Helper()
	stderr, err := os.OpenFile(b.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		b.T.Fatal(err)
	}
	defer stderr.Close()
	cmd := exec.Command(b.Bin, b.Flags()...)
	cmd.Dir = b.Dir
	if b.Setup.Path != "" {
		cmd.Dir, cmd.Path, cmd.Args[0] = b.Expand(b.Setup.Dir), b.Expand(b.Setup.Path), b.Expand(b.Setup.Argv0)
	}
	cmd.Env = append(os.Environ(), b.Mark, "GORACE=atexit_sleep_ms=0") // a race is reported at once all the same
	for _, pair := range b.Setup.Env {
		cmd.Env = append(cmd.Env, b.Expand(pair))
	}
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if b.Setup.Stderr != nil {
		cmd.Stdout, cmd.Stderr = b.Setup.Stderr, b.Setup.Stderr
	}
	files, variables := b.Setup.passed()
	for _, f := range files {
		defer f.Close()
	}
	if len(variables) > 0 {
		cmd.ExtraFiles, cmd.Env = files, append(cmd.Env, variables...)
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c",
			`export LISTEN_PID=$$ WATCHDOG_PID=${WATCHDOG_PID-$$}; exec "$0" "$@"`, b.Bin}, cmd.Args[1:]...)
	}
	if n := b.Setup.Descriptors; n > 0 {
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, n), cmd.Path}, cmd.Args[1:]...)
	}
	if err := cmd.Start(); err != nil {
		b.T.Fatal(err)
	}
	p := b.Follow(cmd.Process.Pid)
	cmd.Process.Release()
	return p
}

// Follow makes a process known to the test, which will then care for its end.
func (b *Baton) Follow(pid int) *process.Process {
	b.T.Helper()
	p, err := b.TryFollow(pid)
	if err != nil {
		b.T.Fatal(err)
	}
	return p
}

func (b *Baton) TryFollow(pid int) (*process.Process, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.Known[pid]; p != nil && p.Alive() {
		return p, nil
	}
	p, err := process.Follow(pid)
	if err == nil {
		b.Known[pid] = p
	}
	return p, err
}

// ExpectBad says that a process will not exit with 0, because the test sees to that.
func (b *Baton) ExpectBad(pid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bad[pid] = true
}

// Alive returns the pids of the processes that the test knows and that live, ascending.
func (b *Baton) Alive() (pids []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for pid, p := range b.Known {
		if p.Alive() {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// Kill sends a signal to a process of the service.
func (b *Baton) Kill(pid int, sig syscall.Signal) {
	b.T.Helper()
	b.Follow(pid)
	if sig == syscall.SIGKILL {
		b.ExpectBad(pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		b.T.Fatalf("signal %v to %d: %v", sig, pid, err)
	}
}

// Signal sends a signal to the generation that serves.
func (b *Baton) Signal(sig syscall.Signal) {
	b.T.Helper()
	b.Kill(b.PID(), sig)
}

// ReadPID returns what the PID file names, 0 if there is none.
func (b *Baton) ReadPID() int {
	content, err := os.ReadFile(b.PIDFile)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	return pid
}

// PID returns the pid of the generation that serves, from the PID file.
func (b *Baton) PID() int {
	b.T.Helper()
	pid := b.ReadPID()
	if pid == 0 {
		b.T.Fatalf("PID file %s: got no pid", b.PIDFile)
	}
	return pid
}

// AwaitReady waits until the service says that it takes requests.
func (b *Baton) AwaitReady() {
	b.T.Helper()
	await.Until(b.T, 20*time.Second, "readiness", func() bool {
		if len(b.Alive()) == 0 {
			b.T.Fatalf("exited before it was ready:\n%s", b.Log())
		}
		resp, err := http1.Fetch("tcp", b.Admin, "GET", "/readyz")
		return err == nil && resp.Status == 200
	})
}

// AwaitExit waits for a process to exit, and returns how.
func (b *Baton) AwaitExit(pid int, within time.Duration) *process.Process {
	b.T.Helper()
	b.mu.Lock()
	p := b.Known[pid]
	b.mu.Unlock()
	if p == nil {
		p = b.Follow(pid)
	}
	if !p.Within(within) {
		b.T.Fatalf("process %d: alive after %v, want it gone; alive are %v", pid, within, b.Alive())
	}
	return p
}

// Configure replaces the configuration file.
func (b *Baton) Configure(content string) {
	b.T.Helper()
	files.Put(b.T, []byte(b.Expand(content)), b.Config, 0o644)
}

// Run runs a command of the binary, to its end or for a minute.
func (b *Baton) Run(args ...string) (code int, stdout, stderr string) {
	b.T.Helper()
	return process.Run(b.T, build.Version(b.T, "v1"), append(os.Environ(), b.Mark, "GORACE=atexit_sleep_ms=0"), args...)
}

// Get makes one request of the public listener, on a connection of its own.
func (b *Baton) Get(path string, fields ...string) *http1.Response {
	b.T.Helper()
	resp, err := http1.Fetch(b.Network, b.Address, "GET", path, fields...)
	if err != nil {
		b.T.Fatalf("GET %s: %v", path, err)
	}
	return resp
}

// Dial connects to the public listener.
func (b *Baton) Dial() *http1.Conn {
	b.T.Helper()
	return http1.MustDial(b.T, b.Network, b.Address)
}

// readyz returns the status of /readyz, 0 if nobody answers.
func (b *Baton) Probe(path string) int {
	resp, err := http1.Fetch("tcp", b.Admin, "GET", path)
	if err != nil {
		return 0
	}
	return resp.Status
}

// Stop stops the service and waits until all of it is gone.
func (b *Baton) Stop() {
	b.T.Helper()
	b.Signal(syscall.SIGTERM)
	b.AwaitAllGone(20 * time.Second)
}

func (b *Baton) AwaitAllGone(within time.Duration) {
	b.T.Helper()
	await.Until(b.T, within, "end of every generation", func() bool {
		return len(b.Alive()) == 0 && len(process.Descendants(b.Mark)) == 0
	})
}

// end is run when the test ends: whatever still runs is asked to stop, everything has to be gone then,
// each generation must have exited as it should, and none may have raced or panicked.
func (b *Baton) end() {
	t := b.T
	t.Helper()
	// One that is about to exit by itself needs nobody to stop it.
	if !await.Holds(b.ending(), func() bool { return len(b.Alive()) == 0 }) {
		pid := b.ReadPID()
		if pid == 0 || !slices.Contains(b.Alive(), pid) {
			if s, err := b.TryStatus(); err == nil {
				pid = s.PID
			}
		}
		if pid == 0 {
			t.Errorf("at the end: nobody says which generation serves; alive are %v", b.Alive())
		} else {
			syscall.Kill(pid, syscall.SIGTERM)
		}
		if !await.Holds(20*time.Second, func() bool { return len(b.Alive()) == 0 }) {
			t.Errorf("at the end: %v alive 20 s after SIGTERM to %d", b.Alive(), pid)
		}
	}
	if !await.Holds(2*time.Second, func() bool { return len(process.Descendants(b.Mark)) == 0 }) {
		t.Errorf("at the end: processes %v are left over", process.Descendants(b.Mark))
	}
	for _, pid := range process.Descendants(b.Mark) {
		b.ExpectBad(pid)
		syscall.Kill(pid, syscall.SIGKILL)
		if p, err := process.Follow(pid); err == nil {
			p.Within(10 * time.Second)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for pid, p := range b.Known {
		if !p.Within(10 * time.Second) {
			continue
		}
		if !p.Known {
			p.Known = p.Reap() // its parent went without looking
		}
		if p.Known && !b.bad[pid] && (!p.Status.Exited() || p.Status.ExitStatus() != 0) {
			t.Errorf("process %d: got %s, want exit status 0", pid, p.Outcome())
		}
	}
	log := WithoutRequests(b.Log())
	for _, sign := range []string{"WARNING: DATA RACE", "panic:", "fatal error:", "goroutine 1 ["} {
		if i := strings.Index(log, sign); i >= 0 {
			t.Errorf("stderr has %q:\n%.4000s", sign, log[max(0, i-200):])
		}
	}
	if t.Failed() {
		t.Logf("stderr of all generations (the last lines):\n%s", Tail(log, 60))
	}
}

// ending is how long to wait for the last exits before somebody is asked to stop: not at all if a generation serves.
func (b *Baton) ending() time.Duration {
	if b.ReadPID() != 0 {
		return 0
	}
	return 2 * time.Second
}
