package deploy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The deploy script in its real place: a service that systemd runs as a user of its own, sandboxed, under load.

const inMachine = "/usr/local/bin/baton"

// releaseIn puts a build of a version where the deploy script may take it from.
func releaseIn(u *machine.Unit, version string) string {
	u.T.Helper()
	return u.Share(build.Version(u.T, version))
}

// deployIn runs the deploy script as install.sh has put it in place, and checks its exit code.
func deployIn(u *machine.Unit, want int, args ...string) string {
	u.T.Helper()
	out, code := u.Run(append([]string{"baton-deploy"}, args...)...)
	if code != want {
		u.T.Fatalf("baton-deploy %v: got exit code %d, want %d:\n%s\njournal:\n%s", args, code, want, out, service.Tail(u.Log(), 25))
	}
	return out
}

// checkFilesIn checks which versions lie in place and as the one before, and that nothing else was left there.
func checkFilesIn(u *machine.Unit, inPlace, previous string) {
	u.T.Helper()
	checkFiles(u.T, u.Path(inMachine), inPlace, previous)
}

func TestSystemdDeploy(t *testing.T) {
	t.Parallel()
	u := machine.Running(t, "upgrade-timeout 5s")
	counts, stop := gentleLoad(t, u.Address, 0)
	first := deployIn(u, 0, releaseIn(u, "v2"))
	for _, want := range []string{`(?m)^checked +\d+\.\d\d s   v2 \(\w+\) is valid`, `(?m)^reloaded .* generation 2 serves$`, `(?m)^drained .* generation 1 drained in .*, 0 closed forcibly$`,
		`(?m)^healthy .*` + u.Address + ` answers 200`, `(?m)^deployed .* v2 \(\w+\) serves in place of v1 \(\w+\): generation 2, pid \d+$`} {
		if !regexp.MustCompile(want).MatchString(first) {
			t.Errorf("got\n%s\nwant %s", first, want)
		}
	}
	checkFilesIn(u, "v2", "v1")
	u.CheckServes(t, 2, "v2")
	deployIn(u, 0, "--rollback")
	checkFilesIn(u, "v1", "v2")
	u.CheckServes(t, 3, "v1")

	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }))
	defer sick.Close()
	generation := 3
	// systemd has no part in what is found out before the upgrade.
	for _, bad := range lateOnes(badReleases(u.Share(build.Version(t, "v3")))) {
		t.Run(bad.name, func(t *testing.T) {
			if bad.name != "exits 1" && bad.name != "unhealthy" {
				tier.Long(t, "deploys one bad release after the other under systemd; TestDeployScriptBadRelease does without it")
			}
			path := filepath.Join(u.Shared, "bad")
			os.Remove(path)
			if bad.content != nil {
				mode := bad.mode
				if mode == 0 {
					mode = 0o755
				}
				files.Put(t, bad.content(t), path, mode)
			}
			args := []string{path}
			for _, arg := range bad.args {
				args = append(args, strings.Replace(arg, "SICK", sick.URL+"/sick", 1))
			}
			if out := deployIn(u, 1, args...); !regexp.MustCompile(bad.want).MatchString(out) {
				t.Errorf("got\n%s\nwant %s", out, bad.want)
			}
			if bad.name == "unhealthy" {
				generation += 2
			}
			checkFilesIn(u, "v1", "v2")
			u.CheckServes(t, generation, "v1")
		})
	}
	t.Run("bad configuration", func(t *testing.T) {
		u.Configure("frobnicate true", "upgrade-timeout 5s")
		if out := deployIn(u, 1, releaseIn(u, "v3")); !strings.Contains(out, "deploy: baton: ") || !strings.Contains(out, "frobnicate") {
			t.Errorf("got\n%s\nwant the reason", out)
		}
		checkFilesIn(u, "v1", "v2")
		u.CheckServes(t, generation, "v1")
		u.Configure("upgrade-timeout 5s")
	})
	deployIn(u, 0, releaseIn(u, "v3"))
	checkFilesIn(u, "v3", "v1")
	u.CheckServes(t, generation+1, "v3")
	if stop(); counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	load.CheckKept(t, counts, gentleCrowd)
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0", n)
	}
	if owner := strings.TrimSpace(u.Must("stat", "-c", "%U:%G %a", inMachine)); owner != "root:root 755" {
		t.Errorf("owner and mode: got %s, want root:root 755", owner)
	}
}

// A version that dies as soon as it serves takes the service down for a moment; the one before comes back.
func TestSystemdDeployOfACrash(t *testing.T) {
	t.Parallel()
	u := machine.Running(t)
	path := filepath.Join(u.Shared, "bad")
	files.Put(t, stub(releaseIn(u, "v2"), `(sleep 0.5; kill -9 $$) & exec '`+releaseIn(u, "v2")+`' "$@"`), path, 0o755)
	out := deployIn(u, 1, path)
	if !regexp.MustCompile(`deploy: v1 \(\w+\) is in place again, and generation \d+ \(pid \d+\) serves\n$`).MatchString(out) {
		t.Errorf("got\n%s\nwant v1 back", out)
	}
	checkFilesIn(u, "v1", "")
	s, err := u.Status()
	if err != nil || s.Version != "v1" {
		t.Fatalf("status: got %+v, %v, want v1", s, err)
	}
	deployIn(u, 0, releaseIn(u, "v2"))
}

// What is not active is refused if somebody stopped it, and cured if it failed.
func TestSystemdDeployToWhatDoesNotRun(t *testing.T) {
	tier.Long(t, "starts a service that keeps failing, several times")
	t.Parallel()
	u := machine.Running(t, "crash-rollback false") // which would be the cure
	deployIn(u, 0, releaseIn(u, "v2"))
	u.Must("systemctl", "stop", "baton")
	if out := deployIn(u, 1, releaseIn(u, "v3")); out != "deploy: baton.service is stopped; --start starts it with the new binary, nothing was replaced\n" {
		t.Errorf("stopped: got\n%s", out)
	}
	if out := deployIn(u, 1, "--status"); !regexp.MustCompile(`^deploy: baton.service is inactive; in place is v2 \(\w+\); before it: v1 \(\w+\)\n$`).MatchString(out) {
		t.Errorf("--status: got %s", out)
	}
	checkFilesIn(u, "v2", "v1")
	out := deployIn(u, 0, "--start", releaseIn(u, "v3"))
	if !regexp.MustCompile(`(?m)^started .* generation 1 serves$`).MatchString(out) {
		t.Errorf("--start: got\n%s", out)
	}
	checkFilesIn(u, "v3", "v2")
	u.CheckServes(t, 1, "v3")

	loops := func() {
		t.Helper()
		u.DeployScript("case $1 in version) echo 'baton worse (commit none, go1)'; exit; esac; echo no way >&2; exit 1")
		u.Run("systemctl", "restart", "baton")
		u.Await(t, "loop of restarts", func() bool { return u.Restarts() > 2 })
	}
	loops()
	bad := filepath.Join(u.Shared, "bad")
	files.Put(t, stub(releaseIn(u, "v1"), "echo even worse >&2; exit 1"), bad, 0o755)
	if out := deployIn(u, 1, bad); !strings.Contains(out, "deploy: start of baton.service failed") && !strings.Contains(out, "does not serve") {
		t.Errorf("bad into a loop of restarts: got\n%s", out)
	}
	checkFilesIn(u, fmt.Sprintf("%d bytes of something else", len(files.Script("case $1 in version) echo 'baton worse (commit none, go1)'; exit; esac; echo no way >&2; exit 1"))), "v2")
	out = deployIn(u, 0, "--rollback")
	if !regexp.MustCompile(`went back .* v2 \(\w+\) serves in place of worse \(none\)`).MatchString(out) {
		t.Errorf("--rollback from a loop of restarts: got\n%s", out)
	}
	if s, err := u.Status(); err != nil || s.Version != "v2" {
		t.Errorf("status: got %+v, %v, want v2", s, err)
	}
	loops()
	deployIn(u, 0, releaseIn(u, "v1"))
	if s, err := u.Status(); err != nil || s.Version != "v1" {
		t.Errorf("status: got %+v, %v, want v1", s, err)
	}
	deployIn(u, 0, releaseIn(u, "v2"))

	if out := deployIn(u, 1, "--unit", "nonesuch", releaseIn(u, "v2")); out != "deploy: there is no nonesuch.service: systemd says it is not-found\n" {
		t.Errorf("no such unit: got\n%s", out)
	}
	out, code := u.Run("setpriv", "--reuid=baton", "--regid=baton", "--clear-groups", "baton-deploy", releaseIn(u, "v2"))
	if code != 1 || !strings.HasPrefix(out, "deploy: ") {
		t.Errorf("as the service's user: got exit code %d, %s", code, out)
	}
}

func TestSystemdDeployDiskFull(t *testing.T) {
	tier.Long(t, "fills a disk below a service of systemd")
	t.Parallel()
	u := machine.Installed(t)
	size := len(contentOf(t, "v1"))
	u.Must("mkdir", "/opt/full")
	u.Must("mount", "-t", "tmpfs", "-o", fmt.Sprintf("mode=755,size=%d", size+size/2), "full", "/opt/full")
	u.Must(u.Installer(), "--prefix", "/opt/full", releaseIn(u, "v1"))
	u.Start()
	bin := "/opt/full/bin/baton"
	deploy := func(want int, args ...string) string {
		t.Helper()
		out, code := u.Run(append([]string{"/opt/full/bin/baton-deploy"}, args...)...)
		if code != want {
			t.Fatalf("baton-deploy %v: got exit code %d, want %d:\n%s", args, code, want, out)
		}
		return out
	}
	check := func(inPlace, previous string, generation int) {
		t.Helper()
		checkFiles(t, u.Path(bin), inPlace, previous)
		u.CheckServes(t, generation, inPlace)
	}
	want := fmt.Sprintf("deploy: copy %s to /opt/full/bin: No space left on device; nothing was replaced\n", releaseIn(u, "v2"))
	if out := deploy(1, releaseIn(u, "v2")); out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	check("v1", "", 1)
	u.Must("mount", "-o", fmt.Sprintf("remount,size=%d", 3*size+size/2), "/opt/full")
	deploy(0, releaseIn(u, "v2"))
	deploy(0, releaseIn(u, "v3"))
	check("v3", "v2", 3)
	// Not one byte is left: to go back takes none.
	u.Run("dd", "if=/dev/zero", "of=/opt/full/filler", "bs=4096")
	deploy(0, "--rollback")
	check("v2", "v3", 4)
	if out := deploy(1, releaseIn(u, "v1")); !strings.Contains(out, "No space left on device") {
		t.Errorf("full: got %s", out)
	}
	check("v2", "v3", 4)
	u.Must("rm", "/opt/full/filler")
	deploy(0, releaseIn(u, "v1"))
	check("v1", "v2", 5)

	// No room for a name: that needs an inode here.
	u.Must("mount", "-o", "remount,nr_inodes=9", "/opt/full")
	used := strings.Fields(u.Must("df", "--output=iused", "/opt/full"))
	u.Must("mount", "-o", "remount,nr_inodes="+used[1], "/opt/full")
	if out := deploy(1, "--rollback"); out != "deploy: cannot write to /opt/full/bin: No space left on device; nothing was replaced\n" {
		t.Errorf("no inode: got %s", out)
	}
	check("v1", "v2", 5)
	u.Must("mount", "-o", "remount,ro", "/opt/full")
	if out := deploy(1, releaseIn(u, "v2")); out != "deploy: cannot write to /opt/full/bin: Read-only file system; nothing was replaced\n" {
		t.Errorf("read-only: got %s", out)
	}
	u.CheckServes(t, 5, "v1")
}

// As TestDeployScriptInterrupted, but with the reload in systemd, which goes on without who asked for it.
func TestSystemdDeployKilled(t *testing.T) {
	tier.Long(t, "kills a deploy at one command after another under systemd; TestDeployScriptInterrupted does without it")
	t.Parallel()
	versions := []string{"v1", "v2", "v3"}
	u := machine.Running(t)
	for _, v := range versions {
		releaseIn(u, v)
	}
	dir := filepath.Join(u.Shared, "interposed")
	interposeIn(t, dir)
	killed := func(n int, then string, args ...string) (out string, code, calls int) {
		t.Helper()
		path := os.Getenv("PATH")
		if strings.Contains(path, dir) {
			t.Fatal("PATH has the stand-ins")
		}
		const real = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
		os.Remove(filepath.Join(dir, "calls"))
		out, code = u.Run(append([]string{"env", "PATH=" + dir + ":" + real, "REAL_PATH=" + real, "INTERPOSED=" + dir,
			"AT=" + strconv.Itoa(n), "SIGNAL=9", "THEN=" + then, "sh", "-c", `echo $$ >"$INTERPOSED/pid"; exec baton-deploy "$@"`, "deploy"}, args...)...)
		log, _ := os.ReadFile(filepath.Join(dir, "calls"))
		return out, code, len(log)
	}
	deployIn(u, 0, releaseIn(u, "v3"))
	deployIn(u, 0, releaseIn(u, "v1"))
	_, _, calls := killed(0, "run", releaseIn(u, "v2"))
	deployIn(u, 0, "--rollback")
	counts, stop := gentleLoad(t, u.Address, 0)
	step := 9 // so that both ways come in turn
	if *tier.Soak > 0 {
		step = 1
	}
	running, tried, hits := 0, 0, 0
	for n := 1; n <= calls; n += step {
		tried++
		then := []string{"end", "run"}[n%2]
		was, target, next := versions[running], versions[(running+1)%3], versions[(running+2)%3]
		out, code, _ := killed(n, then, releaseIn(u, target))
		if code == 137 || code == -1 { // how the end by a signal is passed on depends on who runs it
			hits++
		}
		if got := versionOf(t, u.Path(inMachine)); got != was && got != target {
			t.Fatalf("killed at command %d: in place is %s\n%s", n, got, out)
		}
		if got := versionOf(t, u.Path(inMachine+".previous")); strings.Contains(got, "else") {
			t.Fatalf("killed at command %d: before it is %s\n%s", n, got, out)
		}
		after, code := u.Run("baton-deploy", releaseIn(u, next))
		if code != 0 {
			t.Fatalf("killed at command %d: %s\nthe next deploy: exit code %d\n%s", n, out, code, after)
		}
		before := versionOf(t, u.Path(inMachine+".previous"))
		if before != was && before != target {
			t.Fatalf("killed at command %d: kept is %s, want %s or %s\n%s", n, before, was, target, after)
		}
		if !strings.Contains(after, " serves in place of "+before+" (") {
			t.Fatalf("killed at command %d: kept is %s, which did not serve\n%s", n, before, after)
		}
		checkFilesIn(u, next, before)
		if s, err := u.Status(); err != nil || s.Version != next || u.Restarts() != 0 {
			t.Fatalf("killed at command %d: status %+v, %v, want %s, without a restart", n, s, err, next)
		}
		running = (running + 2) % 3
	}
	if hits < tried*3/4 {
		t.Errorf("%d of %d deploys were killed, want most", hits, tried)
	}
	if stop(); counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	load.CheckKept(t, counts, gentleCrowd)
}

var gentleCrowd = [load.Habits]int{load.Pausing: 16}

// gentleLoad leaves the processors to the deploys, of which there are many: all clients pause.
func gentleLoad(t testing.TB, address string, grace time.Duration) (counts *load.Tally, stop func() *load.Tally) {
	t.Helper()
	pause := 100 * time.Millisecond
	if tier.Strict() {
		pause /= 2
	}
	counts, stop = load.Start(t, load.Load{Network: "tcp", Address: address, Exchanges: exchange.Files(), Grace: grace,
		Pause: pause, Patience: time.Minute, Clients: gentleCrowd})
	await.Until(t, "requests", func() bool { return counts.Answered[load.Pausing].Load() > 16 })
	return counts, stop
}
