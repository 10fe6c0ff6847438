package deploy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/baton/e2e/tier"
)

func TestReadProcess(t *testing.T) {
	t.Parallel()
	p := readProcess(os.Getpid())
	if p == nil {
		t.Fatal("got nothing of this process")
	}
	if !slices.Equal(p.Arguments, os.Args) || p.UID != os.Getuid() || p.GID != os.Getgid() {
		t.Errorf("got %+v, want arguments, user and group of this process", p)
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	var p process
	if !p.parseStatus("Name:\tbaton\nUid:\t10\t11\t12\t13\nGid:\t20\t21\t22\t23\nGroups:\t1 2 3 \n") || p.UID != 10 || p.GID != 20 || !slices.Equal(p.Groups, []int{1, 2, 3}) {
		t.Errorf("got %+v", p)
	}
	if new(process).parseStatus("Name:\tbaton\n") {
		t.Error("a status without a user is taken for one")
	}
}

func TestSplitNUL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{"": nil, "a\x00": {"a"}, "a\x00\x00b\nc\x00": {"a", "", "b\nc"}, "a\x00b": {"a", "b"}} {
		if got := splitNUL(in); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestIsOwn(t *testing.T) {
	t.Parallel()
	for variable, want := range map[string]bool{"NOTIFY_SOCKET=x": true, "WATCHDOG_PID=1": true, "LISTEN_FDS=1": true, "TABLEFLIP_X=1": true,
		"PWD=/": true, "BATON_LISTEN=:80": false, "LISTENER=1": false, "X=PWD=": false} {
		if isOwn.MatchString(variable) != want {
			t.Errorf("%s: got %v, want %v", variable, !want, want)
		}
	}
}

// A service is this process, with other arguments and another environment.
func service(t testing.TB) *process {
	t.Helper()
	p := readProcess(os.Getpid())
	if p == nil {
		t.Fatal("got nothing of this process")
	}
	p.Arguments = []string{"baton", "-listen", "it's $HOME"}
	p.Environment = []string{"ODD=it's \"$HOME\" `x`\n\tand more", "EMPTY="}
	return p
}

func TestRun(t *testing.T) {
	t.Parallel()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	program := script(t, `pwd; id -u; printf '<%s>' "$ODD" "${EMPTY-unset}" "${HOME-unset}" "$@"`)
	got, code := service(t).run(program, "a b", "")
	want := fmt.Sprintf("%s\n%d\n<it's \"$HOME\" `x`\n\tand more><><unset><a b><>", dir, os.Getuid())
	if got != want || code != 0 {
		t.Errorf("got %q, %d, want %q", got, code, want)
	}
	for _, p := range []*process{service(t), nil} {
		if got, code = p.run(script(t, "echo lost >&2; exit 3")); code != 3 || got != "lost" {
			t.Errorf("exit 3: got %q, %d", got, code)
		}
		if got, code = p.run(write(t, t.TempDir()+"/x", "no program")); code != 126 || !strings.Contains(got, "exec format error") {
			t.Errorf("no program: got %q, %d", got, code)
		}
		if got, code = p.run(script(t, "kill -9 $$")); code != 137 {
			t.Errorf("killed: got %q, %d, want 137", got, code)
		}
	}
}

// Without a service that runs, root runs nothing as root that another may change.
func TestRunWithoutAProcess(t *testing.T) {
	t.Parallel()
	tier.Root(t)
	for name, tt := range map[string]struct {
		prepare func(program, dir string) error
		want    string
	}{
		"root's":                {func(program, dir string) error { return nil }, "0"},
		"another's":             {func(program, dir string) error { return os.Chown(program, 12345, 0) }, "12345"},
		"in another's place":    {func(program, dir string) error { return os.Chown(dir, 12345, 0) }, "12345"},
		"by a relative path":    {func(program, dir string) error { return nil }, "0"},
		"writable":              {func(program, dir string) error { return os.Chmod(program, 0o775) }, "65534"},
		"in a writable place":   {func(program, dir string) error { return os.Chmod(dir, 0o777) }, "65534"},
		"in a place like /tmp":  {func(program, dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, "0"},
		"by another's symlink":  {func(program, dir string) error { return os.Lchown(filepath.Join(dir, "link"), 12345, 0) }, "0"},
		"another's, by symlink": {func(program, dir string) error { return os.Chown(program, 12345, 0) }, "12345"},
	} {
		dir, err := os.MkdirTemp("", "") // t.TempDir is for root only
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		program, link := filepath.Join(dir, "program"), filepath.Join(dir, "link")
		err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, []byte("#!/bin/sh\nid -u"), 0o755), os.Symlink(program, link), tt.prepare(program, dir))
		if err != nil {
			t.Fatal(err)
		}
		called := program
		if strings.Contains(name, "symlink") {
			called = link
		}
		if strings.Contains(name, "relative") {
			wd, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			called, _ = filepath.Rel(wd, called)
		}
		if got, code := (*process)(nil).run(called); got != tt.want || code != 0 {
			t.Errorf("%s: run as %s (exit code %d), want %s", name, got, code, tt.want)
		}
	}
}

// Another user's service runs nothing as root.
func TestRunAsUser(t *testing.T) {
	t.Parallel()
	tier.Root(t)
	p := service(t)
	p.UID, p.GID, p.Groups = 12345, 23456, []int{34567}
	program := "/bin/sh"
	got, code := p.run(program, "-c", "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status")
	if want := "12345\n23456\n23456 34567\nNoNewPrivs:\t1"; got != want || code != 0 {
		t.Errorf("got %q, %d, want %q", got, code, want)
	}
	if own, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(own), "NoNewPrivs:\t0") {
		t.Errorf("this process has become one that may not gain privileges")
	}
}
