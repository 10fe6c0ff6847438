package build

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
)

// TestResultsAreNeverStale changes sources in a copy of the module, and sees which results are cached.
func TestResultsAreNeverStale(t *testing.T) {
	tier.Slow(t, "runs go test four times in a copy of the module")
	t.Parallel()
	module := filepath.Join(t.TempDir(), "baton")
	if err := os.CopyFS(module, os.DirFS(Root(t))); err != nil {
		t.Fatal(err)
	}
	// go test does not cache what depends on a file that is younger than two seconds.
	past := time.Now().Add(-time.Hour)
	change := func(name, end string) {
		t.Helper()
		path := filepath.Join(module, name)
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(end); err != nil {
			t.Fatal(err)
		}
		past = past.Add(time.Minute)
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := filepath.WalkDir(module, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, past, past)
	}); err != nil {
		t.Fatal(err)
	}
	isCached := func() bool {
		t.Helper()
		run := exec.Command("go", "test", "-run", "^TestVersion$", "./e2e/cli")
		run.Dir = module
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("go test: %v\n%s", err, out)
		}
		return strings.Contains(string(out), "(cached)")
	}
	isCached() // fills the cache
	if !isCached() {
		t.Error("nothing has changed: the tests ran again, want the result from the cache")
	}
	for _, source := range []struct{ name, end string }{
		{"main.go", "\n// changed\n"},
		{"systemd/deploy.sh", "\n# changed\n"},
	} {
		change(source.name, source.end)
		if isCached() {
			t.Errorf("%s has changed: the result is from the cache, want the tests to run again", source.name)
		}
	}
}
