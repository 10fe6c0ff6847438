package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path, shared)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path, exclusive|unix.LOCK_NB); err == nil {
		t.Error("exclusive lock beside a shared one: got it, want an error")
	}
	unlock()
	if _, err := lock(path, exclusive|unix.LOCK_NB); err != nil {
		t.Errorf("after the unlock: %v", err)
	}
}

func TestRemoveOthers(t *testing.T) {
	all := t.TempDir()
	long := time.Now().Add(-2 * unused)
	for _, name := range []string{"own", "held", "old", "young"} {
		dir := filepath.Join(all, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if name == "young" {
			continue
		}
		if err := os.Chtimes(dir, long, long); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := lock(filepath.Join(all, "held.lock"), shared)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := removeOthers(all, "own"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"own": true, "held": true, "old": false, "young": true} {
		if _, err := os.Stat(filepath.Join(all, name)); (err == nil) != want {
			t.Errorf("%s: got %v, want it there: %v", name, err, want)
		}
	}
}
