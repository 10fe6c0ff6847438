package upgrade

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errLocked: another process has the lock.
var errLocked = errors.New("the lock is held by another process")

// lockPath takes the lock that stands for a path: a file beside it that nobody else
// can open. Whoever can open a file or directory, even to read only, can lock it. The
// lock ends with the last process that has it; unlock removes the file too.
func lockPath(path string, patience time.Duration) (*os.File, error) {
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
		locked := unix.Flock(int(rawFD(f)), unix.LOCK_EX|unix.LOCK_NB) == nil
		there, err := os.Lstat(path)
		switch current := err == nil && os.SameFile(info, there); {
		case !info.Mode().IsRegular():
			err = fmt.Errorf("lock %s: it is not a regular file; remove it", path)
		case !locked && !private:
			err = fmt.Errorf("lock %s: user %d has it, and others may; remove it", path, stat.Uid)
		case !locked && time.Now().After(deadline):
			err = fmt.Errorf("lock %s: %w", path, errLocked)
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

func unlock(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}
