package upgrade

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
)

// A successor whose handler does not answer a path of -check is given nothing, and its predecessor serves on. The first
// generation starts whatever it would answer.
func TestSuccessorMustAnswerItsChecks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b := service.Start(t, service.Args("-root", root, "-check", "/health.txt", "-upgrade-timeout", "3s"))
	pid := b.PID()
	u := b.TryUpgrade()
	if want := "-check /health.txt: got 404 Not Found: "; u.Code != 1 || !strings.Contains(u.Stdout, want) {
		t.Errorf("upgrade: got exit code %d, %s, want 1 and %s", u.Code, u.Stdout, want)
	}
	if got := b.PID(); got != pid {
		t.Errorf("PID file: got %d, want that of the predecessor, %d", got, pid)
	}

	result := b.UpgradeMeanwhile()
	service.AwaitStarting(t, b)
	time.Sleep(100 * time.Millisecond) // it is asked again
	files.Put(t, []byte("fine"), filepath.Join(root, "health.txt"), 0o644)
	if u := result(); u.Code != 0 || u.Generation != 2 {
		t.Errorf("upgrade: got exit code %d, %s, want 0", u.Code, u.Stdout)
	}
}
