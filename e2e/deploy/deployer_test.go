package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The deploy script: a good release comes to serve, a bad one never does or not for long, and
// what is in place serves at the end. Here the script talks to a stand-in for systemctl, so that this
// takes neither root nor systemd; deploy_script_machine_test.go has the real one.

// systemctl is the stand-in: it knows the main process from the PID file. As with systemd, a reload goes on
// without who asked for it, and the unit is reloading meanwhile.
const systemctl = `#!/bin/sh
here=${0%/*}
. "$here/service"
case $1 in
show)
	pid=$(cat "$pid_file" 2>/dev/null)
	state=active
	[ -n "$pid" ] || state=inactive
	flock -n "$here/reloading" true || state=reloading
	cat <<END
LoadState=loaded
ActiveState=$state
SubState=running
MainPID=${pid:-0}
CanReload=yes
ExecStart={ path=$binary ; argv[]=$binary -listen somewhere ; ignore_errors=no ; start_time=[n/a] }
END
	;;
reload)
	[ ! -p "$here/gate" ] || read -r _ <"$here/gate"
	exec flock "$here/reloading" "$binary" upgrade -control "$control"
	;;
*)
	echo "no stand-in for systemctl $*" >&2
	exit 1
	;;
esac
`

// deployScript returns the path of the script.
func deployScript(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../systemd/deploy.sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A Deployer runs the deploy script for one service.
type Deployer struct {
	*service.Baton
	Tools string // the directory of the stand-ins, first in PATH
	Path  string // the rest of PATH
	Env   []string
}

// deployer makes the stand-ins for a service.
func deployer(t testing.TB, b *service.Baton) *Deployer {
	t.Helper()
	tier.Tool(t, "flock")
	d := &Deployer{Baton: b, Tools: filepath.Join(b.Dir, "tools"), Path: os.Getenv("PATH")}
	if err := os.Mkdir(d.Tools, 0o755); err != nil {
		t.Fatal(err)
	}
	files.Put(t, []byte(systemctl), filepath.Join(d.Tools, "systemctl"), 0o755)
	files.Put(t, []byte("#!/bin/sh\nexit 1\n"), filepath.Join(d.Tools, "journalctl"), 0o755)
	service := fmt.Sprintf("binary='%s'\npid_file='%s'\ncontrol='%s'\n", b.Bin, b.PIDFile, b.Control)
	files.Put(t, []byte(service), filepath.Join(d.Tools, "service"), 0o644)
	return d
}

// deployed is what came of a run of the script.
type deployed struct {
	Code           int
	Stdout, Stderr string
}

func (d deployed) String() string {
	return fmt.Sprintf("exit code %d\n%s%s", d.Code, d.Stdout, d.Stderr)
}

// command prepares a run of the script, bounded in time.
func (d *Deployer) command(args ...string) (cmd *exec.Cmd, result func() deployed) {
	d.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd = exec.CommandContext(ctx, deployScript(d.T), args...)
	cmd.Env = append(os.Environ(), d.Mark, "PATH="+d.Tools+":"+d.Path)
	cmd.Env = append(cmd.Env, d.Env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Minute
	return cmd, func() deployed {
		d.T.Helper()
		defer cancel()
		err := cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			d.T.Errorf("deploy.sh %v: %v", args, err)
		}
		code := cmd.ProcessState.ExitCode()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		return deployed{code, stdout.String(), stderr.String()}
	}
}

// Run runs the script to its end.
func (d *Deployer) Run(args ...string) deployed {
	d.T.Helper()
	cmd, result := d.command(args...)
	if err := cmd.Start(); err != nil {
		d.T.Fatal(err)
	}
	r := result()
	d.followServing()
	return r
}

// followServing makes what serves now known to the test.
func (d *Deployer) followServing() {
	if pid := d.ReadPID(); pid != 0 {
		d.TryFollow(pid)
	}
}

// Must deploys, and fails the test if that fails.
func (d *Deployer) Must(args ...string) deployed {
	d.T.Helper()
	r := d.Run(args...)
	if r.Code != 0 || r.Stderr != "" {
		d.T.Fatalf("deploy.sh %v: got %v\nwant exit code 0, nothing on stderr; log:\n%s", args, r, service.Tail(service.WithoutRequests(d.Log()), 20))
	}
	return r
}

// release returns the path of a new binary of a version, as it comes out of a build.
func (d *Deployer) release(version string) string {
	d.T.Helper()
	path := filepath.Join(d.Dir, "release-"+version)
	if _, err := os.Stat(path); err != nil {
		files.Install(d.T, build.Version(d.T, version), path)
	}
	return path
}

// check checks which versions lie in place and as the one before ("" for none), and that nothing else was left there.
func (d *Deployer) check(inPlace, previous string) {
	d.T.Helper()
	checkFiles(d.T, d.Bin, inPlace, previous)
}

func checkFiles(t testing.TB, bin, inPlace, previous string) {
	t.Helper()
	if got := versionOf(t, bin); got != inPlace {
		t.Errorf("binary in place: got %s, want %s", got, inPlace)
	}
	if got := versionOf(t, bin+".previous"); got != previous {
		t.Errorf("binary before: got %q, want %q", got, previous)
	}
	left, _ := filepath.Glob(bin + ".deploy*")
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// versionOf returns the version of a file that is one of the whole binaries, "" if there is none.
func versionOf(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	} else if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if version := build.VersionOf(t, f); version != "" {
		return version
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes of something else", info.Size())
}

// checkRuns checks which version serves, as which generation.
func (d *Deployer) checkRuns(version string, generation int) {
	d.T.Helper()
	if s := d.Status(); s.Version != version || s.Generation != generation || s.State != "serving" {
		d.T.Errorf("status: got version %s, generation %d, %s, want %s, %d, serving", s.Version, s.Generation, s.State, version, generation)
	}
	if r := d.Get("/100.bin"); r.Status != 200 {
		d.T.Errorf("GET: got %d, want 200", r.Status)
	}
}

func startDeployer(t testing.TB, options ...service.Option) *Deployer {
	t.Helper()
	return deployer(t, service.Start(t, append(options, service.Files(t), service.Args("-idle-grace", "100ms"))...))
}

// onlyTools makes a directory with nothing but the tools named, as PATH.
func (d *Deployer) onlyTools(without ...string) {
	d.T.Helper()
	only := filepath.Join(d.Dir, "only")
	os.RemoveAll(only)
	if err := os.Mkdir(only, 0o755); err != nil {
		d.T.Fatal(err)
	}
	tools := []string{"cat", "cp", "flock", "head", "id", "ln", "mv", "readlink", "rm", "sed", "sh", "stat", "sync", "timeout", "touch", "tr",
		"true"} // which the stand-in for systemctl takes
	for _, tool := range tools {
		if slices.Contains(without, tool) {
			continue
		}
		if path, err := exec.LookPath(tool); err == nil {
			os.Symlink(path, filepath.Join(only, tool))
		}
	}
	d.Path = only
}

// gate holds every reload until open is called.
func (d *Deployer) gate() (open func()) {
	d.T.Helper()
	path := filepath.Join(d.Tools, "gate")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		d.T.Fatal(err)
	}
	return func() {
		d.T.Helper()
		// Whoever opens for reading and writing does not wait for the other end.
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			d.T.Fatal(err)
		}
		defer f.Close()
		os.Remove(path)
		f.WriteString("go\n")
		// The line has to be read before the last end is closed.
		await.Until(d.T, "end of the wait at the gate", func() bool { return unread(f) == 0 })
	}
}
