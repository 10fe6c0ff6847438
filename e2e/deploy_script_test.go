// The deploy script: a good release comes to serve, one that is no good never does or not for long, and
// what is in place serves at the end. Here the script talks to a stand-in for systemctl, so that this
// takes neither root nor systemd; deploy_script_machine_test.go has the real one.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
	path, err := filepath.Abs("../systemd/deploy.sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A Deployer runs the deploy script for one service.
type Deployer struct {
	*Baton
	Tools string // the folder of the stand-ins, first in PATH
	Path  string // the rest of PATH
	Env   []string
}

// deployer makes the stand-ins for a service.
func deployer(t testing.TB, b *Baton) *Deployer {
	t.Helper()
	need(t, "flock")
	d := &Deployer{Baton: b, Tools: filepath.Join(b.Dir, "tools"), Path: os.Getenv("PATH")}
	if err := os.Mkdir(d.Tools, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, []byte(systemctl), filepath.Join(d.Tools, "systemctl"), 0o755)
	put(t, []byte("#!/bin/sh\nexit 1\n"), filepath.Join(d.Tools, "journalctl"), 0o755)
	service := fmt.Sprintf("binary='%s'\npid_file='%s'\ncontrol='%s'\n", b.Bin, b.PIDFile, b.Control)
	put(t, []byte(service), filepath.Join(d.Tools, "service"), 0o644)
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
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd = exec.CommandContext(ctx, deployScript(d.t), args...)
	cmd.Env = append(os.Environ(), d.mark, "GORACE=atexit_sleep_ms=0", "PATH="+d.Tools+":"+d.Path)
	cmd.Env = append(cmd.Env, d.Env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Minute
	return cmd, func() deployed {
		d.t.Helper()
		defer cancel()
		err := cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			d.t.Errorf("deploy.sh %v: %v", args, err)
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
	d.t.Helper()
	cmd, result := d.command(args...)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	r := result()
	d.followServing()
	return r
}

// followServing makes what serves now known to the test.
func (d *Deployer) followServing() {
	if pid := d.readPID(); pid != 0 {
		d.tryFollow(pid)
	}
}

// Must deploys, and fails the test if that fails.
func (d *Deployer) Must(args ...string) deployed {
	d.t.Helper()
	r := d.Run(args...)
	if r.Code != 0 || r.Stderr != "" {
		d.t.Fatalf("deploy.sh %v: got %v\nwant exit code 0, nothing on stderr; log:\n%s", args, r, tail(withoutRequests(d.Log()), 20))
	}
	return r
}

// release returns the path of a new binary of a version, as it comes out of a build.
func (d *Deployer) release(version string) string {
	d.t.Helper()
	path := filepath.Join(d.Dir, "release-"+version)
	if _, err := os.Stat(path); err != nil {
		install(d.t, built(d.t, version), path)
	}
	return path
}

// check checks which versions lie in place and as the one before ("" for none), and that nothing else was left there.
func (d *Deployer) check(inPlace, previous string) {
	d.t.Helper()
	checkFiles(d.t, d.Bin, inPlace, previous)
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
	got, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	} else if err != nil {
		t.Fatal(err)
	}
	builds.mu.Lock()
	defer builds.mu.Unlock()
	for version, failed := range builds.done {
		want, err := os.ReadFile(filepath.Join(builds.dir, version))
		if failed == nil && err == nil && bytes.Equal(got, want) {
			return version
		}
	}
	return fmt.Sprintf("%d bytes of something else", len(got))
}

// checkRuns checks which version serves, as which generation.
func (d *Deployer) checkRuns(version string, generation int) {
	d.t.Helper()
	if s := d.Status(); s.Version != version || s.Generation != generation || s.State != "serving" {
		d.t.Errorf("status: got version %s, generation %d, %s, want %s, %d, serving", s.Version, s.Generation, s.State, version, generation)
	}
	if r := d.Get("/100.bin"); r.Status != 200 {
		d.t.Errorf("GET: got %d, want 200", r.Status)
	}
}

func startDeployer(t testing.TB, options ...option) *Deployer {
	t.Helper()
	return deployer(t, start(t, append(options, files(t), args("-idle-grace", "100ms"))...))
}

func TestDeployScript(t *testing.T) {
	t.Parallel()
	d := startDeployer(t)
	if err := os.Chmod(d.Bin, 0o750); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(d.Bin, 0, 12345); err != nil {
			t.Fatal(err)
		}
	}
	counts, stop := gentleLoad(t, d.Address, d.grace())
	first := d.Must(d.release("v2"))
	d.check("v2", "v1")
	d.checkRuns("v2", 2)
	want := regexp.MustCompile(`^checked +\d+\.\d\d s   v2 \(\w+\) is good for today's configuration
replaced +\d+\.\d\d s   ` + d.Bin + `; v1 \(\w+\) is kept as ` + d.Bin + `\.previous
reloaded +\d+\.\d\d s   generation 2 serves; generation 1 drained in .*
healthy +\d+\.\d\d s   127\.\S+ answers 200, 127\.\S+ answers 200
deployed +\d+\.\d\d s   v2 \(\w+\) serves in place of v1 \(\w+\): generation 2, pid \d+
$`)
	if !want.MatchString(first.Stdout) {
		t.Errorf("stdout: got\n%s", first.Stdout)
	}
	d.Must(d.release("v3"))
	d.check("v3", "v2")
	d.Must("--rollback")
	d.check("v2", "v3")
	d.checkRuns("v2", 4)
	d.Must("--rollback")
	d.check("v3", "v2")
	d.checkRuns("v3", 5)
	if stop(); counts.Failures() != 0 {
		t.Errorf("load: %v", counts)
	}
	checkKept(t, counts, gentleCrowd)
	info, err := os.Stat(d.Bin)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o750 {
		t.Errorf("mode: got %v, want that of the first binary", info.Mode())
	}
	if st := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && st.Gid != 12345 {
		t.Errorf("group: got %d, want that of the first binary", st.Gid)
	}
	status := d.Must("--status")
	if want := regexp.MustCompile(`^v3 \(\w+\) serves: generation 5, pid \d+; before it: v2 \(\w+\)\n$`); !want.MatchString(status.Stdout) {
		t.Errorf("--status: got %q", status.Stdout)
	}
}

// stub returns a release that knows its version and finds every configuration good, and leaves questions to
// a real one; what it does when it shall serve is up to the case.
func stub(real, serve string) []byte {
	return fmt.Appendf(nil, `#!/bin/sh
case $1 in
version) echo "baton bad (commit none, go1)" ;;
check) echo "the configuration is good" ;;
upgrade | status) exec '%s' "$@" ;;
*) %s ;;
esac
`, real, serve)
}

// otherMachine is an architecture that the tests do not run on.
var otherMachine = map[bool]string{true: "amd64", false: "arm64"}[runtime.GOARCH == "arm64"]

// builtForOther builds for that one.
func builtForOther(t testing.TB) []byte {
	t.Helper()
	return builtEmbedded(t, "GOOS=linux", "GOARCH="+otherMachine, "CGO_ENABLED=0")
}

// builtEmbedded builds a program that embeds Baton's packages.
func builtEmbedded(t testing.TB, env ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "baton")
	cmd := exec.Command("go", "build", "-o", path, "example.com/baton/e2e/testdata/embed")
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func contentOf(t testing.TB, version string) []byte {
	t.Helper()
	c, err := os.ReadFile(built(t, version))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// badRelease is a release that must not come to serve.
type badRelease struct {
	name    string
	content func(t testing.TB) []byte // nil: missing
	mode    os.FileMode
	args    []string
	late    bool   // only an upgrade shows it
	want    string // on stderr
}

// badReleases are those of any service; real is the path of a real binary.
func badReleases(real string) []badRelease {
	text := func(s string) func(testing.TB) []byte {
		return func(testing.TB) []byte { return []byte(s) }
	}
	serves := func(s string) func(testing.TB) []byte {
		return func(testing.TB) []byte { return stub(real, s) }
	}
	cut := func(of func(size int) int) func(testing.TB) []byte {
		return func(t testing.TB) []byte {
			c := contentOf(t, "v2")
			return c[:of(len(c))]
		}
	}
	return []badRelease{
		{name: "missing", want: `is not there; nothing was replaced`},
		{name: "not executable", content: cut(func(n int) int { return n }), mode: 0o644, want: `is not executable; chmod \+x makes it so`},
		{name: "empty", content: text(""), want: `is empty`},
		{name: "no program", content: text("once upon a time\n"), want: `is no good: it is no program\n`},
		{name: "other architecture", content: builtForOther, want: `is no good: it is for ` + otherMachine + `, and this machine is ` + runtime.GOARCH + `\n`},
		{name: "big-endian", content: func(testing.TB) []byte { return otherArchitecture() }, want: `is no good: it is for s390x, and this machine is`},
		{name: "truncated in the middle", content: cut(func(n int) int { return n / 2 }), want: `it is truncated: its tables tell of more than its \d+ bytes`},
		{name: "truncated at the end", content: cut(func(n int) int { return n - 100 }), want: `it is truncated`},
		{name: "truncated header", content: cut(func(n int) int { return 100 }), want: `it is truncated`},
		{name: "another program", content: func(t testing.TB) []byte { return builtEmbedded(t) }, want: `is no good: it is not baton, which baton.service runs\n`},
		{name: "another script", content: text("#!/bin/sh\nexec sleep 60\n"), want: `is no good: it is not baton`},
		{name: "version exits 0", content: text("#!/bin/sh\n# baton 2 (commit none)\nexit 0\n"), want: `its version command fails \(exit code 0\): it prints nothing`},
		{name: "version exits 1", content: text("#!/bin/sh\n# baton 2 (commit none)\necho lost >&2\nexit 1\n"), want: `its version command fails \(exit code 1\): lost`},
		{name: "same version", content: func(t testing.TB) []byte { return contentOf(t, "v1") }, want: `v1 \(\w+\) runs already; --force deploys it all the same`},
		{name: "exits 0", content: serves("exit 0"), late: true, want: `reload of baton.service failed:\ndeploy: baton: upgrade failed: .* exited\ndeploy: v1 `},
		{name: "exits 1", content: serves("echo some reason >&2; exit 1"), late: true, want: `baton: upgrade failed: .*exit status 1\ndeploy:   \| some reason\n`},
		{name: "never ready", content: serves("exec sleep 60"), late: true, want: `baton: upgrade failed: .*not ready`},
		{name: "killed", content: serves("kill -9 $$"), late: true, want: `baton: upgrade failed: .*signal: killed`},
		// This one serves, and has to go again.
		{name: "unhealthy", content: func(t testing.TB) []byte { return contentOf(t, "v2") }, late: true, args: []string{"--health", "SICK"},
			want: `v2 \(\w+\) is not healthy: http://127\.0\.0\.1:\d+/sick answers 503\n`},
	}
}

func TestDeployScriptBadRelease(t *testing.T) {
	t.Parallel()
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }))
	t.Cleanup(sick.Close)
	for _, older := range []string{"", "v3"} {
		name := "first deploy"
		if older != "" {
			name = "later deploy"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDeployer(t, args("-upgrade-timeout", "1s"))
			generation := 1
			if older != "" {
				d.Must(d.release(older))
				d.Must(d.release("v1"))
				generation = 3
			}
			before, err := os.Stat(d.Bin)
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range badReleases(built(t, "v1")) {
				t.Run(bad.name, func(t *testing.T) {
					path := filepath.Join(t.TempDir(), "release")
					if bad.content != nil {
						mode := bad.mode
						if mode == 0 {
							mode = 0o755
						}
						put(t, bad.content(t), path, mode)
					}
					args := append([]string{path}, bad.args...)
					for i := range args {
						args[i] = strings.Replace(args[i], "SICK", sick.URL+"/sick", 1)
					}
					got := d.Run(args...)
					if got.Code != 1 || !regexp.MustCompile(bad.want).MatchString(got.Stderr) {
						t.Errorf("got %v\nwant exit code 1, on stderr %s", got, bad.want)
					}
					for line := range strings.Lines(got.Stderr) {
						if !strings.HasPrefix(line, "deploy: ") {
							t.Errorf("stderr: got %q, want it to begin with deploy:", line)
						}
					}
					if bad.late {
						want := regexp.MustCompile(`\ndeploy: v1( \(\w+\))? is in place again, and generation \d+ \(pid \d+\) serves\n$`)
						if !want.MatchString(got.Stderr) {
							t.Errorf("stderr: got\n%swant at its end that v1 serves", got.Stderr)
						}
					} else if got.Stdout != "" || !strings.Contains(got.Stderr, "nothing was replaced") && bad.name != "same version" {
						t.Errorf("got %v\nwant nothing done, and to hear that", got)
					}
					if bad.name == "unhealthy" {
						generation += 2 // there and back
					}
					d.check("v1", older)
					d.checkRuns("v1", generation)
					if after, err := os.Stat(d.Bin); err != nil || !os.SameFile(before, after) {
						t.Error("binary in place: got another file, want the very one that was there")
					}
				})
			}
			d.Must(d.release("v2"))
			d.check("v2", "v1")
			d.checkRuns("v2", generation+1)
		})
	}
}

func TestDeployScriptBadConfiguration(t *testing.T) {
	t.Parallel()
	d := startDeployer(t, config("drain-timeout 9s"))
	d.Configure("drain-timeout never\nno-such-thing\n")
	got := d.Run(d.release("v2"))
	want := regexp.MustCompile(`is no good: its check of today's configuration fails \(exit code 2\):
deploy: baton: .*no-such-thing.*
(.*\n)*deploy: nothing was replaced; v1 \(\w+\) goes on serving\n$`)
	if got.Code != 1 || !want.MatchString(got.Stderr) {
		t.Errorf("got %v\nwant exit code 1, every problem of the configuration", got)
	}
	d.check("v1", "")
	d.checkRuns("v1", 1)
	d.Configure("drain-timeout 8s\n")
	d.Must(d.release("v2"))
	d.checkRuns("v2", 2)
}

// What is asked of the new binary is asked as the service would: its arguments and environment, its folder.
func TestDeployScriptEnvironment(t *testing.T) {
	t.Parallel()
	d := startDeployer(t, env("BATON_LOG_LEVEL=warn", "ODD=it's \"$HOME\" `x`\n\tand more", "EMPTY="), launched("DIR", "DIR/baton", "DIR/baton"))
	seen := filepath.Join(d.Dir, "seen")
	script := fmt.Sprintf(`#!/bin/sh
case $1 in
version) echo "baton spy (commit none, go1)"; exit ;;
check) { pwd; id -u; printf '<%%s>\n' "$@"; printf '<%%s>\n' "$BATON_LOG_LEVEL" "$ODD" "${EMPTY-unset}" "${DEPLOYER-unset}"; } >'%s' ;;
esac
exit 1
`, seen)
	path := filepath.Join(d.Dir, "spy")
	put(t, []byte(script), path, 0o755)
	d.Env = []string{"DEPLOYER=me", "BATON_LISTEN=nonsense"}
	if got := d.Run(path); got.Code != 1 || !strings.Contains(got.Stderr, "its check of today's configuration fails (exit code 1)") {
		t.Errorf("got %v", got)
	}
	got, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s\n%d\n<check>\n", d.Dir, os.Geteuid())
	for _, flag := range d.Flags() {
		want += "<" + flag + ">\n"
	}
	want += "<warn>\n<it's \"$HOME\" `x`\n\tand more>\n<>\n<unset>\n"
	if string(got) != want {
		t.Errorf("check: got\n%s\nwant\n%s", got, want)
	}
	d.Must(d.release("v2"))
}

func TestDeployScriptPlaces(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		option option
		real   string // where the binary lies, and stays
	}{
		{"spaces and quotes", launched("DIR", `DIR/it's a "folder"/the $baton`, `DIR/it's a "folder"/the $baton`), `it's a "folder"/the $baton`},
		{"symlink to the binary", launched("DIR", "DIR/link/baton", "DIR/link/baton"), "link/real baton"},
		{"symlink to its folder", launched("DIR", "DIR/current/baton", "DIR/current/baton"), "releases/one/baton"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := prepare(t, tt.option, files(t), args("-idle-grace", "100ms"))
			d := deployer(t, b)
			real := filepath.Join(b.Dir, tt.real)
			if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
				t.Fatal(err)
			}
			install(t, built(t, "v1"), real)
			b.Bin = b.expand(b.setup.path)
			var link string
			switch tt.real {
			case "link/real baton":
				link = b.Bin
				os.Symlink("real baton", link)
			case "releases/one/baton":
				link = filepath.Join(b.Dir, "current")
				os.Symlink("releases/one", link)
			}
			service := fmt.Sprintf("binary=$(cat '%s/binary')\npid_file='%s'\ncontrol='%s'\n", d.Tools, b.PIDFile, b.Control)
			put(t, []byte(service), filepath.Join(d.Tools, "service"), 0o644)
			put(t, []byte(b.Bin), filepath.Join(d.Tools, "binary"), 0o644)
			b.launch()
			b.awaitReady()
			d.Must(d.release("v2"))
			checkFiles(t, real, "v2", "v1")
			d.checkRuns("v2", 2)
			d.Must("--rollback")
			checkFiles(t, real, "v1", "v2")
			d.checkRuns("v1", 3)
			if link != "" {
				if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
					t.Errorf("%s: got %v %v, want the symlink that it was", link, info, err)
				}
			}
		})
	}
}

func TestDeployScriptUsage(t *testing.T) {
	t.Parallel()
	script := deployScript(t)
	for _, args := range [][]string{
		{}, {"one", "two"}, {"--rollback", "one"}, {"--rollback", "--status"}, {"--no-such-flag", "one"}, {"--unit"}, {"--unit", "", "one"},
		{"--unit=", "one"}, {"--unit", "a/b", "one"}, {"--unit", "a b", "one"}, {"one", "--host"}, {"one", "--host", "-oProxyCommand=x"},
		{"one", "--health", "healthz"}, {""},
	} {
		code, stdout, stderr := run(t, script, os.Environ(), args...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, "deploy: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("deploy.sh %q: got exit code %d, stdout %q, stderr %q, want 2, one line on stderr", args, code, stdout, stderr)
		}
	}
	for _, flag := range []string{"--help", "-h"} {
		code, stdout, stderr := run(t, script, os.Environ(), flag)
		if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "usage: ") {
			t.Errorf("deploy.sh %s: got exit code %d, stdout %q, stderr %q", flag, code, stdout, stderr)
		}
	}
}

// The shell that the script is written for, and the linter that knows it.
func TestDeployScriptLint(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(need(t, "shellcheck"), "--shell=sh", "--enable=all",
		// Braces where nothing needs them, a default for each case, and what would matter with set -e, which is not used.
		"--exclude=SC2249,SC2250,SC2310,SC2311,SC2312", deployScript(t), "../systemd/deploy-hosts.sh").CombinedOutput()
	if err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

// onlyTools makes a folder with nothing but the tools named, as PATH.
func (d *Deployer) onlyTools(without ...string) {
	d.t.Helper()
	only := filepath.Join(d.Dir, "only")
	os.RemoveAll(only)
	if err := os.Mkdir(only, 0o755); err != nil {
		d.t.Fatal(err)
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

// Coreutils, sed and flock: more than that it must not need.
func TestDeployScriptTools(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	d := startDeployer(t, listen("HOST:PORT", "unix:DIR/public.sock", "tls:HOST:PORT", "tls:unix:DIR/secret.sock"),
		args("-tls-cert", cert, "-tls-key", key))
	d.onlyTools()
	got := d.Must(d.release("v2"))
	if strings.Count(got.Stdout, " answers 200") != 5 || !strings.Contains(got.Stdout, "public.sock answers 200") ||
		!strings.Contains(got.Stdout, "secret.sock answers 200") {
		t.Errorf("got %v\nwant all five listeners asked, those for TLS in TLS", got)
	}
	d.Must("--status")
	unverified := httptest.NewTLSServer(http.NotFoundHandler())
	defer unverified.Close()
	if got := d.Run("--health", unverified.URL, d.release("v1")); got.Code != 1 || !regexp.MustCompile(" does not answer: .*certificate").MatchString(got.Stderr) {
		t.Errorf("with a URL whose certificate cannot be verified: got %v", got)
	}
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }))
	defer sick.Close()
	if got := d.Run("--health", sick.URL, d.release("v1")); got.Code != 1 || !strings.Contains(got.Stderr, "answers 500\n") {
		t.Errorf("unhealthy: got %v", got)
	}
	sick.Close()
	if got := d.Run("--health", sick.URL, d.release("v1")); got.Code != 1 || !strings.Contains(got.Stderr, "connection refused\n") {
		t.Errorf("nobody there: got %v", got)
	}
	d.onlyTools("flock")
	if got := d.Run(d.release("v1")); got.Code != 1 || got.Stderr != "deploy: flock is missing; nothing was replaced\n" {
		t.Errorf("without flock: got %v", got)
	}
	d.Path = os.Getenv("PATH")
	d.check("v2", "v1")
	d.checkRuns("v2", 8)
}

func TestDeployScriptTwoAtOnce(t *testing.T) {
	t.Parallel()
	d := startDeployer(t)
	gate := d.gate()
	cmd, result := d.command(d.release("v2"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "the first deploy's replacement", func() bool { return versionOf(t, d.Bin) == "v2" })
	second := d.Run(d.release("v3"))
	want := fmt.Sprintf("deploy: another deploy of %s runs (pid %d); nothing was replaced\n", d.Bin, cmd.Process.Pid)
	if second.Code != 1 || second.Stderr != want || second.Stdout != "" {
		t.Errorf("second deploy: got %v\nwant %s", second, want)
	}
	gate()
	if first := result(); first.Code != 0 {
		t.Errorf("first deploy: got %v", first)
	}
	d.followServing()
	d.check("v2", "v1")
	d.checkRuns("v2", 2)
	d.Must(d.release("v3"))
}

// gate holds every reload until open is called.
func (d *Deployer) gate() (open func()) {
	d.t.Helper()
	path := filepath.Join(d.Tools, "gate")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return func() {
		d.t.Helper()
		// Whoever opens for reading and writing does not wait for the other end.
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			d.t.Fatal(err)
		}
		defer f.Close()
		os.Remove(path)
		f.WriteString("go\n")
		// The line has to be read before the last end is closed.
		await(d.t, 20*time.Second, "end of the wait at the gate", func() bool { return unread(f) == 0 })
	}
}

// Who reads along may go; what was begun is brought to its end.
func TestDeployScriptWithoutReader(t *testing.T) {
	t.Parallel()
	d := startDeployer(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd, result := d.command(d.release("v2"))
	cmd.Stdout, cmd.Stderr = w, w
	r.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if got := result(); got.Code != 0 {
		t.Errorf("got exit code %d, want 0", got.Code)
	}
	d.followServing()
	d.check("v2", "v1")
	d.checkRuns("v2", 2)
}

// unread returns how many bytes of a pipe nobody has read yet.
func unread(f *os.File) int {
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil {
		return -1
	}
	return n
}
