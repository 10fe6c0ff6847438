// Package files writes the files that a test needs.
package files

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Install puts a copy of a program in a place.
func Install(t testing.TB, from, to string) {
	t.Helper()
	program, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	place(t, to, 0o755, func(f *os.File) error {
		_, err := io.Copy(f, program) // which the kernel does
		return err
	})
}

// Put writes a file beside its place and moves it there.
func Put(t testing.TB, content []byte, to string, mode os.FileMode) {
	t.Helper()
	place(t, to, mode, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}

func place(t testing.TB, to string, mode os.FileMode, write func(*os.File) error) {
	t.Helper()
	// A child forked meanwhile would hold the file open for writing until it execs, and whoever
	// executes the file then fails with ETXTBSY.
	syscall.ForkLock.RLock()
	f, err := os.OpenFile(to+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err == nil {
		err = errors.Join(write(f), f.Close())
	}
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
