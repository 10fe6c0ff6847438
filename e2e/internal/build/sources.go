package build

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

var sources struct {
	sync.Once
	root string // the directory of the module
	dir  string // that of what is built from it
	hash string
	err  error
}

// Root returns the directory of the module.
func Root(t testing.TB) string {
	t.Helper()
	directory(t)
	return sources.root
}

// directory returns the directory of what is built from the sources as they are, which it reads for that.
//
// This is also what keeps results from being stale: go test takes one from its cache if nothing has changed that
// the test itself has opened below the module's root; it does not know what a `go build` has that a test started.
// What TestMain opens before it runs the tests does not count.
func directory(t testing.TB) string {
	t.Helper()
	sources.Do(func() {
		sources.err = func() (err error) {
			if sources.root, err = moduleRoot(); err != nil {
				return err
			}
			if sources.hash, err = hashOf(sources.root); err != nil {
				return err
			}
			sources.dir, err = claim(sources.hash)
			return err
		}()
	})
	if sources.err != nil {
		t.Fatal("read the sources:", sources.err)
	}
	return sources.dir
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("no go.mod above the working directory")
		}
	}
	return "", err
}

// hashOf reads every file of the module, but those of directories like .git.
func hashOf(root string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), Race, os.Getenv("GOFLAGS"))
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(hash, "%s %d %s", strings.TrimPrefix(path, root), len(content), content)
		return err
	})
	return fmt.Sprintf("%x", hash.Sum(nil)[:12]), err
}

// checkUnchanged fails if the sources are no longer those that the directory is named after.
func checkUnchanged() error {
	hash, err := hashOf(sources.root)
	if err == nil && hash != sources.hash {
		err = errors.New("the sources changed while they were built: run the tests again")
	}
	return err
}
