package upgrade_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// A unit that does not hear of successors ends with the first upgrade: its first process warns.
func TestUnitWithoutNotify(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, script string
		want         bool
	}{
		{"main process of a plain unit", "SYSTEMD_EXEC_PID=$$ INVOCATION_ID=1 exec ./program", true},
		{"main process of a unit with Type=notify", "NOTIFY_SOCKET=/run/systemd/notify SYSTEMD_EXEC_PID=$$ INVOCATION_ID=1 exec ./program", false},
		{"below the main process of a unit", "SYSTEMD_EXEC_PID=$PPID INVOCATION_ID=1 exec ./program", false},
		{"of an older systemd, but not its child", "INVOCATION_ID=1 exec ./program", false},
		{"without systemd", "exec ./program", false},
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			l.below = sh
			script := "unset NOTIFY_SOCKET SYSTEMD_EXEC_PID INVOCATION_ID; " + tt.script + "\n"
			if err := os.WriteFile(l.path("run"), []byte(script), 0o600); err != nil {
				t.Fatal(err)
			}
			l.launch()
			warnings := func() int { return strings.Count(l.printed(), "systemd will stop this service") }
			if got := warnings() == 1; got != tt.want {
				t.Errorf("got %d warnings, want one: %v", warnings(), tt.want)
			}
			l.first.Process.Signal(syscall.SIGHUP)
			l.await("generation 2 serves", func() bool { s, err := l.status(); return err == nil && s.Generation == 2 })
			if got := warnings() == 1; got != tt.want {
				t.Errorf("after an upgrade: got %d warnings, want one: %v", warnings(), tt.want)
			}
		})
	}
}
