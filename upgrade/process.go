package upgrade

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// process is a neighbour in the line of generations. The zero value is one that
// is not known.
type process struct {
	pid   int
	pidfd int // -1: the kernel has none (before Linux 5.3), or a sandbox forbids it
}

// openProcess must be called while the process is known to live, or its pid may
// be another's.
func openProcess(pid int) process {
	if pid <= 0 {
		return process{}
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		pidfd = -1
	}
	return process{pid, pidfd}
}

func (p process) known() bool { return p.pid > 0 }

// kill sends SIGKILL. Without a pidfd it looks first whether the process lives:
// pids are handed out in turn, so that one is not another's a moment later.
func (p process) kill() error {
	if !p.known() {
		return errors.New("kill: the pid is not known")
	}
	if p.pidfd >= 0 {
		err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
		if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return ignoreEnded(err)
		}
	}
	if p.ended() {
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

// ended reports whether the process has exited; it may be a zombie.
func (p process) ended() bool {
	if !p.known() {
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

// awaitEnd returns whether the process has exited when it has, or when stop is closed.
func (p process) awaitEnd(stop <-chan struct{}) bool {
	for !p.ended() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-stop:
			return false
		}
	}
	return true
}

// endsWithin reports whether the process exits in time. That comes a moment after
// the end of its links.
func (p process) endsWithin(d time.Duration) bool {
	stop := make(chan struct{})
	defer time.AfterFunc(d, func() { close(stop) }).Stop()
	return p.awaitEnd(stop)
}

func (p process) close() {
	if p.known() && p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
}
