package upgrade

// This file holds the PID file: who serves has it locked and is named in it.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pidFile is the PID file of this generation. Its lock lives and dies with the
// process, so that a file left behind by a crash is told from one in use
// without guessing from the number in it.
type pidFile struct {
	path string
	file *os.File // locked; nil before prepare
}

// pidFileInUse fails if another service is named in the file at path.
func pidFileInUse(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("claim PID file: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("claim PID file %s: it is not a regular file", path)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid := make([]byte, 20)
		n, _ := f.Read(pid)
		return fmt.Errorf("claim PID file %s: it belongs to a running server (pid %s); stop that one, or use another file",
			path, strings.TrimSpace(string(pid[:n])))
	}
	return nil
}

// prepare does all that can fail for lack of space or permission.
func (p *pidFile) prepare() error {
	f, err := os.OpenFile(p.next(), os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("write PID file: %w", err)
	}
	if err = flock(f, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err == nil {
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

// publishFirst is prepare and publish for a generation without a predecessor:
// another server may have started in the same moment.
func (p *pidFile) publishFirst() error {
	unlock, err := lockFolder(p.path)
	if err != nil {
		return fmt.Errorf("claim PID file: %w", err)
	}
	defer unlock()
	if err := pidFileInUse(p.path); err != nil {
		return err
	}
	if err := p.prepare(); err != nil {
		return err
	}
	if err := p.publish(); err != nil {
		return fmt.Errorf("claim PID file: %w", err)
	}
	return nil
}

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

// remove deletes the file if it is still this generation's.
func (p *pidFile) remove() {
	if p.file == nil {
		return
	}
	for _, path := range []string{p.path, p.next()} {
		if p.isOwn(path) {
			os.Remove(path)
		}
	}
}

// next is where the file waits until its generation serves. The name is fixed,
// so that what a killed successor leaves behind is used again.
func (p *pidFile) next() string { return p.path + ".next" }

func flock(f *os.File, how int) error {
	return unix.Flock(int(rawFD(f)), how)
}

// lockFolder makes claims in the folder of path wait for each other.
func lockFolder(path string) (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := flock(dir, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { dir.Close() }, nil
		}
		if time.Now().After(deadline) {
			dir.Close()
			return nil, fmt.Errorf("lock folder %s: %w", dir.Name(), err)
		}
	}
}
