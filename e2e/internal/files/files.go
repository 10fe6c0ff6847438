// Package files writes the files that a test needs.
package files

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Install puts a copy of a program in place, as Put does.
func Install(t testing.TB, from, to string) {
	t.Helper()
	program, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	put(t, program, to, 0o755)
}

// Put writes a file beside its place and moves it there.
func Put(t testing.TB, content []byte, to string, mode os.FileMode) {
	t.Helper()
	put(t, bytes.NewReader(content), to, mode)
}

// put leaves a copy from file to file to the kernel.
func put(t testing.TB, content io.Reader, to string, mode os.FileMode) {
	t.Helper()
	err := write(content, to+".new", mode)
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

func write(content io.Reader, to string, mode os.FileMode) error {
	// A child forked meanwhile would hold the file open for writing until it execs, and whoever
	// executes the file then fails with ETXTBSY.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
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
