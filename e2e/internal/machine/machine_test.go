package machine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
)

func TestMachine(t *testing.T) {
	t.Parallel()
	units := t.TempDir()
	files.Put(t, []byte("[Service]\nExecStart=sh -c 'echo it runs; exec sleep infinity'\n"), filepath.Join(units, "sleeper.service"), 0o644)

	var first, second *Machine
	t.Run("two at once", func(t *testing.T) {
		first = Boot(t, units)
		second = Boot(t, units)
		for _, m := range []*Machine{first, second} {
			m.Must("systemctl", "start", "sleeper")
			if got := m.Show("sleeper", "ActiveState"); got != "active" {
				t.Errorf("ActiveState: got %q, want active", got)
			}
			await.Until(t, "line in the journal", func() bool { return strings.Contains(m.Journal("sleeper"), "it runs") })
			if got := m.Must("systemctl", "--failed", "--plain", "--no-legend"); got != "" {
				t.Errorf("failed units: got %s, want none", got)
			}
			if got, code := m.Run("sh", "-c", "echo told; exit 3"); got != "told\n" || code != 3 {
				t.Errorf("run: got %q and exit code %d, want told and 3", got, code)
			}
			inside, err := strconv.Atoi(m.Show("sleeper", "MainPID"))
			if err != nil {
				t.Fatal(err)
			}
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", m.Outside(inside)))
			if string(comm) != "sleep\n" {
				t.Errorf("main process outside: got %q, %v, want sleep", comm, err)
			}
			m.Put("/etc/only-inside", "x", 0o600)
			if _, err := os.Stat("/etc/only-inside"); err == nil {
				t.Error("a file written inside shows outside")
			}
			files.Put(t, []byte("seen"), filepath.Join(m.Shared, "file"), 0o644)
			if got := m.Must("cat", filepath.Join(m.Shared, "file")); got != "seen" {
				t.Errorf("shared directory: got %q, want what was written outside", got)
			}
		}
		if first.Host == second.Host {
			t.Errorf("two machines have the address %s", first.Host)
		}
		ln, err := net.Listen("tcp", first.Host+":80")
		if err != nil {
			t.Errorf("port 80 of the machine: %v", err)
		} else {
			ln.Close()
		}
		first.PowerOff()
	})
	for _, m := range []*Machine{first, second} {
		m.checkGone(t)
	}
}

// A machine goes even if the test that booted it is killed.
func TestMachineOfAKilledTest(t *testing.T) {
	const variable = "E2E_BOOT_AND_WAIT"
	if os.Getenv(variable) != "" {
		m := Boot(t)
		fmt.Printf("machine %d %s %s\n", m.Init.Pid, m.cgroup, m.Shared)
		select {}
	}
	t.Parallel()
	needMachine(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestMachineOfAKilledTest$")
	cmd.Env = append(os.Environ(), variable+"=1", "TMPDIR="+t.TempDir()) // what it leaves goes with it
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	m := &Machine{T: t}
	if _, err := fmt.Fscanf(out, "machine %d %s %s\n", &pid, &m.cgroup, &m.Shared); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("what the test says of its machine: %v", err)
	}
	if m.Init, err = process.Follow(pid); err != nil {
		t.Error(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	gone := func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist)
	}
	await.Until(t, "end of the machine", func() bool {
		return !m.Init.Alive() && gone(m.cgroup) && gone(m.Shared)
	})
	m.checkGone(t)
}

// checkGone checks that nothing of a machine is left.
func (m *Machine) checkGone(t *testing.T) {
	t.Helper()
	if m == nil || m.Init == nil {
		return
	}
	if m.Init.Alive() {
		t.Error("process 1 is alive")
	}
	if _, err := os.Stat(m.cgroup); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup %s: got %v, want that it is gone", m.cgroup, err)
	}
	if _, err := os.Stat(m.Shared); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("shared directory %s: got %v, want that it is gone", m.Shared, err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), m.Shared) {
		t.Error("a mount is left")
	}
}
