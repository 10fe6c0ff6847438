package deploy

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

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
	counts, stop := gentleLoad(t, d.Address, d.Grace())
	first := d.Must(d.release("v2"))
	d.check("v2", "v1")
	d.checkRuns("v2", 2)
	// What takes long on a busy machine says so.
	want := regexp.MustCompile(`^checked +\d+\.\d\d s   v2 \(\w+\) is valid for today's configuration
replaced +\d+\.\d\d s   ` + d.Bin + `; v1 \(\w+\) is kept as ` + d.Bin + `\.previous
(?:waits .*
)*reloaded +\d+\.\d\d s   generation 2 serves
(?:waits .*
)*healthy +\d+\.\d\d s   127\.\S+ answers 200, 127\.\S+ answers 200
(?:waits .*
)*drained +\d+\.\d\d s   generation 1 drained in .*
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
	load.CheckKept(t, counts, gentleCrowd)
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

func TestDeployScriptBadConfiguration(t *testing.T) {
	t.Parallel()
	d := startDeployer(t, service.Config("drain-timeout 9s"))
	d.Configure("drain-timeout never\nno-such-thing\n")
	got := d.Run(d.release("v2"))
	want := regexp.MustCompile(`is invalid: its check of today's configuration fails \(exit code 2\):
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

// What is asked of the new binary is asked as the service would: its arguments, environment and directory.
func TestDeployScriptEnvironment(t *testing.T) {
	tier.Slow(t, "deploys with an odd environment")
	t.Parallel()
	d := startDeployer(t, service.Env("BATON_LOG_LEVEL=warn", "ODD=it's \"$HOME\" `x`\n\tand more", "EMPTY="), service.Launched("DIR", "DIR/baton", "DIR/baton"))
	seen := filepath.Join(d.Dir, "seen")
	script := fmt.Sprintf(`#!/bin/sh
case $1 in
version) echo "baton spy (commit none, go1)"; exit ;;
check) { pwd; id -u; printf '<%%s>\n' "$@"; printf '<%%s>\n' "$BATON_LOG_LEVEL" "$ODD" "${EMPTY-unset}" "${DEPLOYER-unset}"; } >'%s' ;;
esac
exit 1
`, seen)
	path := filepath.Join(d.Dir, "spy")
	files.Put(t, []byte(script), path, 0o755)
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
	tier.Slow(t, "deploys to every kind of place")
	t.Parallel()
	tests := []struct {
		name   string
		option service.Option
		real   string // where the binary lies, and stays
	}{
		{"spaces and quotes", service.Launched("DIR", `DIR/it's a "directory"/the $baton`, `DIR/it's a "directory"/the $baton`), `it's a "directory"/the $baton`},
		{"symlink to the binary", service.Launched("DIR", "DIR/link/baton", "DIR/link/baton"), "link/real baton"},
		{"symlink to its directory", service.Launched("DIR", "DIR/current/baton", "DIR/current/baton"), "releases/one/baton"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := service.Prepare(t, tt.option, service.Files(t), service.Args("-idle-grace", "100ms"))
			d := deployer(t, b)
			real := filepath.Join(b.Dir, tt.real)
			if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
				t.Fatal(err)
			}
			files.Install(t, build.Version(t, "v1"), real)
			b.Bin = b.Expand(b.Setup.Path)
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
			files.Put(t, []byte(service), filepath.Join(d.Tools, "service"), 0o644)
			files.Put(t, []byte(b.Bin), filepath.Join(d.Tools, "binary"), 0o644)
			b.Launch()
			b.AwaitReady()
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
		code, stdout, stderr := process.Run(t, script, os.Environ(), args...)
		if code != 2 || stdout != "" || !strings.HasPrefix(stderr, "deploy: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("deploy.sh %q: got exit code %d, stdout %q, stderr %q, want 2, one line on stderr", args, code, stdout, stderr)
		}
	}
	for _, flag := range []string{"--help", "-h"} {
		code, stdout, stderr := process.Run(t, script, os.Environ(), flag)
		if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "usage: ") {
			t.Errorf("deploy.sh %s: got exit code %d, stdout %q, stderr %q", flag, code, stdout, stderr)
		}
	}
}

func TestDeployScriptTwoAtOnce(t *testing.T) {
	tier.Slow(t, "makes two deploys at once")
	t.Parallel()
	d := startDeployer(t)
	gate := d.gate()
	cmd, result := d.command(d.release("v2"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the first deploy's replacement", func() bool { return versionOf(t, d.Bin) == "v2" })
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

// A deploy can try and watch its release, once. One that the administrator gives up meanwhile never replaced anything.
func TestDeployScriptTrial(t *testing.T) {
	t.Parallel()
	d := startDeployer(t, service.Args("-canary-time", "200ms"))
	d.Must("--canary", "50%", "--watch", "100ms", d.release("v2"))
	d.check("v2", "v1")
	if trial := d.Status().Trial; trial == nil || trial.Verdict == "" {
		t.Errorf("got trial %+v, want one that is over", trial)
	}

	cmd, result := d.command("--watch", "1h", d.release("v3"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the watch", func() bool {
		trial := d.Status().Trial
		return trial != nil && trial.Stage == "watch"
	})
	if code, _, stderr := d.Baton.Run("abort", "-control", d.Control, "-reason", "logins fail"); code != 0 {
		t.Errorf("abort: got exit code %d: %s", code, stderr)
	}
	if r := result(); r.Code != 1 || !strings.Contains(r.Stderr, "watch: aborted on request: logins fail") {
		t.Errorf("got %v, want exit code 1 and the reason", r)
	}
	d.check("v2", "v1")
	d.checkRuns("v2", 2)
	for _, args := range [][]string{{"--canary", "half"}, {"--watch", "long"}} {
		if r := d.Run(append(args, d.release("v3"))...); r.Code != 2 {
			t.Errorf("%v: got %v, want exit code 2", args, r)
		}
	}
}

// The health check is asked while the predecessor of a watched release can still take back: nothing has to be put back by
// a second upgrade.
func TestDeployScriptVotes(t *testing.T) {
	t.Parallel()
	answer := func(code int) string {
		return backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "answer", code) }))
	}
	config := filepath.Join(t.TempDir(), "baton.conf")
	files.Put(t, []byte("proxy /="+answer(200)+"\n"), config, 0o644)
	d := startDeployer(t, service.Args("-config", config))
	files.Put(t, []byte("proxy /="+answer(503)+"\n"), config, 0o644)
	r := d.Run("--watch", "1h", d.release("v2"))
	if want := "watch: aborted on request: it is not healthy: "; r.Code != 1 || !strings.Contains(r.Stderr, want) || !strings.Contains(r.Stderr, "503") {
		t.Errorf("got %v, want exit code 1 and %s", r, want)
	}
	d.check("v1", "")
	d.checkRuns("v1", 1)
}
