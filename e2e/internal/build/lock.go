package build

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	exclusive = unix.LOCK_EX
	shared    = unix.LOCK_SH
)

// unused is for how long nobody has taken a directory that is removed.
const unused = time.Hour

// lock waits for a lock on a file, which it makes if need be. The lock ends with the process at the latest.
func lock(path string, how int) (unlock func(), err error) {
	// Not an os.File, which the garbage collector closes.
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(fd, how)
	}
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return func() { unix.Close(fd) }, nil
}

// claim makes a directory of this name and holds it for as long as the process lives. It removes others.
func claim(name string) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	all := filepath.Join(cache, "baton-e2e")
	dir = filepath.Join(all, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// The lock is beside the directory, and nobody removes it: a lock on a file that is gone locks nothing.
	if _, err := lock(dir+".lock", shared); err != nil {
		return "", err
	}
	// Others may have removed it between the two.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		return "", err
	}
	return dir, removeOthers(all, name)
}

// removeOthers removes the directories that nobody holds, and that nobody has taken for a while.
func removeOthers(all, own string) error {
	entries, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() || entry.Name() == own || time.Since(info.ModTime()) < unused {
			continue
		}
		path := filepath.Join(all, entry.Name())
		if unlock, err := lock(path+".lock", exclusive|unix.LOCK_NB); err == nil {
			os.RemoveAll(path)
			unlock()
		}
	}
	return nil
}
