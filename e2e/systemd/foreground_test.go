package systemd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Containers and supervisors: whoever takes the end of the process that it has started for that of the service.

// contain starts a command as process 1 of a PID namespace, and returns that process and unshare, which exits as it does.
// With BATON in the command stands the service with its flags.
func contain(t *testing.T, b *service.Baton, proc string, command ...string) (first int, ended func() error) {
	t.Helper()
	tier.Root(t) // for PID namespaces
	var words []string
	for _, word := range command {
		if word == "BATON" {
			words = append(append(words, b.Bin), b.Flags()...)
		} else {
			words = append(words, b.Expand(word))
		}
	}
	flags := append([]string{"--pid", "--fork", "--kill-child", "--mount",
		"env", "--default-signal=HUP"}, // which is ignored if the tests run below nohup
		"sh", "-c", proc+`; exec "$0" "$@"`)
	cmd := exec.Command(tier.Tool(t, "unshare"), append(flags, words...)...)
	cmd.Dir = b.Dir
	cmd.Env = append(os.Environ(), b.Mark)
	log, err := os.OpenFile(b.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill() // and with it what is inside
		if t.Failed() {
			t.Logf("log:\n%s", service.Tail(b.Log(), 40))
		}
	})
	await.Until(t, "readiness", func() bool { return b.Probe("/readyz") == 200 })
	await.Until(t, "process 1", func() bool {
		if all := process.Children(cmd.Process.Pid); len(all) == 1 {
			first = all[0]
		}
		return first != 0
	})
	return first, func() error {
		select {
		case err := <-exited:
			return err
		case <-time.After(30 * time.Second):
			return fmt.Errorf("not ended")
		}
	}
}

const ownProc = "mount -t proc proc /proc"

func TestForeground(t *testing.T) {
	tier.Slow(t, "runs four other supervisors")
	t.Parallel()
	tests := []struct {
		name, tool string
		proc       string
		command    []string
	}{
		{"process 1", "unshare", ownProc, []string{"BATON"}},
		{"process 1, with the host's /proc", "unshare", ":", []string{"BATON"}},
		{"process 1, without /proc", "unshare", "mount -t tmpfs none /proc", []string{"BATON"}},
		{"tini", "tini", ownProc, []string{"tini", "--", "BATON", "-foreground"}},
		{"shell below tini", "tini", ownProc, []string{"tini", "--", "sh", "-c", `"$@"; exit $?`, "sh", "BATON", "-foreground"}},
		{"supervisord", "supervisord", ownProc, []string{"supervisord", "-n", "-c", "DIR/supervisord.conf"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tier.Tool(t, tt.tool)
			b := service.Prepare(t, service.Args("-idle-grace", "50ms"))
			files.Put(t, []byte("[supervisord]\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile="+b.Dir+"/supervisord.pid\n"+
				"[program:baton]\nautorestart=unexpected\nstopwaitsecs=40\nstdout_logfile=NONE\nstderr_logfile="+b.LogPath()+"\n"+
				"command="+b.Bin+" "+strings.Join(b.Flags(), " ")+" -foreground\n"), filepath.Join(b.Dir, "supervisord.conf"), 0o644)
			first, ended := contain(t, b, tt.proc, tt.command...)
			for n := 2; n <= 3; n++ {
				b.Deploy("v2")
				if code, out, errs := b.Run("upgrade", "-control", b.Control); code != 0 {
					t.Fatalf("upgrade: got exit code %d, %s %s", code, out, errs)
				}
				await.Until(t, "next generation", func() bool {
					s, err := b.TryStatus()
					return err == nil && s.Generation == n && len(s.Generations) == 1
				})
			}
			await.Throughout(t, 200*time.Millisecond, "third generation", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == 3 })
			if strings.Contains(b.Log(), "-foreground") {
				t.Error("the log has a warning that is superfluous")
			}
			if strings.HasPrefix(tt.name, "shell") {
				return // which passes no signal on
			}
			if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := ended(); err != nil {
				t.Errorf("process 1: got %v, want exit status 0", err)
			}
			if log := b.Log(); strings.Count(log, `"to":"exited"`) != 3 {
				t.Error("at a stop: want the log of a drain of the last generation")
			}
		})
	}
}

func TestWarningOfSupervisor(t *testing.T) {
	tier.Slow(t, "runs other supervisors")
	t.Parallel()
	const pass = `"$@"; exit $?` // a last command would take the place of the shell
	tests := []struct {
		name, tool, proc string
		command          []string
		want             string // the parent; empty: no warning
	}{
		{"tini", "tini", ownProc, []string{"tini", "--", "BATON"}, "tini"},
		{"shell below tini", "tini", ownProc, []string{"tini", "--", "sh", "-c", pass, "sh", "BATON"}, "tini"},
		{"script below tini", "tini", ownProc, []string{"tini", "--", "DIR/entrypoint.sh", "BATON"}, "tini"},
		{"timeout below tini", "tini", ownProc, []string{"tini", "--", "timeout", "600", "BATON"}, "tini"},
		{"shell as process 1", "sh", ownProc, []string{"sh", "-c", pass, "sh", "BATON"}, "sh"},
		{"tini, with the host's /proc", "tini", ":", []string{"tini", "--", "BATON"}, "process 1"},
		{"tini, without /proc", "tini", "mount -t tmpfs none /proc", []string{"tini", "--", "BATON"}, "process 1"},
		{"supervisord", "supervisord", ownProc, []string{"tini", "--", "supervisord", "-n", "-c", "DIR/supervisord.conf"}, "supervisord"},
		{"nohup below tini", "tini", ownProc, []string{"tini", "--", "sh", "-c", `nohup "$@"; exit $?`, "sh", "BATON"}, ""},
		{"another program below tini", "tini", ownProc, []string{"tini", "--", "setsid", "--wait", "BATON"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tier.Tool(t, tt.tool)
			b := service.Prepare(t)
			files.Put(t, files.Script(pass), filepath.Join(b.Dir, "entrypoint.sh"), 0o755)
			files.Put(t, []byte("[supervisord]\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile="+b.Dir+"/supervisord.pid\n"+
				"[program:baton]\nstdout_logfile=NONE\nstderr_logfile="+b.LogPath()+"\ncommand="+b.Bin+" "+strings.Join(b.Flags(), " ")+"\n"),
				filepath.Join(b.Dir, "supervisord.conf"), 0o644)
			contain(t, b, tt.proc, tt.command...)
			log := b.Log()
			if got := strings.Contains(log, "start it with -foreground"); got != (tt.want != "") || !strings.Contains(log, `"parent":"`+tt.want) && got {
				t.Errorf("the log has a warning: %t, want one that names %q", got, tt.want)
			}
		})
	}
}

// systemd names the process that it has started; below that the first generation takes its place.
func TestForegroundTakesSockets(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 200*time.Millisecond)
	b := service.Prepare(t, with, service.SocketUnit(t, "ADDRESS"), service.Args("-idle-grace", "50ms", "-foreground"))
	b.Launch()
	b.AwaitReady()
	await.Until(t, "a heartbeat for the watchdog", func() bool { return len(m.Heard("WATCHDOG=1")) > 0 })
	c, err := net.Dial("tcp", b.Address)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	b.Upgrade()
	await.Until(t, "a notification by the successor", func() bool {
		fed := m.Heard("WATCHDOG=1")
		return fed[len(fed)-1].Pid == b.PID()
	})
	if strings.Contains(b.Log(), "in use") {
		t.Error("the socket of the unit was not taken")
	}
}
