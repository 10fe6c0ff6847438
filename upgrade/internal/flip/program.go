package flip

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"
)

// AbsoluteProgram makes os.Args[0], which successors are executed from,
// independent of the working directory. Symbolic links stay: a deployment may
// change where they lead. What argv[0] names need not be this program, though: it is
// whatever the caller of execve likes.
func AbsoluteProgram() error {
	if IsSuccessor() && filepath.IsAbs(os.Args[0]) {
		return nil // executed from there, and another version may be there by now
	}
	path, err := exec.LookPath(os.Args[0])
	if err == nil || errors.Is(err, exec.ErrDot) {
		path, err = filepath.Abs(path)
	}
	self, selfErr := os.Readlink("/proc/self/exe")
	if selfErr == nil && (err != nil || !isSelf(path)) {
		// A deployment may have replaced the program since its start, and then a path
		// leads to the new one that has been given in full.
		replaced := strings.HasSuffix(self, " (deleted)")
		if !replaced || err != nil || !strings.Contains(os.Args[0], "/") {
			path, err = strings.TrimSuffix(self, " (deleted)"), nil
		}
	}
	if err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	os.Args[0] = path
	return nil
}

// isSelf reports whether a path leads to the program that runs.
func isSelf(path string) bool {
	self, selfErr := os.Stat("/proc/self/exe")
	there, err := os.Stat(path)
	return selfErr == nil && err == nil && os.SameFile(self, there)
}

// directory is the working directory at the start, in which tableflip
// executes successors. There is no option for it.
//
//go:linkname directory github.com/cloudflare/tableflip.initialWD
var directory string

// errNotReady is the error of an Upgrade that comes before Ready.
//
//go:linkname errNotReady github.com/cloudflare/tableflip.errNotReady
var errNotReady error

// LeaveLostDirectory lets the successor begin in the working directory of this process
// if that of the start, which it returns then, is deleted or closed to this user.
func (p *Process) LeaveLostDirectory() (lost string) {
	if dir := directory; dir != "" && unix.Faccessat(unix.AT_FDCWD, dir, unix.X_OK, unix.AT_EACCESS) != nil {
		directory = ""
		return dir
	}
	return ""
}
