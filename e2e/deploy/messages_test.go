package deploy

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// What the scripts of systemd/ say and leave in places where they cannot do what is asked for.

// --uninstall removes what was installed, without being given where; and never silently leaves it.
func TestUninstallFindsThePrefix(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, prefix string
		uninstall    []string
		code         int
		says         string
	}{
		{name: "another prefix", prefix: "/opt/baton"},
		{name: "the root", prefix: "/"},
		{name: "the same prefix given", prefix: "/opt/baton", uninstall: []string{"--prefix=/opt/baton/"}},
		{name: "a wrong prefix given", prefix: "/opt/baton", uninstall: []string{"--prefix", "/usr/local"}, code: 1,
			says: "install.sh: baton.service runs /opt/baton/bin/baton: want --prefix /opt/baton, or none\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := append(os.Environ(), "DESTDIR="+t.TempDir())
			files := func() (paths []string) {
				dir := strings.TrimPrefix(env[len(env)-1], "DESTDIR=")
				filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
					if err == nil && !d.IsDir() {
						paths = append(paths, strings.TrimPrefix(path, dir))
					}
					return nil
				})
				return paths
			}
			install := func(args ...string) (int, string) {
				code, stdout, stderr := process.Run(t, "../../systemd/install.sh", env, args...)
				return code, stdout + stderr
			}
			if code, out := install("--prefix", tt.prefix, build.Version(t, "v1")); code != 0 {
				t.Fatalf("install: got exit code %d, %s", code, out)
			}
			all := len(files())
			code, out := install(append(tt.uninstall, "--uninstall")...)
			if code != tt.code || tt.code != 0 && out != tt.says {
				t.Errorf("--uninstall: got exit code %d, %swant %d, %s", code, out, tt.code, tt.says)
			}
			want := 0
			if tt.code != 0 {
				want = all
			}
			if left := files(); len(left) != want {
				t.Errorf("after --uninstall: %v are left, want %d files", left, want)
			}
		})
	}
}

// A program that embeds Baton's packages would serve if it were asked for its version.
func TestInstallDoesNotRunAnotherProgram(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
	path := filepath.Join(m.Shared, "shop")
	files.Put(t, contentOf(t, build.Embedded), path, 0o755)
	out, code := m.Run("timeout", "60", m.Installer(), path)
	if want := "install.sh: " + path + " is not baton\n"; code != 1 || out != want {
		t.Errorf("got exit code %d, %swant 1, %s", code, out, want)
	}
}

// A host that cannot be reached reads nothing of the release, and cat has nothing to say about that.
func TestDeployScriptUnreachableHost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files.Put(t, []byte("#!/bin/sh\necho 'ssh: no such host' >&2\nexit 255\n"), filepath.Join(dir, "ssh"), 0o755)
	code, stdout, stderr := process.Run(t, deployScript(t), append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH")), "--host", "web9", build.Version(t, "v2"))
	want := "ssh: no such host\ndeploy: web9: cannot be reached with ssh\ndeploy: stopped at web9\n"
	if code != 1 || stderr != want {
		t.Errorf("got exit code %d, stderr\n%swant 1,\n%s", code, stderr, want)
	}
	if !regexp.MustCompile(`^web9:\n\nweb9 +failed +unknown: ssh: no such host\n$`).MatchString(stdout) {
		t.Errorf("stdout: got\n%s", stdout)
	}
}

// A binary that is missing is to be put in its place; of a process that runs it can be had from there.
func TestDeployScriptMissingBinary(t *testing.T) {
	tier.Slow(t, "deploys where the binary is missing")
	t.Parallel()
	d := startDeployer(t)
	if err := os.Remove(d.Bin); err != nil {
		t.Fatal(err)
	}
	for _, serving := range []bool{true, false} {
		want := "deploy: " + d.Bin + ", which baton.service runs, does not exist; put a binary in its place\n"
		if serving {
			want = strings.TrimSuffix(want, "\n") + ", as with: cp /proc/"
		} else {
			pid := d.PID()
			d.Kill(pid, syscall.SIGTERM)
			d.AwaitExit(pid)
		}
		if got := d.Run("--start", d.release("v2")); got.Code != 1 || !strings.HasPrefix(got.Stderr, want) || strings.Contains(got.Stderr, "/proc/0/") {
			t.Errorf("serving %v: got %v\nwant exit code 1, %s", serving, got, want)
		}
	}
}

// The messages of a failed reload may be longer than what is shown of them.
func TestDeployScriptLongReason(t *testing.T) {
	tier.Slow(t, "deploys what fails with much to say")
	t.Parallel()
	d := startDeployer(t)
	many, err := exec.LookPath("seq")
	if err != nil {
		t.Fatal(err)
	}
	files.Put(t, []byte("#!/bin/sh\ncase $* in\n*--show-cursor*) echo '-- cursor: x' ;;\n*--after-cursor*) "+many+
		" -f 'baton: reason %.0f' 100000 ;;\nesac\n"), filepath.Join(d.Tools, "journalctl"), 0o755)
	path := filepath.Join(d.Dir, "bad")
	files.Put(t, stub(build.Version(t, "v1"), "exit 1"), path, 0o755)
	got := d.Run(path)
	if got.Code != 1 || strings.Count(got.Stderr, "deploy: baton: reason ") != 30 {
		t.Errorf("got exit code %d, want 1, with 30 lines of reasons:\n%s", got.Code, service.Tail(got.Stderr, 40))
	}
	for line := range strings.Lines(got.Stderr) {
		if !strings.HasPrefix(line, "deploy: ") {
			t.Errorf("stderr: got %q, want it to begin with deploy:", line)
		}
	}
}

// A release that knows nothing of the script's questions is replaced all the same: the new one answers them. And
// where no baton can, nothing is touched.
func TestDeployScriptFromThePast(t *testing.T) {
	tier.Slow(t, "builds a release of the past")
	t.Parallel()
	d := startDeployer(t)
	build.Version(t, build.Past)
	d.Deploy(build.Past)
	d.Upgrade()
	d.followServing()
	bad := filepath.Join(d.Dir, "bad")
	files.Put(t, []byte("#!/bin/sh\n# baton 2 (commit none)\necho no way\nexit 1\n"), bad, 0o755)
	want := "deploy: there is no baton to query the service with (" + bad + ": no way); install one beside this script or on the PATH; nothing was replaced\n"
	if got := d.Run(bad); got.Code != 1 || got.Stderr != want {
		t.Errorf("nobody to ask: got %v\nwant %s", got, want)
	}
	d.check(build.Past, "")
	d.Must(d.release("v2"))
	d.check("v2", build.Past)
	d.checkRuns("v2", 3)
	d.Must("--rollback")
	d.check(build.Past, "v2")
	d.checkRuns(build.Past, 4)
	d.Must("--status")
	d.Must("--rollback")
	d.check("v2", build.Past)
}
