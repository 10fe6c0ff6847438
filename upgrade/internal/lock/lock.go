// Package lock has locks that stand for paths, and that no other user can hold: whoever
// can open a file or directory, even to read only, can lock it.
package lock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/descriptors"
	"golang.org/x/sys/unix"
)

// ErrHeld is the error of a lock that another process has.
var ErrHeld = errors.New("the lock is held by another process")

// Acquire takes the lock that stands for a path: a file beside it that no other user
// can open. It waits for another process no longer than patience. The lock ends with the
// last process that has the file open.
func Acquire(path string, patience time.Duration) (*os.File, error) {
	path += ".lock"
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		stat := info.Sys().(*syscall.Stat_t)
		private := info.Mode().Perm()&0o077 == 0 && int(stat.Uid) == os.Geteuid()
		locked := unix.Flock(descriptors.Number(f), unix.LOCK_EX|unix.LOCK_NB) == nil
		there, err := os.Lstat(path)
		switch current := err == nil && os.SameFile(info, there); {
		case !info.Mode().IsRegular():
			err = fmt.Errorf("lock %s: it is not a regular file; remove it", path)
		case !locked && !private:
			err = fmt.Errorf("lock %s: user %d has it, and others may; remove it", path, stat.Uid)
		case !locked && time.Now().After(deadline):
			err = fmt.Errorf("lock %s: %w", path, ErrHeld)
		case locked && private && current:
			return f, nil
		case locked && current:
			err = os.Remove(path) // left over; the next is private
		default: // another process has just unlocked, or is about to
			err = nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// Release ends the lock and removes its file.
func Release(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}
