package upgrade

import (
	"encoding/gob"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The wall clock is set in the midst of an upgrade.

// A successor whose predecessor's clock was an hour behind, because it has been set since, has as much time to
// become ready as it is given, and kills the predecessors that are overdue, and no others.
func TestClockIsSet(t *testing.T) {
	tier.Slow(t, "sets the clock of a service")
	t.Parallel()
	tier.Tool(t, "sleep")
	dir, err := os.MkdirTemp("", "baton-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var ready, names [2]int
	for _, ends := range []*[2]int{&ready, &names} {
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	own, theirs := socketpair(t)
	file := func(fd int) *os.File {
		f := os.NewFile(uintptr(fd), "")
		t.Cleanup(func() { f.Close() })
		return f
	}
	readyR, readyW, namesR, namesW := file(ready[0]), file(ready[1]), file(names[0]), file(names[1])

	set := -time.Hour
	say := func(m map[string]any, rights ...int) {
		t.Helper()
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			t.Fatal(err)
		}
		m["sent"], m["clock"] = time.Now().Add(set), now.Nano()
		packet, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var control []byte
		if len(rights) > 0 {
			control = unix.UnixRights(rights...)
		}
		if err := unix.Sendmsg(own, packet, control, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	introduction := func(generation, pid int) map[string]any {
		now := time.Now().Add(set)
		return map[string]any{"protocol": 2, "generation": generation, "pid": pid, "version": "by hand", "drain": time.Minute,
			"started": now, "asked": now, "begun": now, "deadline": now.Add(time.Minute)}
	}
	say(map[string]any{"type": "hello", "hello": introduction(3, os.Getpid())})

	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(build.Version(t, "v1"), "-listen", "unix:"+dir+"/s", "-admin", "", "-control", dir+"/control", "-log-format", "json")
	cmd.Env = append(os.Environ(), "TABLEFLIP_HAS_PARENT_7DIU3=yes")
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{readyW, namesR, file(theirs)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if err := gob.NewEncoder(namesW).Encode([][]string{{"fd", "link"}}); err != nil {
		t.Fatal(err)
	}
	readyW.Close()
	told := make([]byte, 1)
	if n, err := readyR.Read(told); n != 1 || told[0] != 42 {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("the successor is not ready: %v\n%s", err, text)
	}

	// Two predecessors of its predecessor: one that drains, and one that should have been gone.
	predecessor := func(generation int, due time.Duration) (process *exec.Cmd, link int) {
		t.Helper()
		sleeper := exec.Command("sleep", "600")
		if err := sleeper.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			sleeper.Process.Kill()
			sleeper.Wait()
		})
		link, far := socketpair(t)
		say(map[string]any{"type": "predecessor", "hello": introduction(generation, sleeper.Process.Pid), "report": map[string]any{},
			"due": time.Now().Add(set + due)}, far)
		unix.Close(far)
		return sleeper, link
	}
	draining, _ := predecessor(1, time.Minute)
	overdue, _ := predecessor(2, -time.Second)
	if err := overdue.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("predecessor that is overdue: got %v, want it killed", err)
	}
	if err := draining.Process.Signal(unix.Signal(0)); err != nil || strings.Contains(process.ProcStatus(t, draining.Process.Pid, "State"), "zombie") {
		t.Errorf("predecessor that drains: got %v, want it alive", err)
	}
	// One whose link is lost is waited for, and killed when it is overdue.
	lost, link := predecessor(2, time.Second)
	unix.Shutdown(link, unix.SHUT_RDWR)
	if err := lost.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("predecessor whose link is lost: got %v, want it killed", err)
	}
	_, stdout, stderr := process.Run(t, build.Version(t, "v1"), os.Environ(), "status", "-json", "-control", dir+"/control")
	var s service.Status
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatal(err, stderr)
	}
	for _, g := range s.Generations {
		if g.AgeSeconds < 0 || g.AgeSeconds > 600 {
			t.Errorf("generation %d: got an age of %v s", g.Generation, g.AgeSeconds)
		}
	}
}

// socketpair returns the ends of a link. They are closed when the test ends.
func socketpair(t *testing.T) (own, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	return fds[0], fds[1]
}
