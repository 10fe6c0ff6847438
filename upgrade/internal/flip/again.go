package flip

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"example.com/baton/upgrade/internal/descriptors"
)

// againVariable is set in the environment of a process that was executed by [Process.Again].
const againVariable = "UPGRADE_INHERITED"

// Again executes the program that runs here once more, which its path need not lead to any more,
// as a process that has no predecessor for tableflip. The path is what its successors are
// executed from nevertheless. It gets the descriptors as 3 and so on, and [Process.Inherited]
// returns a text there. The caller has to wait for it.
//
// It must not be called before the channel of [Process.Exit] is closed: until then this process
// has copies of all that was passed on.
func (p *Process) Again(fds []int, text string) (pid int, err error) {
	files := []uintptr{0, 1, uintptr(descriptors.Number(p.Stderr.real))}
	for _, fd := range fds {
		files = append(files, uintptr(fd))
	}
	// As tableflip does, not as os.StartProcess: that would switch the open file descriptions to
	// blocking mode.
	pid, err = syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Dir: directory, Env: append(os.Environ(), againVariable+"="+text), Files: files,
	})
	runtime.KeepAlive(p.Stderr.real)
	if err != nil {
		return 0, fmt.Errorf("execute this program again: %w", err)
	}
	return pid, nil
}

// Inherited returns the text that was given to Again, if that has executed this process; empty
// otherwise.
func (p *Process) Inherited() string { return p.inherited }
