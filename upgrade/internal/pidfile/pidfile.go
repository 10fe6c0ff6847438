// Package pidfile has the PID file of a service whose processes replace each other. A
// lock stands for the file; it is passed on from process to process and ends with them,
// so that a file left behind by a crash can be distinguished from one in use without guessing from
// the number in it.
package pidfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"example.com/baton/upgrade/internal/descriptors"
	"example.com/baton/upgrade/internal/lock"
	"golang.org/x/sys/unix"
)

// File is the PID file of this process.
type File struct {
	path  string
	lock  *os.File
	fresh bool     // the lock is not the predecessor's
	file  *os.File // nil before Prepare
}

// Claim takes the lock, unless the predecessor has passed it on. It fails if another
// service is named in the file.
func Claim(path string, passed *os.File) (*File, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("claim PID file %s: it is not a regular file", path)
	}
	if passed != nil {
		return &File{path: path, lock: passed}, nil
	}
	l, err := lock.Acquire(path, 0)
	if errors.Is(err, lock.ErrHeld) {
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("claim PID file %s: it belongs to a running server (pid %.20s); stop that one, or use another file",
			path, bytes.TrimSpace(pid))
	} else if err != nil {
		return nil, fmt.Errorf("claim PID file: %w", err)
	}
	return &File{path: path, lock: l, fresh: true}, nil
}

// Path returns the path of the file.
func (p *File) Path() string { return p.path }

// Lock returns the lock, for the successor.
func (p *File) Lock() *os.File { return p.lock }

// GiveUp leaves the file to others, for a process that will never serve.
func (p *File) GiveUp() {
	if p.fresh {
		lock.Release(p.lock)
	}
}

// HandOver leaves the lock to the successor, which has a copy of it.
func (p *File) HandOver() { p.lock.Close() }

// Prepare does all that can fail for lack of space or permission.
func (p *File) Prepare() error {
	os.Remove(p.next()) // of a successor that was killed
	f, err := os.OpenFile(p.next(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write PID file: %w", err)
	}
	// For releases before the lock file, which take this for the lock.
	unix.Flock(descriptors.Number(f), unix.LOCK_EX|unix.LOCK_NB)
	if _, err = fmt.Fprintln(f, os.Getpid()); err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		os.Remove(p.next())
		return fmt.Errorf("write PID file %s: %w", p.path, err)
	}
	p.file = f
	return nil
}

// Publish puts the prepared file into place.
func (p *File) Publish() error { return os.Rename(p.next(), p.path) }

// Restore undoes what a successor has done that is dead.
func (p *File) Restore() error {
	os.Remove(p.next())
	if p.isOwn(p.path) {
		return nil
	}
	old := p.file
	if err := p.Prepare(); err != nil {
		return err
	}
	old.Close()
	return p.Publish()
}

// isOwn reports whether the file at path is this process's.
func (p *File) isOwn(path string) bool {
	there, err := os.Lstat(path)
	own, ownErr := p.file.Stat()
	return err == nil && ownErr == nil && os.SameFile(there, own)
}

// Remove deletes the file, and that of the lock, if it is still this process's.
func (p *File) Remove() {
	if p.file == nil {
		return
	}
	own := p.isOwn(p.path)
	for _, path := range []string{p.path, p.next()} {
		if p.isOwn(path) {
			os.Remove(path)
		}
	}
	p.lock.Close()
	if own {
		if l, err := lock.Acquire(p.path, 0); err == nil {
			lock.Release(l)
		}
	}
}

// next is where the file waits until its process serves. The name is fixed,
// so that what a killed successor leaves behind is used again.
func (p *File) next() string { return p.path + ".next" }
