package machine

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

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
cp "$dir/system.conf" etc/systemd/system.conf
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

// Boot boots a machine with the unit files of some directories. It is gone when the test ends, and nothing of
// it is left then; nothing that ran inside may have raced or panicked.
func Boot(t testing.TB, unitDirs ...string) *Machine {
	t.Helper()
	tier.Slow(t, "boots a systemd of its own")
	needMachine(t)
	m := &Machine{
		T: t, Shared: temporary(t), Host: service.Loopback(),
		cgroup: filepath.Join(ownCgroup(t), fmt.Sprintf("baton-e2e-%d-%d", os.Getpid(), machines.Add(1))),
	}
	m.chmod(m.Shared, 0o755)
	dir := temporary(t)
	lay(t, dir, unitDirs)
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
			t.Logf("console of the machine:\n%s", service.Tail(console(), 40))
		}
		letGo.Close()
		if err := supervisor.Wait(); err != nil {
			t.Errorf("end the machine: %v\n%s", err, complaints)
		}
		if m.Init != nil && !m.Init.Within(await.Hang) {
			t.Error("process 1 of the machine is alive at the end of the test")
		}
	})
	m.awaitInit(supervisor.Process.Pid, console)
	return m
}

func temporary(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "baton-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// lay puts into a directory what is mounted into the machine.
func lay(t testing.TB, dir string, unitDirs []string) {
	t.Helper()
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
	files.Put(t, []byte(machineUnit), filepath.Join(units, "machine.target"), 0o644)
	files.Put(t, []byte(id), filepath.Join(dir, "machine-id"), 0o444)
	files.Put(t, nil, filepath.Join(dir, "console"), 0o600)
	settings := "[Manager]\n"
	if build.Race {
		settings += "DefaultEnvironment=GORACE=atexit_sleep_ms=0\n" // as in service.Main
	}
	files.Put(t, []byte(settings), filepath.Join(dir, "system.conf"), 0o644)
}

// awaitInit waits until the machine's systemd has booted.
func (m *Machine) awaitInit(supervisor int, console func() string) {
	t := m.T
	t.Helper()
	var pid int
	await.Until(t, "process 1 of the machine", func() bool {
		// The supervisor starts unshare, and that the machine. Until it is systemd it has the host's files.
		for _, unshare := range process.Children(supervisor) {
			for _, child := range process.Children(unshare) {
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
	var err error
	if m.Init, err = process.Follow(pid); err != nil {
		t.Fatal(err)
	}
	m.Root = fmt.Sprintf("/proc/%d/root", pid)
	await.Until(t, "booted systemd", func() bool {
		if !m.Init.Alive() {
			t.Fatalf("boot the machine: process 1 ended:\n%s", console())
		}
		// The sign before the question: each is a process.
		if _, err := os.Stat(m.Path("/run/systemd/private")); err != nil {
			return false
		}
		_, code := m.Run("systemctl", "start", "machine.target") // waits for what the boot has begun
		return code == 0
	})
}

// needMachine ends a test where no machine can be booted.
func needMachine(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"unshare", "nsenter", "setpriv", "pivot_root"} {
		tier.Tool(t, tool)
	}
	if _, err := os.Stat(systemdProgram); err != nil {
		tier.Needs(t, "systemd", "install it (on Debian: apt install systemd)")
	}
	tier.Root(t)
	if ownCgroup(t) == "" {
		tier.Needs(t, "cgroup version 2", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
	}
	needPort(t, 80)
}

// needPort ends a test if something on this machine, whose network the booted ones share, listens at a port on
// all addresses.
func needPort(t testing.TB, port int) {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", service.Loopback(), port))
	if err != nil {
		tier.Needs(t, fmt.Sprintf("port %d", port), fmt.Sprintf("end what listens there: %v", err))
	}
	ln.Close()
}

// ownCgroup returns the directory of the cgroup (version 2) of this process, empty if there is none.
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
