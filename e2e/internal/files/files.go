// Package files writes the files that a test needs.
package files

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func Install(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	Put(t, content, to, 0o755)
}

// Put writes a file beside its place and moves it there.
func Put(t testing.TB, content []byte, to string, mode os.FileMode) {
	t.Helper()
	// A child forked meanwhile would hold the file open for writing until it execs, and whoever
	// executes the file then fails with ETXTBSY.
	syscall.ForkLock.RLock()
	err := os.WriteFile(to+".new", content, mode)
	syscall.ForkLock.RUnlock()
	if err == nil {
		err = os.Chmod(to+".new", mode) // whatever the umask
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Script is a successor made of a shell script.
func Script(lines string) []byte { return []byte("#!/bin/sh\n" + lines + "\n") }

// Glob returns the contents of the files that match, as far as they are there.
func Glob(t *testing.T, pattern string) (contents []string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, _ := os.ReadFile(path)
		contents = append(contents, string(content))
	}
	return contents
}
