// Package flip is tableflip with all that it takes to rely on it. tableflip executes the
// successor and passes descriptors; nothing else of this module imports it.
//
// tableflip v1.2.3 has requirements, which this package meets:
//
//   - It executes what os.Args[0] leads to, so that must be independent of the working
//     directory: [AbsoluteProgram].
//   - It executes the successor in the working directory of the start, which may be gone:
//     [Process.LeaveLostDirectory].
//   - Its environment variable stays in the environment of a successor, where any other
//     program that uses tableflip would take itself for one: New removes it.
//   - A successor has tableflip's pipes as descriptors 3 and 4, and would pass them to each
//     program that it starts: New makes them close-on-exec.
//   - A successor can be upgraded only when its predecessor has closed descriptor 4's other
//     end, which tableflip holds open until the process ends. [Process.ReleasePipe] closes
//     it earlier. It is found by its inode, which the successor knows: [Process.Pipe].
//   - WaitForParent returns a moment before Upgrade is possible, and so does Ready if the
//     machine is busy: [Process.Upgrade] waits.
//   - What was added for a successor that has failed is closed only when it is collected:
//     Upgrade collects. [Process.OnlyCopy] closes tableflip's copy of what was inherited.
//   - It unlinks the paths of unix sockets before the successor has taken over. So it does
//     not know that a socket is one: the key under which it passes a listener is of a kind
//     of its own.
//   - A process can be upgraded once: [Process.Again] makes another of it.
//   - os.Stderr goes to the successor as it is: see [Stderr].
//   - After Ready there is no way back, and a process can have only one upgrader. Errors of
//     Upgrade have no types: what they mean follows from the caller's own state.
package flip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/descriptors"
	"github.com/cloudflare/tableflip"
)

const (
	// variable is set by tableflip in the environment of a successor.
	variable = "TABLEFLIP_HAS_PARENT_7DIU3"

	// socketKind is the first half of the key under which a listener is passed. It is
	// none of the networks that tableflip knows.
	socketKind = "socket"

	// fileStderr names the true standard error among the files that are passed.
	fileStderr = "stderr"

	// settling is how long after its predecessor's end a process waits before it asks
	// tableflip for an upgrade.
	settling = 50 * time.Millisecond
)

// unbounded is how long tableflip waits for a successor: the caller knows better how long it may
// take, and kills it.
const unbounded = 365 * 24 * time.Hour

// DefaultUpgradeTimeout is how long a successor may take by default.
const DefaultUpgradeTimeout = tableflip.DefaultUpgradeTimeout

// IsSuccessor reports whether another generation has started this process. It is for use before
// New, which removes the variables.
func IsSuccessor() bool { return os.Getenv(variable) != "" || os.Getenv(againVariable) != "" }

// Process is the running process as tableflip sees it.
type Process struct {
	// Stderr is the standard error of this process and of its successors.
	Stderr *Stderr

	upgrader  *tableflip.Upgrader
	pipe      uint64
	inherited string    // see Again
	settled   time.Time // when Upgrade may be called, since the channel of PredecessorGone is closed
}

// New prepares the process as the package's documentation describes. A program calls it once,
// before it starts goroutines.
func New() (*Process, error) {
	if err := AbsoluteProgram(); err != nil {
		return nil, err
	}
	if directory == "" {
		directory = "/" // tableflip must have one; each upgrade looks for itself
	}
	upgrader, err := tableflip.New(tableflip.Options{UpgradeTimeout: unbounded})
	if err != nil {
		return nil, fmt.Errorf("begin a generation: %w", err)
	}
	p := &Process{upgrader: upgrader, inherited: os.Getenv(againVariable)}
	os.Unsetenv(variable)
	os.Unsetenv(againVariable)
	if p.HasPredecessor() {
		syscall.CloseOnExec(3)
		syscall.CloseOnExec(4)
		p.pipe = descriptors.Inode(4)
	}
	real, err := upgrader.File(fileStderr)
	if err == nil {
		p.Stderr, err = newStderr(real)
	}
	if err == nil && real == nil {
		err = upgrader.AddFile(fileStderr, p.Stderr.real)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a generation: %w", err)
	}
	return p, nil
}

// HasPredecessor reports whether this process is a successor.
func (p *Process) HasPredecessor() bool { return p.upgrader.HasParent() }

// Listener claims a listener that the predecessor passes on under a name, and passes it on
// to the successor. It returns nil if there is none.
func (p *Process) Listener(name string) (net.Listener, error) {
	return p.upgrader.Listener(socketKind, name)
}

// AddListener passes a listener on to the successor.
func (p *Process) AddListener(name string, ln net.Listener) error {
	l, ok := ln.(tableflip.Listener)
	if !ok {
		return fmt.Errorf("pass on listener %s: a %T has no descriptor", name, ln)
	}
	return p.upgrader.AddListener(socketKind, name, l)
}

// File claims a file that the predecessor passes on under a name, and passes it on to the
// successor. It returns nil if there is none.
func (p *Process) File(name string) (*os.File, error) { return p.upgrader.File(name) }

// AddFile passes a file on to the successor, in place of any other of that name.
func (p *Process) AddFile(name string, f *os.File) error { return p.upgrader.AddFile(name, f) }

// OnlyCopy leaves this process no other descriptor of a pipe or socket that File has
// returned. Otherwise its end would not be noticed at the other end.
func (p *Process) OnlyCopy(f *os.File) error {
	fd := descriptors.Number(f)
	return descriptors.CloseAllBut(fd, descriptors.Inode(fd))
}

// LeaveCopies leaves a pipe or socket that was passed on, and is known by its inode, to the
// successor alone. Otherwise its end, and what is under way in it, would stay as long as
// tableflip's copy: until the next upgrade.
func (p *Process) LeaveCopies(inode uint64) error { return descriptors.CloseAllBut(-1, inode) }

// Ready marks the point of no return: the predecessor's Upgrade returns nil. What was
// passed on and not claimed is closed. An error means that the predecessor has died.
func (p *Process) Ready() error { return p.upgrader.Ready() }

// Pipe returns the inode of the pipe by whose end this process notices that of its
// predecessor, or 0.
func (p *Process) Pipe() uint64 { return p.pipe }

// ReleasePipe lets a successor be upgraded before the end of this process. pipe is what
// Pipe returns there.
func (p *Process) ReleasePipe(pipe uint64) error { return descriptors.CloseAllBut(-1, pipe) }

// PredecessorGone returns a channel that is closed when the predecessor is gone, or has
// released the pipe: Upgrade may be called from then on. It is nil without a predecessor.
func (p *Process) PredecessorGone() <-chan struct{} {
	if !p.HasPredecessor() {
		return nil
	}
	gone := make(chan struct{})
	go func() { // ends with the predecessor, or when that releases the pipe
		p.upgrader.WaitForParent(context.Background())
		p.settled = time.Now().Add(settling)
		close(gone)
	}()
	return gone
}

// Upgrade executes the successor and returns nil when that has called Ready, or an error
// when it has exited or was killed. It must not be called before Ready.
func (p *Process) Upgrade() error {
	time.Sleep(time.Until(p.settled))
	err := p.upgrader.Upgrade()
	for ; errors.Is(err, errNotReady); err = p.upgrader.Upgrade() { // its goroutine has not noticed Ready yet
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		// The files of the attempt before this one were replaced by those of this one.
		runtime.GC()
	}
	return err
}

// KillUnready kills a successor that is not ready. Upgrade then returns an error.
func (p *Process) KillUnready() error {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		pid, notProcess := strconv.Atoi(e.Name())
		if notProcess == nil && isChild(pid) {
			err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	return err
}

// isChild reports whether tableflip has started a process here. Another program that was started
// here does not have its variable.
func isChild(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	var state string
	var parent int
	fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent)
	if parent != os.Getpid() {
		return false
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+variable+"="))
}

// Stop kills a successor that is not ready, and prevents further ones.
func (p *Process) Stop() { p.upgrader.Stop() }

// Exit returns a channel that is closed when no further Upgrade is possible: after one has
// succeeded, and when Stop has closed the copies of all that would have been passed on.
func (p *Process) Exit() <-chan struct{} { return p.upgrader.Exit() }
