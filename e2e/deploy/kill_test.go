package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/tier"
)

// The deploy script interrupted: at every command that it runs it is killed, or sent SIGTERM. Whatever it
// was at, the service serves, each binary is whole, and the next deploy finds its way.

// interposed stands before every tool that the script runs. It counts the calls, and at the one that was
// asked for it sends the script a signal, and goes on or does not.
const interposed = `#!/bin/sh
PATH=$REAL_PATH
export PATH
echo >>"$INTERPOSED/calls"
read -r _ n <<END
$(wc -c "$INTERPOSED/calls" | { read -r n _; echo x "$n"; })
END
if [ "$n" = "$AT" ]; then
	kill -"$SIGNAL" "$(cat "$INTERPOSED/pid")"
	[ "$THEN" = run ] || exit 1
fi
exec "${0##*/}" "$@"
`

// An Interposer runs deploys that are interrupted.
type Interposer struct {
	*Deployer
	dir string
}

func interpose(t testing.TB, d *Deployer) *Interposer {
	t.Helper()
	i := &Interposer{d, filepath.Join(d.Dir, "interposed")}
	interposeIn(t, i.dir)
	return i
}

// interposeIn makes a directory of interposed tools.
func interposeIn(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files.Put(t, []byte(interposed), filepath.Join(dir, "tool"), 0o755)
	// Between two commands that change nothing there is nothing new to see; -soak looks all the same.
	tools := []string{"cp", "flock", "id", "ln", "mv", "rm", "sleep", "sync", "systemctl", "touch"}
	if *tier.Soak > 0 {
		tools = append(tools, "cat", "head", "journalctl", "readlink", "sed", "stat", "timeout", "tr")
	}
	for _, tool := range tools {
		if err := os.Symlink("tool", filepath.Join(dir, tool)); err != nil {
			t.Fatal(err)
		}
	}
}

// Run deploys, and interrupts that at the nth command; 0 is never. It returns how many commands were begun.
func (i *Interposer) Run(n int, signal syscall.Signal, runs bool, args ...string) (got deployed, calls int) {
	i.T.Helper()
	os.Remove(filepath.Join(i.dir, "calls"))
	cmd, result := i.command(args...)
	// The pid is known to the tools before the script begins.
	cmd.Args = append([]string{"sh", "-c", `echo $$ >"$INTERPOSED/pid"; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = tier.Tool(i.T, "sh")
	then := "end"
	if runs {
		then = "run"
	}
	cmd.Env = append(cmd.Env, "PATH="+i.dir+":"+i.Tools+":"+i.Path, "REAL_PATH="+i.Tools+":"+i.Path, "INTERPOSED="+i.dir,
		"AT="+strconv.Itoa(n), "SIGNAL="+strconv.Itoa(int(signal)), "THEN="+then)
	if err := cmd.Start(); err != nil {
		i.T.Fatal(err)
	}
	got = result()
	i.followServing()
	log, _ := os.ReadFile(filepath.Join(i.dir, "calls"))
	return got, len(log)
}

// TestDeployScriptInterrupted takes three versions in turn: the second is deployed and interrupted, and the
// third has to come to serve after that.
func TestDeployScriptInterrupted(t *testing.T) {
	tier.Slow(t, "interrupts a deploy at one command after another")
	t.Parallel()
	// One kind after another at some commands, at every second one if everything has to run; with -soak all of them at each.
	shards, step := 1, 12/tier.Times(t, "interrupted commands", 1, 1, 2)
	if *tier.Soak > 0 {
		shards, step = 4, 4
	}
	versions := []string{"v1", "v2", "v3"}
	for _, v := range versions {
		build.Version(t, v)
	}
	tests := []struct {
		name   string
		signal syscall.Signal
		runs   bool // the command at which it is interrupted
	}{
		{"killed before a command", syscall.SIGKILL, false},
		{"killed with a command at work", syscall.SIGKILL, true},
		{"terminated", syscall.SIGTERM, true},
	}
	for kind, tt := range tests {
		for shard := range shards {
			t.Run(fmt.Sprintf("%s %d", tt.name, shard), func(t *testing.T) {
				t.Parallel()
				i := interpose(t, startDeployer(t))
				i.Must(i.release("v3"))
				i.Must(i.release("v1")) // so that there is one before
				_, calls := i.Run(0, tt.signal, tt.runs, i.release("v2"))
				i.Must("--rollback") // v1 serves, v2 is the one before
				if calls < 20 {
					t.Fatalf("a deploy ran %d tools, want more", calls)
				}
				running, interrupted := 0, 0
				tried := 0
				for n := 1 + (step/3*kind+shard)%step; n <= calls; n += step {
					tried++
					args := []string{i.release(versions[(running+1)%3])}
					target := versions[(running+1)%3]
					if n%5 == 0 && versionOf(t, i.Bin+".previous") != "" {
						args = []string{"--rollback"}
						target = versionOf(t, i.Bin+".previous")
					}
					got, _ := i.Run(n, tt.signal, tt.runs, args...)
					if got.Code != 0 {
						interrupted++
					}
					i.checkInterrupted(n, tt.signal, got, versions[running], target)

					next := versions[(running+2)%3]
					cmd, result := i.command("--force", i.release(next))
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					after := result()
					i.followServing()
					if after.Code != 0 || after.Stderr != "" {
						t.Fatalf("interrupted at command %d: %v\nthe next deploy: %v", n, got, after)
					}
					before := versionOf(t, i.Bin+".previous")
					if before != versions[running] && before != target {
						t.Errorf("interrupted at command %d: kept as the one before is %q, want %s or %s\nthe deploy: %v\nthe next: %v", n, before, versions[running], target, got, after)
					}
					// Kept is what served, and not what an interrupted deploy had put in its place.
					if !strings.Contains(after.Stdout, " serves in place of "+before+" (") {
						t.Errorf("interrupted at command %d: kept as the one before is %s\n%v", n, before, after)
					}
					i.check(next, before)
					if s := i.Status(); s.Version != next {
						t.Errorf("interrupted at command %d: version %s serves in the end, want %s", n, s.Version, next)
					}
					if t.Failed() {
						t.FailNow()
					}
					running = (running + 2) % 3
				}
				if interrupted < tried*3/4 {
					t.Errorf("%d of %d deploys were interrupted, want most", interrupted, tried)
				}
				t.Logf("%d of %d commands", tried, calls)
			})
		}
	}
}

// checkInterrupted checks what an interrupted deploy of target has left, where was served.
func (i *Interposer) checkInterrupted(n int, signal syscall.Signal, got deployed, was, target string) {
	i.T.Helper()
	fail := func(format string, args ...any) {
		i.T.Helper()
		i.T.Errorf("interrupted at command %d: %s\n%v", n, fmt.Sprintf(format, args...), got)
	}
	inPlace, previous := versionOf(i.T, i.Bin), versionOf(i.T, i.Bin+".previous")
	if inPlace != was && inPlace != target {
		fail("in place is %q, want %s or %s", inPlace, was, target)
	}
	if strings.Contains(previous, "else") {
		fail("the one before is %s", previous)
	}
	if r := i.Get("/100.bin"); r.Status != 200 {
		fail("GET: got %d, want 200", r.Status)
	}
	if signal == syscall.SIGKILL {
		return
	}
	// A script that is sent SIGTERM cleans up, and ends by that signal unless it was done already.
	if got.Code != 0 && got.Code != 128+int(signal) {
		fail("exit code %d, want %d", got.Code, 128+int(signal))
	}
	if left, _ := filepath.Glob(i.Bin + ".deploy*"); len(left) > 0 {
		fail("left behind: %v", left)
	}
	if s := i.Status(); s.Version != inPlace {
		fail("version %s serves, but in place is %s", s.Version, inPlace)
	}
	if got.Code != 0 && !strings.Contains(got.Stderr, "deploy: interrupted; ") {
		fail("want to hear of it on stderr")
	}
}

// Ctrl-C reaches the script and all that it runs at once, and may do so while the reload goes on.
func TestDeployScriptInterruptedReload(t *testing.T) {
	tier.Slow(t, "interrupts deploys while they reload")
	t.Parallel()
	d := startDeployer(t)
	for _, version := range []string{"v2", "v3"} {
		before := d.Status().Version
		gate := d.gate()
		cmd, result := d.command(d.release(version))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await.Until(t, "the reload", func() bool { return versionOf(t, d.Bin) == version && waits(d.Tools) })
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		got := result()
		if got.Code != 128+int(syscall.SIGINT) || !strings.Contains(got.Stderr, "deploy: interrupted; "+d.Bin+" is "+before) {
			t.Errorf("got %v", got)
		}
		os.Remove(filepath.Join(d.Tools, "gate"))
		_ = gate
		d.check(before, map[string]string{"v2": "", "v3": "v1"}[version])
		d.checkRuns(before, map[string]int{"v2": 1, "v3": 2}[version])
		d.Must(d.release("v2"), "--force")
	}
}

// waits says whether a reload stands at the gate.
func waits(tools string) bool {
	f, err := os.OpenFile(filepath.Join(tools, "gate"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false // nobody reads
	}
	f.Close()
	return true
}
