package trial

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

var bootedTriggers = []string{"SIGHUP", "systemctl reload", "deploy.sh"}

// The same in a booted systemd, which supervises one service for each of the cells.
func TestSystemdBadReleases(t *testing.T) {
	tier.Long(t, "upgrades to bad releases in a booted systemd; TestBadReleases does without it")
	build.Version(t, build.Faulty)
	build.Version(t, "v2")
	m := machine.Installed(t)
	m.Faulty = true
	cert, key := certificate.Certificate(t)
	m.Install(cert, "/opt/cert.pem") // which everybody may read
	m.Install(key, "/opt/key.pem")
	releases := slices.DeleteFunc(slices.Clone(badReleases), func(r badRelease) bool { return !r.often && *tier.Soak == 0 })
	some := cellsOf(releases, bootedTriggers)
	for i, c := range some {
		c.site = &booted{machine: m, name: fmt.Sprintf("baton-%d", i+1)}
	}
	runCells(t, some, pair{cert, key})
}

// booted is a unit of a booted systemd: baton.service with files of its own.
type booted struct {
	machine *machine.Unit
	name    string
	lines   []string // of the configuration

	*machine.Machine        // whose failures are those of the cell
	release          string // the file that deploy.sh is given
}

// dir is the directory of the unit's files inside.
func (s *booted) dir() string { return "/opt/" + s.name }

func (s *booted) start(t *testing.T, c *cell, _ pair) {
	t.Helper()
	m := *s.machine.Machine
	m.T = t
	s.Machine = &m
	at := func() string { return net.JoinHostPort(m.Host, service.FreePort(t, m.Host)) }
	listen, admin := []string{at(), "tls:" + at()}, at()
	run := "/run/" + s.name
	c.Baton = &service.Baton{T: t, Host: m.Host, Network: "tcp", Address: listen[0], Admin: admin, Setup: service.Setup{Listen: listen},
		Dir: m.Path(s.dir()), Bin: m.Path(s.dir() + "/baton"), Config: m.Path(s.dir() + "/baton.conf"), PIDFile: m.Path(run + "/baton.pid")}
	s.lines = append([]string{"listen " + listen[0], "listen " + listen[1], "tls-cert /opt/cert.pem", "tls-key /opt/key.pem", "admin " + admin,
		"proxy /=" + c.good, "pid-file " + run + "/baton.pid", "control " + run + "/control.sock", "idle-timeout 1h", "read-header-timeout 1h",
		"log-level warn"}, settings(append(c.flags, commonFlags...))...)
	m.Install(build.Version(t, sound), s.dir()+"/baton")
	m.Put(s.dir()+"/fault", c.fault, 0o644)
	c.Configure(strings.Join(s.lines, "\n") + "\n")
	s.install(t)
	if out, code := m.Run("systemctl", "start", s.name); code != 0 {
		t.Fatalf("systemctl start: got exit code %d: %s\n%s", code, out, m.Journal(s.name+".service"))
	}
}

// install puts the unit in place.
func (s *booted) install(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(build.Root(t), "systemd", "baton.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := strings.NewReplacer("/usr/local/bin/baton", s.dir()+"/baton", "/etc/baton/baton.conf", s.dir()+"/baton.conf",
		"RuntimeDirectory=baton\n", "RuntimeDirectory="+s.name+"\n", "LimitNOFILE=524288", fmt.Sprintf("LimitNOFILE=%d", descriptors)).Replace(string(text))
	s.Put("/etc/systemd/system/"+s.name+".service", unit, 0o644)
	// What limits memory is a stand-in, because the kernel may have that controller elsewhere.
	group := "/system.slice/" + s.name + ".service"
	for file, content := range map[string]string{"max": "300000000", "current": "100000000", "stat": "file 0"} {
		s.Put(s.dir()+"/cgroup"+group+"/memory."+file, content+"\n", 0o644)
	}
	s.Put("/etc/systemd/system/"+s.name+".service.d/files.conf", "[Service]\nWorkingDirectory="+s.dir()+
		"\nBindReadOnlyPaths="+s.dir()+"/cgroup:/sys/fs/cgroup\n", 0o644)
	s.Must("systemctl", "daemon-reload")
}

// settings returns flags as lines of a configuration.
func settings(flags []string) (lines []string) {
	for _, flag := range flags {
		if name, ok := strings.CutPrefix(flag, "-"); ok {
			lines = append(lines, name)
		} else {
			lines[len(lines)-1] += " " + flag
		}
	}
	return lines
}

func (s *booted) deploy(t *testing.T, c *cell) {
	t.Helper()
	s.release = filepath.Join(s.Shared, s.name)
	version := "v2"
	switch {
	case c.setting != "":
		c.Configure(c.expand(c.Baton, s.lines...))
	case c.answer != nil:
		s.Put(s.dir()+"/fault", "backend "+backend.Start(t, c.handler()), 0o644)
		version = build.Faulty
	case c.fault != "":
		version = build.Faulty
	}
	if c.content != nil {
		files.Put(t, c.content(t), s.release, 0o755)
	} else {
		files.Install(t, build.Version(t, version), s.release)
	}
	if c.trigger != "deploy.sh" {
		s.Install(s.release, s.dir()+"/baton")
	}
}

func (s *booted) upgrade(t *testing.T, c *cell, r *row) {
	t.Helper()
	if c.trigger == "SIGHUP" {
		s.Must("systemctl", "kill", "-s", "HUP", "--kill-whom=main", s.name)
		c.awaitOutcome(t, r, func() bool { return s.Show(s.name+".service", "NRestarts") != "0" })
		return
	}
	command := []string{"systemctl", "reload", s.name}
	if c.trigger == "deploy.sh" {
		command = []string{"baton-deploy", "--unit", s.name, "--health", path, s.release}
	}
	out, code := s.Run(command...)
	r.Code, r.Result = strconv.Itoa(code), map[bool]string{true: "succeeded", false: "failed"}[code == 0]
	if c.trigger != "deploy.sh" {
		out = s.Journal(s.name + ".service")
	}
	r.Reason = reasonIn(out)
}

// Lines that say what has come of an upgrade, and those of them that say no more than others.
var (
	isReason = regexp.MustCompile(`(?m)(?:deploy: |baton: upgrade failed: )(.*)$`)
	isEcho   = regexp.MustCompile(`^(  \| |reload of |baton: generation )`)
)

// reasonIn returns what they say.
func reasonIn(out string) string {
	var all []string
	for _, m := range isReason.FindAllStringSubmatch(out, -1) {
		if !isEcho.MatchString(m[1]) {
			all = append(all, strings.TrimPrefix(m[1], "baton: upgrade failed: "))
		}
	}
	return strings.Join(all, "\n")
}

func (s *booted) checkAlone(t *testing.T, c *cell, old int) {
	t.Helper()
	unit := s.name + ".service"
	var status *service.Status
	if !await.Holds(await.Hang, func() bool {
		status = c.Status()
		return status.Generation == 1 && status.PID == old && status.State == "serving" && len(status.Generations) == 1 && len(s.processes()) == 1
	}) {
		t.Errorf("status: got %+v, want generation 1, pid %d, serving alone; there are %d processes", status, old, len(s.processes()))
	}
	if got, want := s.Must("systemctl", "show", "-p", "MainPID,ActiveState,NRestarts", unit), fmt.Sprintf("MainPID=%d\nNRestarts=0\nActiveState=active\n", old); got != want {
		t.Errorf("systemctl show: got %q, want %q", got, want)
	}
	if got := c.ReadPID(); got != old {
		t.Errorf("PID file: got %d, want %d", got, old)
	}
	if !http1.Answers("tcp", c.Address) {
		t.Errorf("%s does not answer", c.Address)
	}
}

// processes are those of the unit, by names of no use outside.
func (s *booted) processes() []string {
	text, _ := os.ReadFile(s.Path("/sys/fs/cgroup/system.slice/" + s.name + ".service/cgroup.procs"))
	return strings.Fields(string(text))
}

func (s *booted) end(t *testing.T, c *cell, r *row) {
	t.Helper()
	if c.trigger == "deploy.sh" {
		s.checkFiles(t, c, r)
	}
	if r.Serves != "old" { // it may not stop by itself
		s.Run("systemctl", "kill", "-s", "KILL", s.name)
	}
	s.Must("systemctl", "stop", s.name)
	if result := s.Show(s.name+".service", "Result"); r.Serves == "old" && result != "success" {
		t.Errorf("stop: got result %s, want success", result)
	}
	log := service.WithoutRequests(s.Journal(s.name + ".service"))
	if c.judged && !c.fatal && strings.Contains(log, hadToBeKilled) {
		t.Errorf("the bad release had to be killed")
	}
	if t.Failed() {
		t.Logf("journal:\n%s", service.Tail(log, 40))
	}
}

// checkFiles checks that after exit code 1 of the deploy script the binary before is in place, and nothing else is left.
func (s *booted) checkFiles(t *testing.T, c *cell, r *row) {
	t.Helper()
	f, err := os.Open(c.Bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if v := build.VersionOf(t, f); r.Code != "0" && v != sound {
		t.Errorf("after exit code %s: got %q in place, want %s", r.Code, v, sound)
	}
	for _, kind := range []string{".previous", ".crashed", ".deploy*"} {
		if left, _ := filepath.Glob(c.Bin + kind); r.Code != "0" && r.Serves == "old" && len(left) > 0 {
			t.Errorf("after exit code %s: got %v left behind", r.Code, left)
		}
	}
}
