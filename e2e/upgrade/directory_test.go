package upgrade

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Where a service is started from, and under which name: neither is needed for an upgrade.

func TestNameOfAnotherProgram(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, argv0 string
	}{
		{"in PATH", "baton"},
		{"by its path", "DIR/other/baton"},
		{"of no program", "-baton"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := service.Prepare(t, service.Files(t), service.Args("-idle-grace", "50ms"), service.Launched("DIR", "DIR/baton", tt.argv0), service.Env("PATH=DIR/other:/usr/bin:/bin"))
			other := filepath.Join(b.Dir, "other")
			if err := os.Mkdir(other, 0o755); err != nil {
				t.Fatal(err)
			}
			files.Put(t, files.Script("echo this is another program >&2; exit 9"), filepath.Join(other, "baton"), 0o755)
			b.Launch()
			b.AwaitReady()
			b.Deploy("v2")
			for range 2 {
				if u := b.Upgrade(); u.Version != "v2" {
					t.Errorf("upgrade: got version %s, want v2", u.Version)
				}
			}
		})
	}
}

func TestWorkingDirectoryIsLost(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"after the start", "before the start"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			b := service.Prepare(t, service.Files(t), service.Args("-idle-grace", "50ms"), service.Launched("DIR/work", "DIR/baton", "DIR/baton"))
			work := filepath.Join(b.Dir, "work")
			if err := os.Mkdir(work, 0o755); err != nil {
				t.Fatal(err)
			}
			if when == "before the start" {
				// The shell begins in it.
				next := filepath.Join(b.Dir, "next")
				files.Install(t, build.Version(t, "v1"), next)
				b.DeployBytes(files.Script(`rmdir "`+work+`"; exec "`+next+`" "$@"`), 0o755)
			}
			b.Launch()
			b.AwaitReady()
			os.Remove(work)
			for range 2 {
				b.Upgrade()
			}
		})
	}
}

// A directory that root has started the service in may be closed to the user that it runs as.
func TestWorkingDirectoryIsClosed(t *testing.T) {
	t.Parallel()
	tier.Root(t) // to start a process in a directory that is closed to it
	b := service.Prepare(t, service.Args("-idle-grace", "50ms"))
	closed := filepath.Join(b.Dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(b.Dir, "own") // of the user, given by root
	if err := errors.Join(os.Chmod(b.Dir, 0o711), os.Mkdir(own, 0o700), os.Chown(own, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	b.Control, b.PIDFile = filepath.Join(own, "control.sock"), filepath.Join(own, "baton.pid")
	cmd := exec.Command(tier.Tool(t, "setpriv"), append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", b.Bin}, b.Flags()...)...)
	cmd.Dir = closed
	cmd.Env = append(os.Environ(), b.Mark)
	stderr, err := os.OpenFile(b.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.Follow(cmd.Process.Pid)
	b.AwaitReady()
	for range 2 {
		b.Upgrade()
	}
}
