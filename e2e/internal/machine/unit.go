package machine

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Unit is baton.service in a booted machine.
type Unit struct {
	*Machine
	Address, Admin string
}

// Installed boots a machine and has install.sh put version v1 in place, with a configuration file of
// these lines besides the listeners. HOST in a line stands for the machine's address. Nothing is started.
func Installed(t testing.TB, lines ...string) *Unit {
	t.Helper()
	m := Boot(t)
	u := &Unit{Machine: m, Address: net.JoinHostPort(m.Host, "80"), Admin: net.JoinHostPort(m.Host, "9180")}
	out := m.Must(u.Installer(), m.Share(build.Version(t, "v1")))
	for _, want := range []string{"/usr/local/bin/baton", "/etc/systemd/system/baton.service", "/etc/baton/baton.conf"} {
		if !strings.Contains(out, "installed "+want) {
			t.Fatalf("install.sh says %s, want that %s is installed", out, want)
		}
	}
	for _, n := range exchange.FileSizes {
		m.Put(fmt.Sprintf("/srv/baton/%d.bin", n), string(exchange.Pattern(n)), 0o644)
	}
	u.Configure(lines...)
	return u
}

// Running is installed, started.
func Running(t testing.TB, lines ...string) *Unit {
	t.Helper()
	u := Installed(t, lines...)
	u.Start()
	return u
}

// Installer shares the directory of install.sh with the machine, and returns the script's path.
func (m *Machine) Installer() string {
	m.T.Helper()
	dir := filepath.Join(m.Shared, "source", "systemd")
	if _, err := os.Stat(dir); err != nil {
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(build.Root(m.T), "systemd"))); err != nil {
			m.T.Fatal(err)
		}
		m.chmod(filepath.Join(dir, "install.sh"), 0o755)
	}
	return filepath.Join(dir, "install.sh")
}

// Configure replaces the configuration file: the listeners, and these lines. The grace is long because a
// busy machine holds clients up for longer than the default; where none is silent no drain takes that long.
func (u *Unit) Configure(lines ...string) {
	u.T.Helper()
	u.ConfigureOnly(append([]string{
		"listen " + u.Address, "admin " + u.Admin, "root /srv/baton", "pid-file /run/baton/baton.pid", "idle-grace 20s",
	}, lines...)...)
}

// ConfigureOnly replaces the configuration file.
func (u *Unit) ConfigureOnly(lines ...string) {
	u.T.Helper()
	u.Put("/etc/baton/baton.conf", strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "HOST", u.Host), 0o644)
}

// DropIn adds lines to a unit, as systemctl edit does.
func (u *Unit) DropIn(unit, name string, lines ...string) {
	u.T.Helper()
	u.Put(fmt.Sprintf("/etc/systemd/system/%s.d/%s.conf", unit, name), strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "HOST", u.Host), 0o644)
	u.Must("systemctl", "daemon-reload")
}

// Start starts the service; it is ready when the command returns.
func (u *Unit) Start() {
	u.T.Helper()
	if out, code := u.Run("timeout", "60", "systemctl", "start", "baton"); code != 0 {
		u.T.Fatalf("systemctl start: got exit code %d, want 0: %s\n%s", code, out, u.Log())
	}
}

// Deploy replaces the binary by rename.
func (u *Unit) Deploy(version string) {
	u.T.Helper()
	u.Install(build.Version(u.T, version), "/usr/local/bin/baton")
}

// DeployScript replaces the binary by a shell script.
func (u *Unit) DeployScript(lines string) {
	u.T.Helper()
	u.Put("/usr/local/bin/baton", string(files.Script(lines)), 0o755)
}

// Reload reloads the service, and fails the test if that does not succeed.
func (u *Unit) Reload() {
	u.T.Helper()
	if out, code := u.Run("systemctl", "reload", "baton"); code != 0 {
		u.T.Fatalf("systemctl reload: got exit code %d, want 0: %s\n%s", code, out, u.Log())
	}
}

// Await is await for a condition that takes a command to ask, which is not asked all the time.
func (u *Unit) Await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	var next time.Time
	await.Until(t, what, func() bool {
		if time.Now().Before(next) {
			return false
		}
		defer func() { next = time.Now().Add(100 * time.Millisecond) }()
		return cond()
	})
}

// Result is what came of a command.
type Result struct {
	Out  string
	Code int
}

// Meanwhile runs a command; the result is to be had from the channel.
func (u *Unit) Meanwhile(args ...string) <-chan Result {
	done := make(chan Result, 1)
	go func() {
		out, code := u.Run(args...)
		done <- Result{out, code}
	}()
	return done
}

// Wait waits for a command that runs meanwhile.
func (u *Unit) Wait(what string, done <-chan Result, within time.Duration) Result {
	u.T.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(within):
		u.T.Fatalf("%s: no end within %v\n%s", what, within, u.Log())
		return Result{}
	}
}

// MainPID returns the main process, 0 if there is none, by its pid inside.
func (u *Unit) MainPID() int {
	u.T.Helper()
	return u.number("MainPID")
}

// Restarts returns how often systemd has restarted the service.
func (u *Unit) Restarts() int {
	u.T.Helper()
	return u.number("NRestarts")
}

// Stored returns how many descriptors systemd holds for the service.
func (u *Unit) Stored() int {
	u.T.Helper()
	return u.number("NFileDescriptorStore")
}

func (u *Unit) number(property string) int {
	u.T.Helper()
	text := u.Show("baton.service", property)
	n, err := strconv.Atoi(text)
	if err != nil {
		u.T.Fatalf("%s: got %q, want a number", property, text)
	}
	return n
}

// Kill sends a signal to a process inside.
func (u *Unit) Kill(signal string, pid int) {
	u.T.Helper()
	u.Must("sh", "-c", fmt.Sprintf("kill -%s %d", signal, pid))
}

// Hold stops a process inside, all of its threads, until it gets SIGCONT or is killed.
func (u *Unit) Hold(pid int) {
	u.T.Helper()
	u.Kill("STOP", pid)
	outside := u.Outside(pid)
	await.Until(u.T, "stopped process", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", outside))
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			if err == nil && !strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " T") {
				return false
			}
		}
		return len(threads) > 0
	})
}

// Log is the journal of the service without requests.
func (u *Unit) Log() string {
	u.T.Helper()
	return service.WithoutRequests(u.Journal("baton.service"))
}

// LogFromNow returns a way to read what is added to the log from now on.
func (u *Unit) LogFromNow() (read func() string) {
	u.T.Helper()
	const label = "-- cursor: "
	cursor := strings.TrimSpace(u.Must("journalctl", "-q", "-n", "0", "--show-cursor"))
	if !strings.HasPrefix(cursor, label) {
		u.T.Fatalf("journalctl --show-cursor: got %q", cursor)
	}
	return func() string {
		u.T.Helper()
		u.Run("journalctl", "--sync")
		out, _ := u.Run("journalctl", "-q", "--no-pager", "-o", "short-precise", "-u", "baton.service", "--after-cursor", strings.TrimPrefix(cursor, label))
		return service.WithoutRequests(out)
	}
}

// Processes returns the pids inside of all processes of the service.
func (u *Unit) Processes() (pids []int) {
	text, _ := os.ReadFile(u.Path("/sys/fs/cgroup/system.slice/baton.service/cgroup.procs"))
	// The pids that are read here are those of this namespace: count, but do not name them.
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Status asks over the admin listener.
func (u *Unit) Status() (*service.Status, error) {
	resp, err := http1.Fetch("tcp", u.Admin, "GET", "/status")
	if err != nil {
		return nil, err
	}
	s := new(service.Status)
	return s, json.Unmarshal(resp.Body, s)
}

// CheckServes checks that the unit is active, that its main process is the generation that serves, and that
// this is generation n of that version.
func (u *Unit) CheckServes(t testing.TB, n int, version string) {
	t.Helper()
	s, err := u.Status()
	if err != nil {
		t.Fatalf("status: %v\n%s", err, u.Log())
	}
	if s.Generation != n || s.Version != version || s.State != "serving" {
		t.Errorf("got generation %d, version %s, %s, want %d, %s, serving", s.Generation, s.Version, s.State, n, version)
	}
	if got, want := u.Must("systemctl", "show", "-p", "MainPID,ActiveState", "baton"), fmt.Sprintf("MainPID=%d\nActiveState=active\n", s.PID); got != want {
		t.Errorf("systemctl show: got %q, want %q", got, want)
	}
	if !http1.Answers("tcp", u.Address) {
		t.Errorf("%s does not answer", u.Address)
	}
	if pid, err := os.ReadFile(u.Path("/run/baton/baton.pid")); err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(s.PID) {
		t.Errorf("PID file: got %q, %v, want %d", pid, err, s.PID)
	}
}

// CheckStopped checks that the service is stopped in order, and that nothing of it is left.
func (u *Unit) CheckStopped(t testing.TB) {
	t.Helper()
	if state, result := u.Show("baton.service", "ActiveState"), u.Show("baton.service", "Result"); state != "inactive" || result != "success" {
		t.Errorf("after the stop: got %s, result %s, want inactive, success\n%s", state, result, service.Tail(u.Log(), 30))
	}
	if left := u.Processes(); len(left) != 0 {
		t.Errorf("after the stop: %d processes are left", len(left))
	}
	if n := u.Stored(); n != 0 {
		t.Errorf("after the stop: %d descriptors are in the store, want none", n)
	}
	for _, file := range []string{"baton.pid", "control.sock"} {
		if _, err := os.Lstat(u.Path("/run/baton/" + file)); err == nil {
			t.Errorf("after the stop: /run/baton/%s is left", file)
		}
	}
	if c, err := http1.Dial("tcp", u.Address, time.Second); err == nil {
		c.Close()
		t.Errorf("after the stop: %s takes connections", u.Address)
	}
	// systemd may well kill what is left of a process that has all but exited, so that what it reports proves nothing.
	log := u.Log()
	ended := make(map[string]string)
	for _, m := range transition.FindAllStringSubmatch(log, -1) {
		ended[m[1]] = m[2]
	}
	for pid, state := range ended {
		if state == "draining" {
			t.Errorf("generation %s was killed in its drain:\n%s", pid, service.Tail(log, 30))
		}
	}
	if len(ended) == 0 || strings.Contains(log, "timed out") {
		t.Errorf("the stop was not in order:\n%s", service.Tail(log, 30))
	}
}

// transition is a line of the log that reports the beginning or the end of a drain.
var transition = regexp.MustCompile(`generation=(\d+) from=\w+ to=(draining|exited)`)

var SmallCrowd = [load.Habits]int{load.BackToBack: 2, load.Pausing: 32, load.PerRequest: 1, load.PerRequestEnd: 1}

// SmallLoad is the load of a service that shares the machine with other tests. Its clients rest a little: each request
// is a line in the journal, which costs more than the answer.
func (u *Unit) SmallLoad(t testing.TB) (counts *load.Tally, stop func() *load.Tally) {
	t.Helper()
	l := load.Load{Network: "tcp", Address: u.Address, Exchanges: exchange.Files(), Pause: 100 * time.Millisecond, Rest: 20 * time.Millisecond, Clients: SmallCrowd}
	if tier.Strict() {
		l.Pause, l.Rest = 50*time.Millisecond, 5*time.Millisecond
	}
	counts, stop = load.Start(t, l)
	await.Until(t, "requests of every client", func() bool {
		return counts.Answered[load.BackToBack].Load() > 0 && counts.Answered[load.Pausing].Load() > 32 &&
			counts.Answered[load.PerRequest].Load() > 0 && counts.Answered[load.PerRequestEnd].Load() > 0
	})
	return counts, stop
}
