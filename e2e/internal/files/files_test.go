package files

import (
	"os"
	"path/filepath"
	"testing"
)

// Whoever has a file open keeps the old one: it is replaced, not written to.
func TestPut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	Put(t, []byte("old"), path, 0o600)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	Put(t, []byte("new one"), path, 0o755)
	old := make([]byte, 10)
	if n, _ := f.Read(old); string(old[:n]) != "old" {
		t.Errorf("the file that was open: got %q, want old", old[:n])
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o755 || info.Size() != 7 {
		t.Errorf("the file: got %v, %v, want mode 0755 and 7 bytes", info, err)
	}
	if left := Glob(t, filepath.Join(filepath.Dir(path), "*")); len(left) != 1 || left[0] != "new one" {
		t.Errorf("in the directory: got %q, want the new one alone", left)
	}
}
