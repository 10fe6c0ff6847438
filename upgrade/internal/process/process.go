// Package process follows and kills other processes by their pids, without the danger
// that a pid has become another process's meanwhile: by a pidfd where the kernel has
// them, see pidfd_open(2).
package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Process is another process. The zero value is one that is not known.
type Process struct {
	pid   int
	pidfd int // -1: the kernel has none (before Linux 5.3), or a sandbox forbids it
}

// Open returns the process with a pid. The process must be known to live, or the pid
// may be another's. A pid that is not positive gives the zero value.
func Open(pid int) Process {
	if pid <= 0 {
		return Process{}
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		pidfd = -1
	}
	return Process{pid, pidfd}
}

// Known reports whether p is a process.
func (p Process) Known() bool { return p.pid > 0 }

// PID returns the pid, or 0.
func (p Process) PID() int { return p.pid }

// Kill sends SIGKILL. Without a pidfd it looks first whether the process lives:
// pids are handed out in turn, so that one is not another's a moment later.
func (p Process) Kill() error {
	if !p.Known() {
		return errors.New("kill: the pid is not known")
	}
	if p.pidfd >= 0 {
		err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return ignoreEnded(err)
		}
	}
	if p.Ended() {
		return nil
	}
	return ignoreEnded(unix.Kill(p.pid, unix.SIGKILL))
}

func ignoreEnded(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// Ended reports whether the process has exited; it may be a zombie.
func (p Process) Ended() bool {
	if !p.Known() {
		return true
	}
	if p.pidfd >= 0 {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	}
	if unix.Kill(p.pid, 0) != nil { // with EPERM it is another user's by now
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	_, state, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return len(state) > 0 && (state[0] == 'Z' || state[0] == 'X')
}

// AwaitEnd returns whether the process has exited when it has, or when stop is closed.
func (p Process) AwaitEnd(stop <-chan struct{}) bool {
	for !p.Ended() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-stop:
			return false
		}
	}
	return true
}

// EndsWithin reports whether the process exits in time. It does so a moment after its
// connections have ended.
func (p Process) EndsWithin(d time.Duration) bool {
	stop := make(chan struct{})
	defer time.AfterFunc(d, func() { close(stop) }).Stop()
	return p.AwaitEnd(stop)
}

// Close releases what Open has opened. The process goes on.
func (p Process) Close() {
	if p.Known() && p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
}
