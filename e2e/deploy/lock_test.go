package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/files"
)

// A deploy that ends removes its lock. Who has just opened that file must not take it for the lock.
func TestDeployScriptLockThatIsRemoved(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(deployScript(t))
	if err != nil {
		t.Fatal(err)
	}
	functions := strings.Join(regexp.MustCompile(`(?m)^(is_file|holds)\(\) .*\n|^take_lock\(\) \{\n(\t.*\n)*\}\n`).FindAllString(string(script), -1), "")
	dir := t.TempDir()
	real, err := exec.LookPath("flock")
	if err != nil {
		t.Fatal(err)
	}
	// In the moment before the file is locked the other deploy ends.
	files.Put(t, files.Script(`if [ -e "$lock" ] && [ ! -e gone ]; then rm "$lock"; : >gone; fi; exec `+real+` "$@"`), filepath.Join(dir, "flock"), 0o755)
	cmd := exec.Command("sh", "-euc", functions+`
		die() { echo "$1"; exit 1; }
		rollback='' kind=deploy target=baton directory=. lock=lock
		export lock
		take_lock
		[ -e gone ] && is_file lock "$(stat -L -c %d:%i /proc/self/fd/9)" && cat lock`)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), " deploy \n") {
		t.Errorf("got %v, %q, want the file at the path locked", err, out)
	}
}
