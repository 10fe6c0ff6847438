package lock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAcquire(t *testing.T) {
	write := func(mode os.FileMode) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := errors.Join(os.WriteFile(path, nil, mode), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	locked := func(mode os.FileMode) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			write(mode)(t, path)
			f, err := os.Open(path) // to read only
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		before func(t *testing.T, path string)
		want   string // part of the error; empty: none
	}{
		"free":                     {func(*testing.T, string) {}, ""},
		"left behind":              {write(0o600), ""},
		"left behind, for all":     {write(0o644), ""},
		"held":                     {locked(0o600), "the lock is held by another process"},
		"held by one who can read": {locked(0o644), "remove it"},
		"a symbolic link": {func(t *testing.T, path string) {
			if err := os.Symlink("elsewhere", path); err != nil {
				t.Fatal(err)
			}
		}, "too many levels of symbolic links"},
		"a directory": {func(t *testing.T, path string) { os.Mkdir(path, 0o700) }, "is a directory"},
		"a named pipe": {func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			test.before(t, path+".lock")
			lock, err := Acquire(path, 20*time.Millisecond)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if info, err := lock.Stat(); err != nil || info.Mode() != 0o600 {
				t.Errorf("got %v, %v, want a file of mode 0600", info, err)
			}
			if _, err := Acquire(path, 0); !errors.Is(err, ErrHeld) {
				t.Errorf("a second time: got %v, want %v", err, ErrHeld)
			}
			Release(lock)
			if _, err := os.Lstat(path + ".lock"); err == nil {
				t.Error("the file is left behind")
			}
		})
	}
}

// The file comes and goes, and one process at a time has the lock.
func TestAcquireExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var holders atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				lock, err := Acquire(path, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				holders.Add(-1)
				Release(lock)
			}
		})
	}
	all.Wait()
}
