package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// layout makes the files of a deploy from what is in them; "" makes none. Those of one content are one file.
func layout(t *testing.T, target, previous, older string) files {
	t.Helper()
	dir := resolved(t, t.TempDir())
	f := filesOf(filepath.Join(dir, "baton"))
	made := make(map[string]string)
	for i, file := range []struct{ path, content string }{{f.Target, target}, {f.Previous, previous}, {f.Older, older}} {
		switch first, ok := made[file.content]; {
		case file.content == "":
		case ok:
			if err := os.Link(first, file.path); err != nil {
				t.Fatal(err)
			}
		default:
			write(t, file.path, file.content)
			at := time.Unix(int64(1000+i), 0)
			if err := os.Chtimes(file.path, at, at); err != nil {
				t.Fatal(err)
			}
			made[file.content] = file.path
		}
	}
	return f
}

func (f files) check(t *testing.T, name, target, previous, crashed string) {
	t.Helper()
	for path, want := range map[string]string{f.Target: target, f.Previous: previous, f.Crashed: crashed, f.Older: ""} {
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("%s: %s: got %q, want %q", name, filepath.Base(path), got, want)
		}
	}
}

// Whatever an interrupted deploy of v2 over v1, with v0 before it, has left: it is as before, or as after.
func TestSettle(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                    string
		target, previous, older string
		runs                    string
		wantTarget, wantBefore  string
		undone                  bool
	}{
		{"nothing was under way", "v1", "v0", "", "v1", "v1", "v0", false},
		{"the older one is kept twice", "v1", "v0", "v0", "v1", "v1", "v0", false},
		{"kept", "v1", "v1", "v0", "v1", "v1", "v0", false},
		{"kept for the first time", "v1", "v1", "", "v1", "v1", "", false},
		{"replaced, and not run", "v2", "v1", "v0", "v1", "v1", "v0", true},
		{"replaced, and serves", "v2", "v1", "v0", "v2", "v2", "v1", false},
		{"replaced, and nothing runs", "v2", "v1", "v0", "", "v2", "v1", false},
		{"rolled back, and serves", "v0", "v1", "v0", "v0", "v0", "v1", false},
	}
	for _, tt := range tests {
		f := layout(t, tt.target, tt.previous, tt.older)
		runs := ""
		for _, path := range []string{f.Target, f.Previous} {
			if content, err := os.ReadFile(path); err == nil && string(content) == tt.runs {
				runs = fileID(path)
			}
		}
		undone, err := f.settle(runs)
		if undone != tt.undone || err != nil {
			t.Errorf("%s: got %v, %v, want %v", tt.name, undone, err, tt.undone)
		}
		f.check(t, tt.name, tt.wantTarget, tt.wantBefore, "")
	}
}

// What crashes is not kept as the binary before.
func TestFinish(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                    string
		target, previous, older string
		crashes                 bool
		wantBefore, wantCrashed string
	}{
		{"deploy", "v2", "v1", "v0", false, "v1", ""},
		{"first deploy", "v2", "v1", "", false, "v1", ""},
		{"deploy over what crashes", "v2", "v1", "v0", true, "v0", "v1"},
		{"first deploy over what crashes", "v2", "v1", "", true, "", "v1"},
		{"rollback", "v0", "v1", "v0", false, "v1", ""},
		{"rollback from what crashes", "v0", "v1", "v0", true, "", "v1"},
	}
	for _, tt := range tests {
		f := layout(t, tt.target, tt.previous, tt.older)
		write(t, crashesFile(f.Target), "{}")
		f.finish(tt.crashes)
		f.check(t, tt.name, tt.target, tt.wantBefore, tt.wantCrashed)
		if fileKey(crashesFile(f.Target)) != "" {
			t.Errorf("%s: the crashes are still written down", tt.name)
		}
	}
}

func TestCopyFile(t *testing.T) {
	t.Parallel()
	from := write(t, filepath.Join(t.TempDir(), "from"), "content")
	to := from + ".copy"
	if err := copyFile(from, to); err != nil {
		t.Fatal(err)
	}
	if fileKey(from) != fileKey(to) || fileID(from) == fileID(to) {
		t.Errorf("got %s, want another file that is known as the same: %s", fileKey(to), fileKey(from))
	}
	if info, err := os.Stat(to); err != nil || info.Mode() != 0o755 {
		t.Errorf("got %v, %v", info, err)
	}
}

// A deploy that waits for a child is ended at once; a rollback is not.
func TestEndOther(t *testing.T) {
	t.Parallel()
	f := layout(t, "v1", "", "")
	if stood, err := f.endOther(); stood != "" || err != nil {
		t.Errorf("nobody: got %q, %v", stood, err)
	}
	for _, tt := range []struct {
		kind, stood, want string
		ends              bool
	}{{"deploy", "12 34", "12 34", true}, {"deploy", "", "", true}, {"rollback", "12 34", "", false}} {
		cmd := exec.Command("sh", "-c", `exec 9>>"$1"; flock 9; trap 'rm -f "$1"; exit 3' TERM; echo "$$ $2" >"$1"; echo; x=$(sleep 1000 9>&-); exit 4`,
			"deploy", f.Lock, tt.kind+" "+tt.stood)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fscanln(out) // it holds the lock
		for len(childrenOf(cmd.Process.Pid)) == 0 {
			time.Sleep(time.Millisecond)
		}
		stood, err := f.endOther()
		if (err == nil) != tt.ends || stood != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.kind, stood, err, tt.want)
		}
		if !tt.ends {
			for _, child := range childrenOf(cmd.Process.Pid) {
				syscall.Kill(child, syscall.SIGKILL)
			}
		}
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); tt.ends && got != 3 {
			t.Errorf("%s: it ended with exit code %d, want 3", tt.kind, got)
		}
		os.Remove(f.Lock)
	}
}

// Who answers a crash is waited for.
func TestEndOtherThatAnswersACrash(t *testing.T) {
	t.Parallel()
	f := layout(t, "v2", "v1", "")
	unlock, err := lockDeploy(f.Target)
	if err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{})
	time.AfterFunc(100*time.Millisecond, func() { close(released); unlock() })
	if stood, err := f.endOther(); stood != "" || err != nil {
		t.Errorf("got %q, %v", stood, err)
	}
	select {
	case <-released:
	default:
		t.Error("it was not waited for")
	}
}
