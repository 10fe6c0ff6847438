package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/impostor"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Another user of the machine, who may do what every user may.

const stranger = 65534

// strangers runs the test binary as the stranger, to do what the steps say, until the test ends. It returns
// when that has printed a line.
func strangers(t testing.TB, steps string) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "stranger-") // where the stranger can execute it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	files.Put(t, self, filepath.Join(dir, "program"), 0o755)
	cmd := exec.Command(filepath.Join(dir, "program"))
	cmd.Env = append(os.Environ(), impostor.StrangerVariable+"="+steps)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	var out bytes.Buffer
	cmd.Stderr = &out
	printed, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if n, _ := printed.Read(make([]byte, 1)); n == 0 {
		cmd.Wait()
		t.Fatalf("the stranger's process ended: %s", out.String())
	}
}

// Root does not believe a server that a stranger has put in the place of the right one, nor shows what that says.
func TestStrangersControlSocket(t *testing.T) {
	tier.Slow(t, "plays other users of the machine")
	tier.Root(t)
	tmp, err := os.MkdirTemp("", "tmp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	if err := os.Chmod(tmp, os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	control := filepath.Join(tmp, "baton-0", "control.sock")
	forged, _ := json.Marshal(map[string]any{"final": true, "error": "",
		"outcome": map[string]any{"result": "succeeded", "generation": 7, "version": "\x1b[2Jforged"},
		"status":  map[string]any{"version": "forged"}})
	strangers(t, "serve "+control+" "+string(forged))
	for _, command := range []string{"upgrade", "status"} {
		for _, flags := range [][]string{{"-control", control}, nil} {
			args := append([]string{command}, flags...)
			code, stdout, stderr := process.Run(t, build.Version(t, "v1"), append(os.Environ(), "TMPDIR="+tmp), args...)
			if flags == nil && code == 3 && !strings.Contains(stdout+stderr, "forged") {
				continue // it was looked for elsewhere
			}
			if code != 4 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "runs as user 65534") {
				t.Errorf("%v: got exit code %d, stdout %q, stderr %q, want 4 and one line that says why", args, code, stdout, stderr)
			}
		}
	}
}

// What the other side says cannot do anything to a terminal, whoever that is.
func TestEscapesInReplies(t *testing.T) {
	const evil = "\x1b[2J\u009b31m\u202e\nbaton: all is well\r"
	one := map[string]any{"generation": 1, "pid": 1, "version": evil, "state": evil}
	failed := map[string]any{"result": "failed", "reason": evil, "version": evil, "stderr": []string{evil}, "generation": 1}
	replies := map[string]any{
		"error":    map[string]any{"final": true, "error": evil},
		"outcome":  map[string]any{"final": true, "progress": evil, "outcome": map[string]any{"result": "succeeded", "version": evil}},
		"failure":  map[string]any{"final": true, "outcome": failed},
		"status":   map[string]any{"final": true, "status": map[string]any{"version": evil, "state": evil, "listen": []string{evil}, "generations": []any{one}, "upgrades": []any{map[string]any{"reason": evil, "trigger": evil, "result": evil}}}},
		"wrong":    map[string]any{"final": true, "status": evil, "outcome": evil},
		"progress": map[string]any{"progress": evil},
	}
	for name, reply := range replies {
		text, err := json.Marshal(reply)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "baton-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			control := filepath.Join(dir, "s")
			go impostor.ServeReply(control, string(text))
			await.Until(t, "the server", func() bool { _, err := os.Stat(control); return err == nil })
			for _, args := range [][]string{{"upgrade"}, {"upgrade", "-json"}, {"status"}, {"status", "-json"}} {
				_, stdout, stderr := process.Run(t, build.Version(t, "v1"), os.Environ(), append(args, "-control", control, "-timeout", "5s")...)
				if out := stdout + stderr; strings.ContainsAny(out, "\x1b\u009b\u202e\r") || strings.Contains(out, "\nbaton: all is well") {
					t.Errorf("%v: got %q, want no escape sequence and no line of the server's own", args, out)
				}
			}
		})
	}
}

// Another user can lock what all can read. None of that is a lock of the service.
func TestStrangersLocks(t *testing.T) {
	tier.Slow(t, "plays other users of the machine")
	tier.Root(t)
	t.Parallel()
	b := service.Prepare(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	if err := os.Chmod(b.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files.Put(t, []byte("4194304\n"), b.PIDFile, 0o644) // as a crash leaves them
	files.Put(t, nil, b.PIDFile+".next", 0o644)
	strangers(t, "lock "+b.Dir+" "+b.PIDFile+" "+b.PIDFile+".next")
	b.Launch()
	b.AwaitReady()
	for generation := 2; generation <= 3; generation++ {
		files.Put(t, nil, b.PIDFile+".next", 0o644)
		strangers(t, "read "+b.PIDFile+" "+b.PIDFile+".next")
		b.Upgrade()
		service.CheckServes(t, b, generation, b.PID())
	}
	b.Stop()
	for _, path := range files.Glob(t, b.Dir+"/*.lock") {
		t.Errorf("a lock is left behind: %s", path)
	}
	b.Launch()
	b.AwaitReady()
}

// The PID file is one server's alone, through upgrades and until its end.
func TestPIDFileIsOneServers(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	second := func() (code int, stderr string) {
		code, _, stderr = b.Run("-listen", b.Host+":0", "-admin", "", "-control", "", "-pid-file", b.PIDFile)
		return code, stderr
	}
	for range 3 {
		pid := b.PID()
		if code, stderr := second(); code != 1 || !strings.Contains(stderr, "belongs to a running server (pid "+strconv.Itoa(pid)+")") {
			t.Errorf("second server: got exit code %d, %s, want 1 and the pid %d", code, stderr, pid)
		}
		b.Upgrade()
	}
	// A predecessor that still drains does not keep it from whoever takes over after a crash.
	c := b.Dial()
	c.Send(t, "GET /100.bin HTTP/1.1\r\nHost: x\r\n")
	predecessor := b.PID()
	b.UpgradeMeanwhile()
	await.Until(t, "another generation", func() bool { return b.ReadPID() != predecessor })
	await.Until(t, "the drain", func() bool { s, err := b.TryStatus(); return err == nil && s.Generations[0].State == "draining" })
	dead := b.PID()
	b.Kill(dead, syscall.SIGKILL)
	await.Until(t, "whoever takes over", func() bool {
		s, err := b.TryStatus()
		return err == nil && s.State == "serving" && s.PID != dead && s.PID == b.ReadPID()
	})
	if code, stderr := second(); code != 1 || !strings.Contains(stderr, "belongs to a running server (pid "+strconv.Itoa(b.ReadPID())+")") {
		t.Errorf("second server: got exit code %d, %s, want 1 and the pid %d", code, stderr, b.ReadPID())
	}
	c.Close()
}
