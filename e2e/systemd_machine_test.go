// Machine: a real systemd booted as process 1 in namespaces of its own, on a throw-away copy of this
// machine's files.
//
// The network stays that of the host, so that clients in the test reach what runs inside; each machine
// has a loopback address of its own, on which every port is free, 80 included. Everything else is
// private: processes, mounts, cgroups, /run, /tmp and /dev. Whatever is written goes to memory. A
// supervisor ends the machine and removes its cgroups as soon as the test lets go, also if it was killed.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Machine is one booted systemd.
type Machine struct {
	t      testing.TB
	Shared string // a folder that has the same path inside and outside
	Root   string // the root of the files inside, as seen from outside
	Host   string // a loopback address that no other machine or service uses

	cgroup string // the folder of all its cgroups
	init   *process
}

const systemdProgram = "/lib/systemd/systemd"

// supervise makes the cgroup, runs the machine in it, and clears everything away when its standard input
// ends: the test has let go then, or is dead.
const supervise = `
cgroup=$1 dir=$2 shared=$3
mkdir "$cgroup" || exit 1
(
	# The namespace of cgroups begins at the cgroup that its maker is in.
	echo 0 >"$cgroup/cgroup.procs" || exit 1
	exec setpriv --pdeathsig KILL unshare --mount --uts --ipc --cgroup --pid --fork --kill-child \
		sh -e -c "$BOOT" boot "$dir" "$shared"
) </dev/null >"$dir/console" 2>&1 &
machine=$!
while read -r _; do :; done
read -r init 2>/dev/null <"/proc/$machine/task/$machine/children"
kill -KILL ${init:-$machine} 2>/dev/null
wait $machine
echo 1 >"$cgroup/cgroup.kill" # what has not even forked yet
tries=0
until find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null; do
	[ $((tries += 1)) -lt 500 ] || exit 1
	sleep 0.02
done
rm -rf "$dir" "$shared"
`

// boot lays out the files of the machine and becomes its process 1.
const bootScript = `
dir=$1 shared=$2
mount -t tmpfs -o mode=755 machine "$dir/root"
cd "$dir/root"
mkdir upper work root
mount -t overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" machine root
cd root

# Nothing of what this host runs: only what is installed inside, or given to boot.
rm -rf etc/systemd/system etc/fstab etc/machine-id var/log/journal
rm -rf lib/systemd/system/*.wants lib/systemd/system-generators
mkdir -p etc/systemd/system etc/systemd/journald.conf.d
cp "$dir/machine-id" etc/machine-id
echo machine >etc/hostname
# The access log of a load is more than journald takes by default, and a test wants every line.
cat >etc/systemd/journald.conf.d/machine.conf <<-END
	[Journal]
	Storage=volatile
	RateLimitIntervalSec=0
	RuntimeMaxUse=256M
	ReadKMsg=no
	Audit=no
END

mount -t tmpfs -o mode=755 machine run
mount -t tmpfs -o mode=1777 machine tmp
mount -t tmpfs -o mode=755 machine dev
for node in null zero full random urandom tty; do
	touch dev/$node
	mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 machine dev/pts
mount -t tmpfs -o mode=1777 machine dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
mount --bind "$dir/console" dev/console
mount -t proc machine proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys # the kernel's settings are the host's
mount -t sysfs -o ro machine sys
mount -t cgroup2 machine sys/fs/cgroup
mkdir -p ".$shared"
mount --bind "$shared" ".$shared"
mkdir -p run/systemd/system
cp -r "$dir/units/." run/systemd/system

pivot_root . mnt
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	chroot . sh -e -c 'umount -l /mnt; exec "$0" "$@"' ` + systemdProgram + ` --system --unit=machine.target --show-status=0
`

// machineUnit is what is booted into: a journal, and what is sent to it.
const machineUnit = `[Unit]
Description=What a test needs
Requires=basic.target
Wants=systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket
After=basic.target systemd-journald.service
AllowIsolate=yes
`

var machines atomic.Int32

// boot boots a machine with the unit files of some folders. It is gone when the test ends, and nothing of
// it is left then; nothing that ran inside may have raced or panicked.
func boot(t testing.TB, unitDirs ...string) *Machine {
	t.Helper()
	needMachine(t)
	temporary := func() string {
		dir, err := os.MkdirTemp("", "baton-")
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dir := temporary()
	m := &Machine{
		t: t, Shared: temporary(), Host: loopback(),
		cgroup: filepath.Join(ownCgroup(t), fmt.Sprintf("baton-e2e-%d-%d", os.Getpid(), machines.Add(1))),
	}
	m.chmod(m.Shared, 0o755)
	units := filepath.Join(dir, "units")
	for _, made := range []string{"root", "units"} {
		if err := os.Mkdir(filepath.Join(dir, made), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range unitDirs {
		if err := os.CopyFS(units, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	id := fmt.Sprintf("%016x%016x\n", time.Now().UnixNano(), os.Getpid()<<16|int(machines.Load()))
	put(t, []byte(machineUnit), filepath.Join(units, "machine.target"), 0o644)
	put(t, []byte(id), filepath.Join(dir, "machine-id"), 0o444)
	put(t, nil, filepath.Join(dir, "console"), 0o600)

	supervisor := exec.Command("sh", "-c", supervise, "supervise", m.cgroup, dir, m.Shared)
	supervisor.Env = append(os.Environ(), "BOOT="+bootScript)
	supervisor.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C reaches the test only, which then lets go
	complaints := new(bytes.Buffer)
	supervisor.Stdout, supervisor.Stderr = complaints, complaints
	letGo, err := supervisor.StdinPipe()
	if err == nil {
		err = supervisor.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	console := func() string {
		text, _ := os.ReadFile(filepath.Join(dir, "console"))
		return string(text)
	}
	t.Cleanup(func() {
		m.inspect()
		if t.Failed() {
			t.Logf("console of the machine:\n%s", tail(console(), 40))
		}
		letGo.Close()
		if err := supervisor.Wait(); err != nil {
			t.Errorf("end the machine: %v\n%s", err, complaints)
		}
		if m.init != nil && !m.init.within(10*time.Second) {
			t.Error("process 1 of the machine is alive at the end of the test")
		}
	})

	var pid int
	await(t, 30*time.Second, "process 1 of the machine", func() bool {
		// The supervisor starts unshare, and that the machine. Until it is systemd it has the host's files.
		for _, unshare := range children(supervisor.Process.Pid) {
			for _, child := range children(unshare) {
				name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child))
				if strings.TrimSpace(string(name)) == "systemd" {
					pid = child
					return true
				}
			}
		}
		if text := console(); strings.Contains(text, "mount:") || strings.Contains(text, "failed") {
			t.Fatalf("boot the machine: %s", text)
		}
		return false
	})
	if m.init, err = follow(pid); err != nil {
		t.Fatal(err)
	}
	m.Root = fmt.Sprintf("/proc/%d/root", pid)
	await(t, 30*time.Second, "booted systemd", func() bool {
		if !m.init.alive() {
			t.Fatalf("boot the machine: process 1 ended:\n%s", console())
		}
		// The sign before the question: each is a process.
		if _, err := os.Stat(m.Path("/run/systemd/private")); err != nil {
			return false
		}
		out, _ := m.Run("systemctl", "is-active", "machine.target")
		return out == "active\n"
	})
	return m
}

// needMachine skips the test where no machine can be booted, or fails it under BATON_STRICT=1.
func needMachine(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"unshare", "nsenter", "setpriv", "pivot_root"} {
		need(t, tool)
	}
	hint := ""
	switch _, err := os.Stat(systemdProgram); {
	case err != nil:
		hint = "systemd is missing: install it (on Debian: apt install systemd)"
	case os.Geteuid() != 0:
		hint = "booting a systemd takes root: run the tests as root"
	case ownCgroup(t) == "":
		hint = "booting a systemd takes cgroup version 2: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
	default:
		if hint = portTaken(80); hint == "" {
			return
		}
	}
	if os.Getenv("BATON_STRICT") == "1" {
		t.Fatal(hint)
	}
	t.Skip(hint)
}

// portTaken tells of a port that something on this machine, whose network the booted ones share, listens at
// on all addresses. It returns "" if nothing does.
func portTaken(port int) string {
	ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", loopback(), port))
	if err != nil {
		return fmt.Sprintf("port %d is taken on this machine (%v): end what listens there", port, err)
	}
	ln.Close()
	return ""
}

// ownCgroup returns the folder of the cgroup (version 2) of this process, empty if there is none.
func ownCgroup(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		// 36 35 98:0 /root /mount-point options - type source options
		before, after, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		for line := range strings.Lines(string(own)) {
			if path, ok := strings.CutPrefix(line, "0::"); ok {
				return filepath.Join(strings.Fields(before)[4], strings.TrimSpace(path))
			}
		}
	}
	return ""
}

// commandTime bounds every command inside a machine.
const commandTime = 3 * time.Minute

// Run runs a command inside, bounded in time, and returns what it wrote and its exit code.
// It may be called from any goroutine.
func (m *Machine) Run(args ...string) (out string, code int) {
	m.t.Helper()
	return m.RunIn(nil, args...)
}

// RunIn is Run with a standard input.
func (m *Machine) RunIn(stdin io.Reader, args ...string) (out string, code int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime+10*time.Second)
	defer cancel()
	pid := strconv.Itoa(m.init.pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"-t", pid, "-m", "-u", "-i", "-p", "-C", "--",
		"timeout", "-k", "1", strconv.Itoa(int(commandTime.Seconds())),
	}, args...)...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat", "SYSTEMD_URLIFY=0", "GORACE=atexit_sleep_ms=0",
	}
	cmd.Stdin = stdin
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch code = cmd.ProcessState.ExitCode(); {
	case err != nil && !errors.As(err, &exit):
		m.t.Errorf("run %v in the machine: %v", args, err)
	case code == 124:
		m.t.Errorf("run %v in the machine: no end within %v:\n%s", args, commandTime, text)
	}
	return string(text), code
}

// Must runs a command that has to succeed, and returns what it wrote.
func (m *Machine) Must(args ...string) string {
	m.t.Helper()
	out, code := m.Run(args...)
	if code != 0 {
		m.t.Fatalf("%s: got exit code %d, want 0:\n%s", strings.Join(args, " "), code, tail(out, 40))
	}
	return out
}

// Journal returns what a unit has written, and what systemd says of it.
func (m *Machine) Journal(unit string) string {
	m.t.Helper()
	m.Run("journalctl", "--sync")
	out, _ := m.Run("journalctl", "-q", "--no-pager", "-o", "short-precise", "-u", unit)
	return out
}

// Show returns a property of a unit.
func (m *Machine) Show(unit, property string) string {
	m.t.Helper()
	return strings.TrimSpace(m.Must("systemctl", "show", "-P", property, unit))
}

// Path returns the path outside of a file inside.
func (m *Machine) Path(inside string) string { return m.Root + inside }

// Put writes a file inside, by rename, and the folders above it where they are missing.
func (m *Machine) Put(inside, content string, mode os.FileMode) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.Path(inside)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	put(m.t, []byte(content), m.Path(inside), mode)
}

// Install puts a copy of a file of the host in place inside, by rename and executable.
func (m *Machine) Install(from, inside string) {
	m.t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		m.t.Fatal(err)
	}
	m.Put(inside, string(content), 0o755)
}

// Share copies a file of the host to the shared folder, and returns its path.
func (m *Machine) Share(from string) (path string) {
	m.t.Helper()
	path = filepath.Join(m.Shared, filepath.Base(from))
	install(m.t, from, path)
	return path
}

func (m *Machine) chmod(path string, mode os.FileMode) {
	m.t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		m.t.Fatal(err)
	}
}

// Outside returns the pid that a process inside has outside.
func (m *Machine) Outside(inside int) (pid int) {
	m.t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/status")
	namespace, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.init.pid))
	for _, path := range procs {
		if ns, err := os.Readlink(filepath.Dir(path) + "/ns/pid"); err != nil || ns != namespace {
			continue
		}
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			// NSpid: outermost ... innermost
			if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
				all := strings.Fields(ids)
				if all[len(all)-1] == strconv.Itoa(inside) {
					pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
					return pid
				}
			}
		}
	}
	m.t.Fatalf("process %d of the machine: not there", inside)
	return 0
}

// PowerOff shuts the machine down as an operator does.
func (m *Machine) PowerOff() {
	m.t.Helper()
	m.Run("systemctl", "poweroff", "--no-block") // may be ended by what it begins
	if !m.init.within(time.Minute) {
		m.t.Fatal("machine: runs a minute after poweroff")
	}
}

// inspect looks for races and panics of whatever ran inside.
func (m *Machine) inspect() {
	m.t.Helper()
	if m.init == nil || !m.init.alive() {
		return
	}
	m.Run("journalctl", "--sync")
	out, _ := m.Run("journalctl", "-q", "--no-pager", "-o", "short-precise")
	out = withoutRequests(out)
	for _, sign := range []string{"WARNING: DATA RACE", "panic:", "fatal error:", "goroutine 1 ["} {
		if i := strings.Index(out, sign); i >= 0 {
			m.t.Errorf("journal has %q:\n%.4000s", sign, out[max(0, i-200):])
		}
	}
	if m.t.Failed() {
		m.t.Logf("journal of the machine (the last lines):\n%s", tail(out, 80))
	}
}

func TestMachine(t *testing.T) {
	t.Parallel()
	units := t.TempDir()
	put(t, []byte("[Service]\nExecStart=sh -c 'echo it runs; exec sleep infinity'\n"), filepath.Join(units, "sleeper.service"), 0o644)

	var first, second *Machine
	t.Run("two at once", func(t *testing.T) {
		first = boot(t, units)
		second = boot(t, units)
		for _, m := range []*Machine{first, second} {
			m.Must("systemctl", "start", "sleeper")
			if got := m.Show("sleeper", "ActiveState"); got != "active" {
				t.Errorf("ActiveState: got %q, want active", got)
			}
			await(t, 10*time.Second, "line in the journal", func() bool { return strings.Contains(m.Journal("sleeper"), "it runs") })
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
			put(t, []byte("seen"), filepath.Join(m.Shared, "file"), 0o644)
			if got := m.Must("cat", filepath.Join(m.Shared, "file")); got != "seen" {
				t.Errorf("shared folder: got %q, want what was written outside", got)
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
		m := boot(t)
		fmt.Printf("machine %d %s %s\n", m.init.pid, m.cgroup, m.Shared)
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
	m := &Machine{t: t}
	if _, err := fmt.Fscanf(out, "machine %d %s %s\n", &pid, &m.cgroup, &m.Shared); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("what the test says of its machine: %v", err)
	}
	if m.init, err = follow(pid); err != nil {
		t.Error(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	gone := func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist)
	}
	await(t, 10*time.Second, "end of the machine", func() bool {
		return !m.init.alive() && gone(m.cgroup) && gone(m.Shared)
	})
	m.checkGone(t)
}

// checkGone checks that nothing of a machine is left.
func (m *Machine) checkGone(t *testing.T) {
	t.Helper()
	if m == nil || m.init == nil {
		return
	}
	if m.init.alive() {
		t.Error("process 1 is alive")
	}
	if _, err := os.Stat(m.cgroup); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup %s: got %v, want that it is gone", m.cgroup, err)
	}
	if _, err := os.Stat(m.Shared); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("shared folder %s: got %v, want that it is gone", m.Shared, err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), m.Shared) {
		t.Error("a mount is left")
	}
}
