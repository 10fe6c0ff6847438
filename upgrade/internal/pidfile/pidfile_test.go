package pidfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// serving claims, writes and publishes a PID file.
func serving(t *testing.T, path string, passed *os.File) *File {
	t.Helper()
	p, err := Claim(path, passed)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(); err != nil {
		t.Fatal(err)
	}
	return p
}

// duplicate stands for passing the lock to another process.
func duplicate(t *testing.T, f *os.File) *os.File {
	t.Helper()
	copied, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

func left(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestLifeOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p := serving(t, path, nil)
	if text, err := os.ReadFile(path); err != nil || string(text) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("got %q, %v, want this pid", text, err)
	}
	if _, err := Claim(path, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("belongs to a running server (pid %d)", os.Getpid())) {
		t.Errorf("a second server: got %v, want it refused", err)
	}
	p.Remove()
	if names := left(t, path); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

// A file that a killed server has left behind belongs to nobody.
func TestStaleFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(path, []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	serving(t, path, nil).Remove()
	if names := left(t, path); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

// A successor that has put its name into the file and died before it served.
func TestRestore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p := serving(t, path, nil)
	if err := p.Restore(); err != nil { // it had not come so far
		t.Fatal(err)
	}
	successor := serving(t, path, duplicate(t, p.Lock()))
	if p.isOwn(path) || !successor.isOwn(path) {
		t.Fatal("the file is not the successor's")
	}
	if err := p.Restore(); err != nil {
		t.Fatal(err)
	}
	if !p.isOwn(path) {
		t.Error("the file is still the successor's")
	}
	p.Remove()
}

// A predecessor that exits leaves the successor's file alone.
func TestRemoveAfterTheHandoff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p := serving(t, path, nil)
	successor := serving(t, path, duplicate(t, p.Lock()))
	p.HandOver()
	p.Remove()
	if !successor.isOwn(path) {
		t.Error("the successor's file is gone")
	}
}

func TestGiveUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p, err := Claim(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.GiveUp()
	if names := left(t, path); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
	if _, err := Claim(filepath.Dir(path), nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: got %v, want it refused", err)
	}
}
