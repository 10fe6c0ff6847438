package upgrade

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pidFile is the PID file of this generation. A lock stands for it that is passed on
// from generation to generation and ends with them, so that a file left behind by a
// crash is told from one in use without guessing from the number in it.
type pidFile struct {
	path  string
	lock  *os.File
	fresh bool     // the lock is not the predecessor's
	file  *os.File // nil before prepare
}

// claimPIDFile takes the lock, unless it is passed on by the predecessor. It fails if
// another service is named in the file.
func claimPIDFile(path string, passed *os.File) (*pidFile, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("claim PID file %s: it is not a regular file", path)
	}
	if passed != nil {
		return &pidFile{path: path, lock: passed}, nil
	}
	lock, err := lockPath(path, 0)
	if errors.Is(err, errLocked) {
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("claim PID file %s: it belongs to a running server (pid %.20s); stop that one, or use another file",
			path, bytes.TrimSpace(pid))
	} else if err != nil {
		return nil, fmt.Errorf("claim PID file: %w", err)
	}
	return &pidFile{path: path, lock: lock, fresh: true}, nil
}

// giveUp leaves the file to others, for a generation that will never serve.
func (p *pidFile) giveUp() {
	if p.fresh {
		unlock(p.lock)
	}
}

// handOver leaves the lock to the successor, which has a copy of it.
func (p *pidFile) handOver() { p.lock.Close() }

// prepare does all that can fail for lack of space or permission.
func (p *pidFile) prepare() error {
	os.Remove(p.next()) // of a successor that was killed
	f, err := os.OpenFile(p.next(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write PID file: %w", err)
	}
	// For releases before the lock file, which take this for the lock.
	unix.Flock(int(rawFD(f)), unix.LOCK_EX|unix.LOCK_NB)
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

// publish puts the prepared file into place.
func (p *pidFile) publish() error { return os.Rename(p.next(), p.path) }

// restore undoes what a successor has done that is dead.
func (p *pidFile) restore() error {
	os.Remove(p.next())
	if p.isOwn(p.path) {
		return nil
	}
	old := p.file
	if err := p.prepare(); err != nil {
		return err
	}
	old.Close()
	return p.publish()
}

// isOwn tells whether what is at path is this generation's.
func (p *pidFile) isOwn(path string) bool {
	there, err := os.Lstat(path)
	own, ownErr := p.file.Stat()
	return err == nil && ownErr == nil && os.SameFile(there, own)
}

// remove deletes the file, and that of the lock, if it is still this generation's.
func (p *pidFile) remove() {
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
		if lock, err := lockPath(p.path, 0); err == nil {
			unlock(lock)
		}
	}
}

// next is where the file waits until its generation serves. The name is fixed,
// so that what a killed successor leaves behind is used again.
func (p *pidFile) next() string { return p.path + ".next" }
