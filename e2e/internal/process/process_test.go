package process

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// start starts a shell script that nobody else waits for.
func start(t *testing.T, script string, env ...string) *Process {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Follow(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.Alive() {
			syscall.Kill(p.Pid, syscall.SIGKILL)
			p.Within(time.Minute)
		}
	})
	return p
}

func TestOutcome(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"success", "exit 0", "exit status 0"},
		{"failure", "exit 3", "exit status 3"},
		{"signal", "kill -KILL $$", "ended by killed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, tt.script)
			if !p.Within(time.Minute) || p.Alive() {
				t.Fatal("still alive")
			}
			if got := p.Outcome(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFamily(t *testing.T) {
	const mark = "PROCESS_TEST_MARK=family"
	p := start(t, "kill -STOP $$; exit 0", mark)
	for deadline := time.Now().Add(time.Minute); !Stopped(t, p.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process does not stop")
		}
	}
	if !Executed(p.Pid) {
		t.Error("Executed: got false, want true")
	}
	if got := Descendants(mark); !slices.Equal(got, []int{p.Pid}) {
		t.Errorf("Descendants: got %v, want %d alone", got, p.Pid)
	}
	if got := Children(os.Getpid()); !slices.Contains(got, p.Pid) {
		t.Errorf("Children: got %v, want %d among them", got, p.Pid)
	}
	syscall.Kill(p.Pid, syscall.SIGCONT)
	if !p.Within(time.Minute) || p.Outcome() != "exit status 0" {
		t.Errorf("outcome: got %s, want exit status 0", p.Outcome())
	}
	if got := Descendants(mark); len(got) != 0 {
		t.Errorf("Descendants after its end: got %v, want none", got)
	}
}

func TestRun(t *testing.T) {
	code, stdout, stderr := Run(t, "/bin/sh", []string{"WORD=hello"}, "-c", "echo $WORD; echo no >&2; exit 3")
	if code != 3 || stdout != "hello\n" || stderr != "no\n" {
		t.Errorf("got %d, %q, %q, want 3, hello and no", code, stdout, stderr)
	}
}
