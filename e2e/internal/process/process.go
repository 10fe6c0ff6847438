// Package process follows processes by their ids: through a pidfd, reaped when they became ours.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one process that is being followed until it exits.
type Process struct {
	Pid  int
	gone chan struct{} // closed when it has exited

	// To be read once gone is closed.
	Exited time.Time
	Status unix.WaitStatus
	Known  bool // whether the status could be learnt: only a parent can
}

// Follow starts to follow a process that is alive or a zombie.
func Follow(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	p := &Process{Pid: pid, gone: make(chan struct{})}
	go func() {
		defer close(p.gone)
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		p.Exited = time.Now()
		p.Known = p.Reap()
	}()
	return p, nil
}

// Reap collects the exit status if the process is a zombie of ours.
func (p *Process) Reap() bool {
	pid, err := unix.Wait4(p.Pid, &p.Status, unix.WNOHANG, nil)
	return err == nil && pid == p.Pid
}

// Alive says whether the process has not exited yet.
func (p *Process) Alive() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// Within waits for the exit, and says whether it came.
func (p *Process) Within(d time.Duration) bool {
	select {
	case <-p.gone:
		return true
	case <-time.After(d):
		return false
	}
}

// Outcome says how the process ended, for messages.
func (p *Process) Outcome() string {
	switch {
	case p.Alive():
		return "alive"
	case !p.Known:
		return "exited, status known to its parent only"
	case p.Status.Signaled():
		return "ended by " + p.Status.Signal().String()
	default:
		return fmt.Sprintf("exit status %d", p.Status.ExitStatus())
	}
}

// Descendants returns the living processes whose environment carries the mark that a test gave to what it started.
func Descendants(mark string) (pids []int) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // tests ask often: not Glob, which looks at each of them, too
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile("/proc/" + name + "/environ")
		if err == nil && bytes.Contains(environ, []byte(mark)) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// Children returns the pids of the children of a process, zombies included.
func Children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		content, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(content)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// Executed says whether a process has executed a program since it was forked. Until then it shares its parent's
// memory and holds the thread that forked it: SIGSTOP to it in that instant would stop the parent as well,
// as soon as its garbage collector asks for all threads.
func Executed(pid int) bool {
	const forkNoExec = 0x40 // PF_FORKNOEXEC of linux/sched.h
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// After the name, which may contain anything: the state, five ids, and the flags.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return err == nil && flags&forkNoExec == 0
}

// ProcStatus returns a line of /proc/PID/status, such as "VmRSS".
func ProcStatus(t testing.TB, pid int, name string) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in /proc/%d/status", name, pid)
	return ""
}

// Stopped says whether a process is held by SIGSTOP.
func Stopped(t testing.TB, pid int) bool {
	t.Helper()
	return strings.HasPrefix(ProcStatus(t, pid, "State"), "T")
}

// Sleeps says whether a process with one thread waits for something.
func Sleeps(pid int) bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "S")
}
