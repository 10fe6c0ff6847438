package deploy

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckProgram(t *testing.T) {
	t.Parallel()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	truncated := "it is truncated: its tables describe more than its "
	own, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	other := strings.Clone(string(self))
	patched := []byte(other)
	binary.LittleEndian.PutUint16(patched[18:], uint16(elf.EM_RISCV))
	tests := []struct{ name, content, want string }{
		{"this one", string(self), ""},
		{"script", "#!/bin/sh\n", ""},
		{"half", string(self[:len(self)/2]), truncated},
		{"without its end", string(self[:len(self)-100]), truncated},
		{"header alone", string(self[:100]), truncated},
		{"half a header", string(self[:19]), "it is not a program"},
		{"text", "once upon a time, and long enough\n", "it is not a program"},
		{"other machine", string(patched), "it is for riscv64, and this machine is " + machineName(own.Machine)},
		{"big-endian", "\x7fELF\x02\x02\x01" + strings.Repeat("\x00", 11) + "\x00\x16" + strings.Repeat("\x00", 4000), "it is for s390x, and"},
	}
	for _, tt := range tests {
		err := checkProgram(write(t, filepath.Join(t.TempDir(), "x"), tt.content))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	if err := checkProgram(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a missing file is taken for a program")
	}
}

func TestIsBaton(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, path string
		want       bool
	}{
		{"stand-in", script(t, `echo "baton 1 (commit none, go1)"`), true},
		{"another script", script(t, "exec baton upgrade"), false},
		{"another Go program, which embeds the packages", "/proc/self/exe", false},
		{"another program", "/bin/sh", false},
		{"text that has its version", write(t, t.TempDir()+"/x", "baton 1 (commit none, go1)"), false},
		{"missing", t.TempDir() + "/x", false},
	}
	for _, tt := range tests {
		if got := isBaton(tt.path); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestReleaseOf(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, script, want, problem string }{
		{"release", `echo "baton v1.4 (commit 0123456789abcdef, go1.26)"`, "v1.4 (0123456)", ""},
		{"after a complaint", `echo "sh: warning" >&2; echo "baton v1 (commit none, go1)"`, "v1 (none)", ""},
		{"spaces", `echo "baton 1 beta (2) (commit none, go1)"`, "1 beta (2) (none)", ""},
		{"nothing", "exit 0", "", "its version command fails (exit code 0): it prints nothing"},
		{"something else", "echo shop 1", "", "(exit code 0): shop 1"},
		{"failure", "echo lost >&2; exit 1", "", "(exit code 1): lost"},
		{"failure after the line", `echo "baton v1 (commit none, go1)"; exit 1`, "", "(exit code 1): baton v1"},
	}
	for _, tt := range tests {
		r, err := releaseOf(nil, script(t, tt.script))
		if r.String() != tt.want || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s: got %q, %v, want %q, %s", tt.name, r, err, tt.want, tt.problem)
		}
	}
}

func TestCheckConfiguration(t *testing.T) {
	t.Parallel()
	if err := checkConfiguration(service(t), script(t, `[ "$*" = "check -listen it's \$HOME" ]`)); err != nil {
		t.Errorf("got %v, want the arguments of the service to arrive", err)
	}
	err := checkConfiguration(service(t), script(t, "echo one; echo two >&2; exit 2"))
	if want := "its check of today's configuration fails (exit code 2):\none\ntwo"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestNameOf(t *testing.T) {
	t.Parallel()
	if got := nameOf(nil, "/bin/sh"); got != "/bin/sh" {
		t.Errorf("another program: got %q, want its path", got)
	}
	if got := nameOf(nil, script(t, "# baton 1 (commit none\nexit 1")); got != "" {
		t.Errorf("broken: got %q, want nothing", got)
	}
}
