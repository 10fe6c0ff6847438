package service

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
)

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
	await.Until(b.T, "readiness", func() bool {
		if len(b.Alive()) == 0 {
			b.T.Fatalf("exited before it was ready:\n%s", b.Log())
		}
		resp, err := http1.Fetch("tcp", b.Admin, "GET", "/readyz")
		return err == nil && resp.Status == 200
	})
}

// AwaitExit waits for a process to exit, and returns how.
func (b *Baton) AwaitExit(pid int) *process.Process {
	b.T.Helper()
	b.mu.Lock()
	p := b.Known[pid]
	b.mu.Unlock()
	if p == nil {
		p = b.Follow(pid)
	}
	if !p.Within(await.Hang) {
		b.T.Fatalf("process %d: alive after %v, want it gone; alive are %v", pid, await.Hang, b.Alive())
	}
	return p
}

// Stop stops the service and waits until all of it is gone.
func (b *Baton) Stop() {
	b.T.Helper()
	b.Signal(syscall.SIGTERM)
	b.AwaitAllGone()
}

func (b *Baton) AwaitAllGone() {
	b.T.Helper()
	await.Until(b.T, "end of every generation", func() bool {
		return len(b.Alive()) == 0 && len(process.Descendants(b.Mark)) == 0
	})
}

// end is run when the test ends: whatever still runs is asked to stop, everything has to be gone then,
// each generation must have exited as it should, and none may have raced or panicked.
func (b *Baton) end() {
	t := b.T
	t.Helper()
	// One that a predecessor has executed in place of its successor.
	if pid := b.ReadPID(); slices.Contains(process.Descendants(b.Mark), pid) {
		b.TryFollow(pid)
	}
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
		if !await.Holds(await.Hang, func() bool { return len(b.Alive()) == 0 }) {
			t.Errorf("at the end: %v alive 20 s after SIGTERM to %d", b.Alive(), pid)
		}
	}
	if !await.Holds(await.Hang, func() bool { return len(process.Descendants(b.Mark)) == 0 }) {
		t.Errorf("at the end: processes %v are left over", process.Descendants(b.Mark))
	}
	for _, pid := range process.Descendants(b.Mark) {
		b.ExpectBad(pid)
		syscall.Kill(pid, syscall.SIGKILL)
		if p, err := process.Follow(pid); err == nil {
			p.Within(await.Hang)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for pid, p := range b.Known {
		if !p.Within(await.Hang) {
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
