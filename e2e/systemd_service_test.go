// Unit: the service as install.sh puts it in place, in a machine of its own.
package e2e

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
)

// Unit is baton.service in a booted machine.
type Unit struct {
	*Machine
	Address, Admin string
}

// installed boots a machine and has install.sh put version v1 in place, with a configuration file of
// these lines besides the listeners. HOST in a line stands for the machine's address. Nothing is started.
func installed(t testing.TB, lines ...string) *Unit {
	t.Helper()
	m := boot(t)
	u := &Unit{Machine: m, Address: net.JoinHostPort(m.Host, "80"), Admin: net.JoinHostPort(m.Host, "9180")}
	out := m.Must(u.installer(), m.Share(built(t, "v1")))
	for _, want := range []string{"/usr/local/bin/baton", "/etc/systemd/system/baton.service", "/etc/baton/baton.conf"} {
		if !strings.Contains(out, "installed "+want) {
			t.Fatalf("install.sh says %s, want that %s is installed", out, want)
		}
	}
	for _, n := range fileSizes {
		m.Put(fmt.Sprintf("/srv/baton/%d.bin", n), string(pattern(n)), 0o644)
	}
	u.Configure(lines...)
	if race {
		u.DropIn("baton.service", "race", "[Service]", "Environment=GORACE=atexit_sleep_ms=0") // a race is reported at once all the same
	}
	return u
}

// running is installed, started.
func running(t testing.TB, lines ...string) *Unit {
	t.Helper()
	u := installed(t, lines...)
	u.Start()
	return u
}

// installer shares the folder of install.sh with the machine, and returns the script's path.
func (m *Machine) installer() string {
	m.t.Helper()
	dir := filepath.Join(m.Shared, "source", "systemd")
	if _, err := os.Stat(dir); err != nil {
		if err := os.CopyFS(dir, os.DirFS("../systemd")); err != nil {
			m.t.Fatal(err)
		}
		m.chmod(filepath.Join(dir, "install.sh"), 0o755)
	}
	return filepath.Join(dir, "install.sh")
}

// Configure replaces the configuration file: the listeners, and these lines. The grace is long because a
// busy machine holds clients up for longer than the default; where none is silent no drain takes that long.
func (u *Unit) Configure(lines ...string) {
	u.t.Helper()
	u.ConfigureOnly(append([]string{
		"listen " + u.Address, "admin " + u.Admin, "root /srv/baton", "pid-file /run/baton/baton.pid", "idle-grace 20s",
	}, lines...)...)
}

// ConfigureOnly replaces the configuration file.
func (u *Unit) ConfigureOnly(lines ...string) {
	u.t.Helper()
	u.Put("/etc/baton/baton.conf", strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "HOST", u.Host), 0o644)
}

// DropIn adds lines to a unit, as systemctl edit does.
func (u *Unit) DropIn(unit, name string, lines ...string) {
	u.t.Helper()
	u.Put(fmt.Sprintf("/etc/systemd/system/%s.d/%s.conf", unit, name), strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "HOST", u.Host), 0o644)
	u.Must("systemctl", "daemon-reload")
}

// Start starts the service; it is ready when the command returns.
func (u *Unit) Start() {
	u.t.Helper()
	if out, code := u.Run("timeout", "60", "systemctl", "start", "baton"); code != 0 {
		u.t.Fatalf("systemctl start: got exit code %d, want 0: %s\n%s", code, out, u.Log())
	}
}

// Deploy replaces the binary by rename.
func (u *Unit) Deploy(version string) {
	u.t.Helper()
	u.Install(built(u.t, version), "/usr/local/bin/baton")
}

// DeployScript replaces the binary by a shell script.
func (u *Unit) DeployScript(lines string) {
	u.t.Helper()
	u.Put("/usr/local/bin/baton", string(script(lines)), 0o755)
}

// Reload reloads the service, and fails the test if that does not succeed.
func (u *Unit) Reload() {
	u.t.Helper()
	if out, code := u.Run("systemctl", "reload", "baton"); code != 0 {
		u.t.Fatalf("systemctl reload: got exit code %d, want 0: %s\n%s", code, out, u.Log())
	}
}

// await is await for a condition that takes a command to ask, which is not asked all the time.
func (u *Unit) await(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	var next time.Time
	await(t, within, what, func() bool {
		if time.Now().Before(next) {
			return false
		}
		defer func() { next = time.Now().Add(50 * time.Millisecond) }()
		return cond()
	})
}

// result is what came of a command.
type result struct {
	out  string
	code int
}

// Meanwhile runs a command; the result is to be had from the channel.
func (u *Unit) Meanwhile(args ...string) <-chan result {
	done := make(chan result, 1)
	go func() {
		out, code := u.Run(args...)
		done <- result{out, code}
	}()
	return done
}

// wait waits for a command that runs meanwhile.
func (u *Unit) wait(what string, done <-chan result, within time.Duration) result {
	u.t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(within):
		u.t.Fatalf("%s: no end within %v\n%s", what, within, u.Log())
		return result{}
	}
}

// MainPID returns the main process, 0 if there is none, by its pid inside.
func (u *Unit) MainPID() int {
	u.t.Helper()
	return u.number("MainPID")
}

// Restarts returns how often systemd has restarted the service.
func (u *Unit) Restarts() int {
	u.t.Helper()
	return u.number("NRestarts")
}

// Stored returns how many descriptors systemd holds for the service.
func (u *Unit) Stored() int {
	u.t.Helper()
	return u.number("NFileDescriptorStore")
}

func (u *Unit) number(property string) int {
	u.t.Helper()
	text := u.Show("baton.service", property)
	n, err := strconv.Atoi(text)
	if err != nil {
		u.t.Fatalf("%s: got %q, want a number", property, text)
	}
	return n
}

// Kill sends a signal to a process inside.
func (u *Unit) Kill(signal string, pid int) {
	u.t.Helper()
	u.Must("sh", "-c", fmt.Sprintf("kill -%s %d", signal, pid))
}

// Hold stops a process inside, all of its threads, until it gets SIGCONT or is killed.
func (u *Unit) Hold(pid int) {
	u.t.Helper()
	u.Kill("STOP", pid)
	outside := u.Outside(pid)
	await(u.t, 10*time.Second, "stopped process", func() bool {
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
	u.t.Helper()
	return withoutRequests(u.Journal("baton.service"))
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
func (u *Unit) Status() (*status, error) {
	resp, err := fetch("tcp", u.Admin, "GET", "/status")
	if err != nil {
		return nil, err
	}
	s := new(status)
	return s, json.Unmarshal(resp.Body, s)
}

// checkServes checks that the unit is active, that its main process is the generation that serves, and that
// this is generation n of that version.
func (u *Unit) checkServes(t testing.TB, n int, version string) {
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
	if !answers("tcp", u.Address) {
		t.Errorf("%s does not answer", u.Address)
	}
	if pid, err := os.ReadFile(u.Path("/run/baton/baton.pid")); err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(s.PID) {
		t.Errorf("PID file: got %q, %v, want %d", pid, err, s.PID)
	}
}

// checkStopped checks that the service is stopped in order, and that nothing of it is left.
func (u *Unit) checkStopped(t testing.TB) {
	t.Helper()
	if state, result := u.Show("baton.service", "ActiveState"), u.Show("baton.service", "Result"); state != "inactive" || result != "success" {
		t.Errorf("after the stop: got %s, result %s, want inactive, success\n%s", state, result, tail(u.Log(), 30))
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
	if c, err := dial("tcp", u.Address, time.Second); err == nil {
		c.Close()
		t.Errorf("after the stop: %s takes connections", u.Address)
	}
	// systemd may well kill what is left of a process that has all but exited, so its word of that proves nothing.
	log := u.Log()
	ended := make(map[string]string)
	for _, m := range transition.FindAllStringSubmatch(log, -1) {
		ended[m[1]] = m[2]
	}
	for pid, state := range ended {
		if state == "draining" {
			t.Errorf("generation %s was killed in its drain:\n%s", pid, tail(log, 30))
		}
	}
	if len(ended) == 0 || strings.Contains(log, "timed out") {
		t.Errorf("the stop was not in order:\n%s", tail(log, 30))
	}
}

// transition is a line of the log that tells of the beginning or the end of a drain.
var transition = regexp.MustCompile(`generation=(\d+) from=\w+ to=(draining|exited)`)

var smallCrowd = [habits]int{backToBack: 2, pausing: 32, perRequest: 1, perRequestEnd: 1}

// smallLoad is the load of a service that shares the machine with other tests.
func (u *Unit) smallLoad(t testing.TB) (counts *tally, stop func() *tally) {
	t.Helper()
	counts, stop = startLoad(t, load{network: "tcp", address: u.Address, exchanges: fileExchanges(), patience: time.Minute, clients: smallCrowd})
	await(t, 20*time.Second, "requests of every client", func() bool {
		return counts.requests[backToBack].Load() > 0 && counts.requests[pausing].Load() > 32 &&
			counts.requests[perRequest].Load() > 0 && counts.requests[perRequestEnd].Load() > 0
	})
	return counts, stop
}
