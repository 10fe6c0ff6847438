package process

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Processes are followed and killed by a pidfd or, where there is none, by their pid.
func TestProcess(t *testing.T) {
	for name, pidfd := range map[string]bool{"pidfd": true, "no pidfd": false} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sleep", "600")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			p := Open(cmd.Process.Pid)
			if !pidfd {
				p.Close()
				p.pidfd = -1
			}
			defer p.Close()
			if p.Ended() || p.EndsWithin(10*time.Millisecond) {
				t.Error("ended before it was killed")
			}
			cmd.Process.Signal(syscall.SIGSTOP)
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
			if !p.EndsWithin(time.Minute) { // as a zombie
				t.Error("lives although it was killed")
			}
			cmd.Wait()
			if !p.Ended() {
				t.Error("lives although it was reaped")
			}
			if err := p.Kill(); err != nil {
				t.Errorf("killed once more: got %v, want nothing", err)
			}
		})
	}
	for _, pid := range []int{0, -1, -1 << 31} { // kill(2) would take them for groups
		if p := Open(pid); p.Known() || p.Kill() == nil || !p.Ended() {
			t.Errorf("pid %d: got %+v, want it unknown", pid, p)
		}
	}
}
