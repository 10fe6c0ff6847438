// Baton: a running service as an operator has it, with a folder of its own, and the commands to run it.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Baton is one service through all its generations.
type Baton struct {
	t    testing.TB
	Dir  string // the folder of everything below
	Bin  string // what is run, and replaced by Deploy
	Host string // a loopback address that no other service uses

	Network, Address string // of the first public listener
	Admin            string
	Control          string
	PIDFile          string
	Config           string // the configuration file; given with -config if it was there at the start

	setup setup
	mark  string // in the environment of every process of this service

	mu    sync.Mutex
	known map[int]*process
	bad   map[int]bool // processes that are not expected to exit with 0
}

// setup is what the options of start make of the defaults.
type setup struct {
	listen []string
	args   []string
	env    []string
	config string
	// listenInFile leaves the addresses to the configuration file.
	listenInFile bool
	adminInFile  bool
	dir          string
	path         string
	argv0        string
	descriptors  int      // 0: as many as the test has
	stderr       *os.File // nil: the file of Log
	manager      *manager
	bindFirst    []string            // addresses of socket units
	sockets      map[string]*os.File // bound there
}

type option func(*setup)

// listen sets the public listeners. In an address HOST stands for the service's own loopback
// address, PORT for a free port on it, DIR for the service's folder. The default is HOST:PORT.
func listen(addresses ...string) option {
	return func(s *setup) { s.listen = addresses }
}

// args adds flags; HOST and DIR stand for the service's own as with listen.
func args(flags ...string) option {
	return func(s *setup) { s.args = append(s.args, flags...) }
}

// env adds to the environment.
func env(pairs ...string) option {
	return func(s *setup) { s.env = append(s.env, pairs...) }
}

// config gives the service a configuration file of this content; the same words are replaced.
func config(lines ...string) option {
	return func(s *setup) { s.config = strings.Join(lines, "\n") + "\n" }
}

// listenInFile leaves the listeners to the configuration file; ADDRESS in it stands for the first one.
func listenInFile() option {
	return func(s *setup) { s.listenInFile = true }
}

// adminInFile leaves the admin listener to the configuration file.
func adminInFile() option {
	return func(s *setup) { s.adminInFile = true }
}

// launched sets the working directory, and path and argv[0] as execve gets them. DIR stands for the folder of the service.
func launched(dir, path, argv0 string) option {
	return func(s *setup) { s.dir, s.path, s.argv0 = dir, path, argv0 }
}

// files serves a folder of known files.
func files(t testing.TB) option { return args("-root", folder(t)) }

// proxied forwards everything to an echo backend in the test process.
func proxied(t testing.TB) option { return args("-proxy", "/="+backend(t, http.HandlerFunc(echo))) }

// start starts a service and waits until it is ready. When the test ends, the service has to stop in order.
func start(t testing.TB, options ...option) *Baton {
	t.Helper()
	b := prepare(t, options...)
	b.launch()
	b.awaitReady()
	return b
}

// prepare lays out the folder of a service without starting it.
func prepare(t testing.TB, options ...option) *Baton {
	t.Helper()
	var s setup
	for _, option := range options {
		option(&s)
	}
	// Not t.TempDir: a unix socket's path has room for 107 bytes, and the name of a test may be long.
	dir, err := os.MkdirTemp("", "baton-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host := loopback()
	b := &Baton{
		t: t, Dir: dir, Host: host, setup: s, mark: "E2E_MARK=" + dir,
		Bin:     filepath.Join(dir, "baton"),
		Control: filepath.Join(dir, "control.sock"),
		PIDFile: filepath.Join(dir, "baton.pid"),
		Config:  filepath.Join(dir, "baton.conf"),
		Admin:   net.JoinHostPort(host, freePort(t, host)),
		known:   make(map[int]*process),
		bad:     make(map[int]bool),
	}
	if len(s.listen) == 0 {
		s.listen = []string{"HOST:PORT"}
	}
	b.setup.listen = nil
	for _, address := range s.listen {
		b.setup.listen = append(b.setup.listen, strings.Replace(b.expand(address), "PORT", freePort(t, host), 1))
	}
	b.Network, b.Address = split(b.setup.listen[0])
	b.setup.sockets = make(map[string]*os.File)
	b.bindSockets()
	if s.config != "" {
		b.Configure(s.config)
	}
	b.Deploy("v1")
	t.Cleanup(b.end)
	return b
}

func split(listen string) (network, address string) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		return "unix", path
	}
	return "tcp", strings.TrimPrefix(listen, "tls:")
}

func (b *Baton) expand(s string) string {
	return strings.NewReplacer("HOST", b.Host, "DIR", b.Dir, "ADDRESS", b.Address).Replace(s)
}

var hosts atomic.Uint32

// loopback returns an address of 127.0.0.0/8 that no other service in this or another run of the tests
// has, so that a port that is free stays free until the service binds it.
func loopback() string {
	pid, n := os.Getpid(), hosts.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 10+pid>>8%200, pid%256, 1+n%250)
}

// freePort returns a port that nobody has, and that it has not returned before.
func freePort(t testing.TB, host string) string {
	t.Helper()
	for {
		ln, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		address := ln.Addr().String()
		ln.Close()
		if _, given := givenPorts.LoadOrStore(address, true); !given {
			_, port, _ := net.SplitHostPort(address)
			return port
		}
	}
}

var givenPorts sync.Map // addresses

// grace returns how long the service keeps a silent connection in a drain.
func (b *Baton) grace() time.Duration {
	b.t.Helper()
	i := slices.Index(b.setup.args, "-idle-grace")
	if i < 0 {
		return defaultGrace
	}
	grace, err := time.ParseDuration(b.setup.args[i+1])
	if err != nil {
		b.t.Fatal(err)
	}
	return grace
}

// Flags returns the flags with which the service is started.
func (b *Baton) Flags() []string {
	flags := []string{"-control", b.Control, "-pid-file", b.PIDFile, "-log-format", "json"}
	if !b.setup.adminInFile {
		flags = append(flags, "-admin", b.Admin)
	}
	if !b.setup.listenInFile {
		for _, address := range b.setup.listen {
			flags = append(flags, "-listen", address)
		}
	}
	if b.setup.config != "" {
		flags = append(flags, "-config", b.Config)
	}
	for _, arg := range b.setup.args {
		flags = append(flags, b.expand(arg))
	}
	return flags
}

// launch starts the first generation.
func (b *Baton) launch() *process {
	b.t.Helper()
	stderr, err := os.OpenFile(b.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer stderr.Close()
	cmd := exec.Command(b.Bin, b.Flags()...)
	cmd.Dir = b.Dir
	if b.setup.path != "" {
		cmd.Dir, cmd.Path, cmd.Args[0] = b.expand(b.setup.dir), b.expand(b.setup.path), b.expand(b.setup.argv0)
	}
	cmd.Env = append(os.Environ(), b.mark, "GORACE=atexit_sleep_ms=0") // a race is reported at once all the same
	for _, pair := range b.setup.env {
		cmd.Env = append(cmd.Env, b.expand(pair))
	}
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if b.setup.stderr != nil {
		cmd.Stdout, cmd.Stderr = b.setup.stderr, b.setup.stderr
	}
	files, variables := b.setup.passed()
	for _, f := range files {
		defer f.Close()
	}
	if len(variables) > 0 {
		cmd.ExtraFiles, cmd.Env = files, append(cmd.Env, variables...)
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c",
			`export LISTEN_PID=$$ WATCHDOG_PID=${WATCHDOG_PID-$$}; exec "$0" "$@"`, b.Bin}, cmd.Args[1:]...)
	}
	if n := b.setup.descriptors; n > 0 {
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, n), cmd.Path}, cmd.Args[1:]...)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	p := b.follow(cmd.Process.Pid)
	cmd.Process.Release()
	return p
}

func (b *Baton) logPath() string { return filepath.Join(b.Dir, "stderr") }

// Log returns what all generations have written to stderr.
func (b *Baton) Log() string {
	log, _ := os.ReadFile(b.logPath())
	return string(log)
}

// follow makes a process known to the test, which will then care for its end.
func (b *Baton) follow(pid int) *process {
	b.t.Helper()
	p, err := b.tryFollow(pid)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *Baton) tryFollow(pid int) (*process, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.known[pid]; p != nil && p.alive() {
		return p, nil
	}
	p, err := follow(pid)
	if err == nil {
		b.known[pid] = p
	}
	return p, err
}

// expectBad says that a process will not exit with 0, because the test sees to that.
func (b *Baton) expectBad(pid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bad[pid] = true
}

// Alive returns the pids of the processes that the test knows and that live, ascending.
func (b *Baton) Alive() (pids []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for pid, p := range b.known {
		if p.alive() {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// Kill sends a signal to a process of the service.
func (b *Baton) Kill(pid int, sig syscall.Signal) {
	b.t.Helper()
	b.follow(pid)
	if sig == syscall.SIGKILL {
		b.expectBad(pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		b.t.Fatalf("signal %v to %d: %v", sig, pid, err)
	}
}

// Signal sends a signal to the generation that serves.
func (b *Baton) Signal(sig syscall.Signal) {
	b.t.Helper()
	b.Kill(b.PID(), sig)
}

// readPID returns what the PID file names, 0 if there is none.
func (b *Baton) readPID() int {
	content, err := os.ReadFile(b.PIDFile)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	return pid
}

// PID returns the pid of the generation that serves, from the PID file.
func (b *Baton) PID() int {
	b.t.Helper()
	pid := b.readPID()
	if pid == 0 {
		b.t.Fatalf("PID file %s: got no pid", b.PIDFile)
	}
	return pid
}

// awaitReady waits until the service says that it takes requests.
func (b *Baton) awaitReady() {
	b.t.Helper()
	await(b.t, 20*time.Second, "readiness", func() bool {
		if len(b.Alive()) == 0 {
			b.t.Fatalf("exited before it was ready:\n%s", b.Log())
		}
		resp, err := fetch("tcp", b.Admin, "GET", "/readyz")
		return err == nil && resp.Status == 200
	})
}

// awaitExit waits for a process to exit, and returns how.
func (b *Baton) awaitExit(pid int, within time.Duration) *process {
	b.t.Helper()
	b.mu.Lock()
	p := b.known[pid]
	b.mu.Unlock()
	if p == nil {
		p = b.follow(pid)
	}
	if !p.within(within) {
		b.t.Fatalf("process %d: alive after %v, want it gone; alive are %v", pid, within, b.Alive())
	}
	return p
}

// Deploy replaces the binary by rename, as a deployment does.
func (b *Baton) Deploy(version string) {
	b.t.Helper()
	install(b.t, built(b.t, version), b.Bin)
}

// releases copies versions to the folder once, and returns a way to deploy them that is nothing but a rename.
func (b *Baton) releases(versions ...string) (deploy func(version string)) {
	b.t.Helper()
	for _, version := range versions {
		install(b.t, built(b.t, version), filepath.Join(b.Dir, version))
	}
	return func(version string) {
		b.t.Helper()
		err := os.Link(filepath.Join(b.Dir, version), b.Bin+".new")
		if err == nil {
			err = os.Rename(b.Bin+".new", b.Bin)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// DeployBytes replaces the binary by a file of this content.
func (b *Baton) DeployBytes(content []byte, mode os.FileMode) {
	b.t.Helper()
	put(b.t, content, b.Bin, mode)
}

func install(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	put(t, content, to, 0o755)
}

// put writes a file beside its place and moves it there.
func put(t testing.TB, content []byte, to string, mode os.FileMode) {
	t.Helper()
	// A child forked meanwhile would hold the file open for writing until it execs, and whoever
	// executes the file then fails with ETXTBSY.
	syscall.ForkLock.RLock()
	err := os.WriteFile(to+".new", content, mode)
	syscall.ForkLock.RUnlock()
	if err == nil {
		err = os.Chmod(to+".new", mode) // whatever the umask
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Configure replaces the configuration file.
func (b *Baton) Configure(content string) {
	b.t.Helper()
	put(b.t, []byte(b.expand(content)), b.Config, 0o644)
}

// run runs a command of the binary, to its end or for a minute.
func (b *Baton) run(args ...string) (code int, stdout, stderr string) {
	b.t.Helper()
	return run(b.t, built(b.t, "v1"), append(os.Environ(), b.mark, "GORACE=atexit_sleep_ms=0"), args...)
}

func run(t testing.TB, path string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("run %s %v: %v", path, args, err)
		return -1, "", ""
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// connections counts connections of a drain by how they ended.
type connections struct {
	Client, Announced, Grace, Cut, Timeout, Error, Hijacked int
}

// upgraded is what `baton upgrade -json` prints, and how the command ended.
type upgraded struct {
	Result       string
	Reason       string
	Stderr       []string
	Generation   int
	PID          int
	Version      string
	ReadySeconds float64 `json:"ready_seconds"`
	Predecessor  struct {
		Generation       int
		PID              int
		Drained          bool
		DrainSeconds     float64 `json:"drain_seconds"`
		RequestsFinished int     `json:"requests_finished"`
		Moved            int     `json:"connections_moved"`
		Connections      connections
	}

	Code            int       `json:"-"`
	Stdout, Errors  string    `json:"-"` // as printed
	Asked, Returned time.Time `json:"-"`
}

// Handoff is when the successor was ready, seen from outside: not before the trigger plus the time that the service reports.
func (u *upgraded) Handoff() time.Time {
	return u.Asked.Add(time.Duration(u.ReadySeconds * float64(time.Second)))
}

// TryUpgrade asks for an upgrade and waits for what comes of it.
func (b *Baton) TryUpgrade(flags ...string) *upgraded {
	b.t.Helper()
	u := &upgraded{Asked: time.Now()}
	u.Code, u.Stdout, u.Errors = b.run(append([]string{"upgrade", "-json", "-control", b.Control}, flags...)...)
	u.Returned = time.Now()
	// There is no object to print when nobody answers, or not in time.
	if err := json.Unmarshal([]byte(u.Stdout), u); err != nil && (u.Stdout != "" || u.Code == 0) {
		b.t.Errorf("baton upgrade -json: exit code %d, stdout %q is no object (%v), stderr %q", u.Code, u.Stdout, err, u.Errors)
	}
	if u.Result == "succeeded" {
		// It may be gone already, if the test is about that.
		b.tryFollow(u.PID)
	}
	return u
}

// UpgradeMeanwhile asks for an upgrade; result waits for what comes of it.
func (b *Baton) UpgradeMeanwhile(flags ...string) (result func() *upgraded) {
	b.t.Helper()
	built(b.t, "v1") // which may fail the test, and so has to be done here
	done := make(chan *upgraded, 1)
	go func() { done <- b.TryUpgrade(flags...) }()
	return func() *upgraded {
		b.t.Helper()
		select {
		case u := <-done:
			return u
		case <-time.After(2 * time.Minute): // the command has a minute
			b.t.Fatal("upgrade: no result")
			return nil
		}
	}
}

// Upgrade upgrades, and fails the test if that does not succeed.
func (b *Baton) Upgrade(flags ...string) *upgraded {
	b.t.Helper()
	u := b.TryUpgrade(flags...)
	if u.Code != 0 || u.Result != "succeeded" {
		b.t.Fatalf("upgrade: got exit code %d, %s %s\n%s\nlog:\n%s", u.Code, u.Stdout, u.Errors, u.Reason, tail(withoutRequests(b.Log()), 40))
	}
	return u
}

// generation is one line of the status.
type generation struct {
	Generation       int
	PID              int
	Version          string
	State            string
	AgeSeconds       float64 `json:"age_seconds"`
	RequestsInFlight int     `json:"requests_in_flight"`
	Connections      struct{ New, Active, Idle, Hijacked int }
}

// status is what `baton status -json` and /status tell.
type status struct {
	Generation  int
	PID         int
	Version     string
	State       string
	Listen      []string
	Generations []generation
	Upgrades    []struct {
		Time     time.Time
		Trigger  string
		From, To int
		Result   string
		Reason   string
		Seconds  float64
	}
}

// TryStatus asks over the admin listener, which answers from the first to the last moment of the service.
func (b *Baton) TryStatus() (*status, error) {
	resp, err := fetch("tcp", b.Admin, "GET", "/status")
	if err != nil {
		return nil, err
	}
	if resp.Status != 200 {
		return nil, fmt.Errorf("status: got %d", resp.Status)
	}
	s := new(status)
	return s, json.Unmarshal(resp.Body, s)
}

// Status asks over the admin listener.
func (b *Baton) Status() *status {
	b.t.Helper()
	s, err := b.TryStatus()
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// AwaitGeneration waits until a generation serves alone, and returns its pid.
func (b *Baton) AwaitGeneration(n int, within time.Duration) (pid int) {
	b.t.Helper()
	await(b.t, within, fmt.Sprintf("generation %d that serves alone", n), func() bool {
		s, err := b.TryStatus()
		if err != nil || s.Generation != n || s.State != "serving" || len(s.Generations) != 1 {
			return false
		}
		pid = s.PID
		return true
	})
	b.follow(pid)
	return pid
}

var label = regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`)

// Metric returns the value of a metric with these labels, given as name and value in turn. There has to be exactly one.
func (b *Baton) Metric(name string, labels ...string) float64 {
	b.t.Helper()
	resp, err := fetch("tcp", b.Admin, "GET", "/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	var found []float64
	for line := range strings.Lines(string(resp.Body)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		has := make(map[string]string)
		for _, m := range label.FindAllStringSubmatch(rest, -1) {
			has[m[1]] = m[2]
		}
		matches := true
		for i := 0; i < len(labels); i += 2 {
			matches = matches && has[labels[i]] == labels[i+1]
		}
		if matches {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:]), 64)
			if err != nil {
				b.t.Fatalf("metric %s: %v", line, err)
			}
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		b.t.Fatalf("metric %s%v: got %d of it, want 1", name, labels, len(found))
	}
	return found[0]
}

// Get makes one request of the public listener, on a connection of its own.
func (b *Baton) Get(path string, fields ...string) *response {
	b.t.Helper()
	resp, err := fetch(b.Network, b.Address, "GET", path, fields...)
	if err != nil {
		b.t.Fatalf("GET %s: %v", path, err)
	}
	return resp
}

// Dial connects to the public listener.
func (b *Baton) Dial() *conn {
	b.t.Helper()
	return mustDial(b.t, b.Network, b.Address)
}

// readyz returns the status of /readyz, 0 if nobody answers.
func (b *Baton) probe(path string) int {
	resp, err := fetch("tcp", b.Admin, "GET", path)
	if err != nil {
		return 0
	}
	return resp.Status
}

// Stop stops the service and waits until all of it is gone.
func (b *Baton) Stop() {
	b.t.Helper()
	b.Signal(syscall.SIGTERM)
	b.awaitAllGone(20 * time.Second)
}

func (b *Baton) awaitAllGone(within time.Duration) {
	b.t.Helper()
	await(b.t, within, "end of every generation", func() bool {
		return len(b.Alive()) == 0 && len(descendants(b.mark)) == 0
	})
}

// end is run when the test ends: whatever still runs is asked to stop, everything has to be gone then,
// each generation must have exited as it should, and none may have raced or panicked.
func (b *Baton) end() {
	t := b.t
	t.Helper()
	// One that is about to exit by itself needs nobody to stop it.
	if !holds(b.ending(), func() bool { return len(b.Alive()) == 0 }) {
		pid := b.readPID()
		if pid == 0 || !slices.Contains(b.Alive(), pid) {
			if s, err := b.TryStatus(); err == nil {
				pid = s.PID
			}
		}
		if pid == 0 {
			t.Errorf("at the end: nobody says which generation serves; alive are %v", b.Alive())
		} else {
			syscall.Kill(pid, syscall.SIGTERM)
		}
		if !holds(20*time.Second, func() bool { return len(b.Alive()) == 0 }) {
			t.Errorf("at the end: %v alive 20 s after SIGTERM to %d", b.Alive(), pid)
		}
	}
	if !holds(2*time.Second, func() bool { return len(descendants(b.mark)) == 0 }) {
		t.Errorf("at the end: processes %v are left over", descendants(b.mark))
	}
	for _, pid := range descendants(b.mark) {
		b.expectBad(pid)
		syscall.Kill(pid, syscall.SIGKILL)
		if p, err := follow(pid); err == nil {
			p.within(10 * time.Second)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for pid, p := range b.known {
		if !p.within(10 * time.Second) {
			continue
		}
		if !p.known {
			p.known = p.reap() // its parent went without looking
		}
		if p.known && !b.bad[pid] && (!p.status.Exited() || p.status.ExitStatus() != 0) {
			t.Errorf("process %d: got %s, want exit status 0", pid, p.outcome())
		}
	}
	log := withoutRequests(b.Log())
	for _, sign := range []string{"WARNING: DATA RACE", "panic:", "fatal error:", "goroutine 1 ["} {
		if i := strings.Index(log, sign); i >= 0 {
			t.Errorf("stderr has %q:\n%.4000s", sign, log[max(0, i-200):])
		}
	}
	if t.Failed() {
		t.Logf("stderr of all generations (the last lines):\n%s", tail(log, 60))
	}
}

// withoutRequests leaves out the access log, which drowns everything else under load.
func withoutRequests(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"msg":"request"`) && !strings.Contains(line, "request method=") { // the latter in the journal
			b.WriteString(line)
		}
	}
	return b.String()
}

// ending is how long to wait for the last exits before somebody is asked to stop: not at all if a generation serves.
func (b *Baton) ending() time.Duration {
	if b.readPID() != 0 {
		return 0
	}
	return 2 * time.Second
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if skip := len(all) - lines; skip > 0 {
		all = all[skip:]
	}
	for i, line := range all {
		if len(line) > 600 {
			all[i] = line[:600] + "…"
		}
	}
	return strings.Join(all, "\n")
}
