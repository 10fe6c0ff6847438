package files

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/handlers/internal/testserver"
	"golang.org/x/sys/unix"
)

// What is remembered of a file is that of no other version, and bounded.
func TestFilesMemory(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a.txt"), strings.Repeat("a", maxRead), 0o644)
	put(t, filepath.Join(dir, "large.txt"), strings.Repeat("a", maxRead+1), 0o644)
	h, err := New(Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	f := h.(*files)
	for _, name := range []string{"a.txt", "large.txt"} {
		file, err := f.open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.close()
		etag, _, err := f.memory.validators(file)
		if err != nil {
			t.Fatal(err)
		}
		testserver.Equal(t, "remembered of a file that has just changed", len(f.memory.known), 0)
		file.isNoted = true
		file.stat.Ctim.Sec -= 3
		for range 2 {
			again, _, err := f.memory.validators(file)
			if err != nil {
				t.Fatal(err)
			}
			testserver.Equal(t, "ETag", again, etag)
			testserver.Equal(t, "remembered", len(f.memory.known), 1)
		}
		testserver.Equal(t, "recalled, while it may change unnoticed", f.memory.recall(file), false)
		file.isNoted = false
		file.stat.Ctim.Sec -= 60
		f.memory.validators(file)
		testserver.Equal(t, "recalled, where that is always so", f.memory.recall(file), false)
		file.isNoted, file.etag = true, ""
		f.memory.validators(file)
		testserver.Equal(t, "recalled", f.memory.recall(file), name == "a.txt")
		for range maxKnown {
			file.stat.Ino++
			f.memory.remember(file, etag)
			if len(f.memory.known) > maxKnown || f.memory.held > maxHeld {
				t.Fatalf("got %d files and %d bytes remembered, want %d and %d at most", len(f.memory.known), f.memory.held, maxKnown, maxHeld)
			}
		}
		clear(f.memory.known)
		f.memory.held = 0
	}
}

// A small file is opened once. Then it is as on the disk, whatever happens to it.
func TestFilesRemembered(t *testing.T) {
	tier.Slow(t, "waits until a file is old enough")
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.txt")
	put(t, path, "one", 0o644)
	var written unix.Stat_t
	if err := unix.Stat(path, &written); err != nil {
		t.Fatal(err)
	}
	h, err := New(Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	f := h.(*files)
	f.memory.written = settled
	time.Sleep(time.Until(time.Unix(written.Ctim.Unix()).Add(settled + 10*time.Millisecond))) // it is not remembered before
	first := get(h, "/a.txt")
	testserver.Equal(t, "body", first.Body.String(), "one")
	for range 2 {
		again := get(h, "/a.txt")
		testserver.Equal(t, "remembered", len(f.memory.known), 1)
		if notes(f.root.fd) { // O_PATH tells, too
			testserver.Equal(t, "bytes remembered", f.memory.held, len("one"))
		}
		testserver.Equal(t, "body", again.Body.String(), "one")
		testserver.Equal(t, "ETag", again.Header().Get("Etag"), first.Header().Get("Etag"))
	}
	modified := time.Unix(written.Mtim.Unix())
	for _, change := range []struct {
		name   string
		change func() error
		status int
		body   string
	}{
		{"another of the same length and time", func() error {
			put(t, path+".new", "two", 0o644)
			if err := os.Chtimes(path+".new", modified, modified); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, http.StatusOK, "two"},
		{"written in place, the time put back", func() error {
			if err := os.WriteFile(path, []byte("six"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(path, modified, modified)
		}, http.StatusOK, "six"},
		{"unreadable", func() error { return os.Chmod(path, 0) }, http.StatusForbidden, "forbidden"},
		{"a link that leads out", func() error { os.Remove(path); return os.Symlink("/etc/hostname", path) }, http.StatusNotFound, "not found"},
		{"a directory", func() error { os.Remove(path); return os.Mkdir(path, 0o755) }, http.StatusMovedPermanently, ""},
		{"removed", func() error { return os.Remove(path) }, http.StatusNotFound, "not found"},
	} {
		if err := change.change(); err != nil {
			t.Fatal(err)
		}
		unprivileged(t, func() {
			got := get(h, "/a.txt")
			testserver.Equal(t, change.name+": status", got.Code, change.status)
			if !strings.Contains(got.Body.String(), change.body) {
				t.Errorf("%s: got %q, want %q", change.name, got.Body, change.body)
			}
		})
	}
}
