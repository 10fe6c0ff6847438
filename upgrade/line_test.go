package upgrade_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

const (
	patience = time.Minute // that only a hang takes
	planVar  = "UPGRADE_TEST_PLAN"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(planVar); path != "" {
		signals := upgrade.Signals()
		if code, waited := (upgrade.Foreground{}).Wait(signals); waited {
			os.Exit(code)
		}
		if err := generation(path, signals); err != nil {
			fmt.Fprintln(os.Stderr, "generation:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Generations outlive who started them; their ends must be seen.
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	os.Exit(m.Run())
}

// plan is what the next generation does. It is read afresh by each.
type plan struct {
	Listen      []string
	Control     string
	PIDFile     string
	Timeout     time.Duration // of its upgrades
	Drain       time.Duration // how long its drain takes
	Cut         time.Duration // when that is cut; 0: late
	Drained     string        // what it does at the end of its drain
	Answer      time.Duration // how long an answer takes
	Hold        string        // what it does before each answer
	Delay       time.Duration // of a stop
	Start       string        // what it does before anything else
	Check       string        // what it does last before it is ready
	Hooks       bool          // some are registered, of which some fail
	Exit        string        // what the last hook of its end does
	HookTimeout time.Duration
	Draining    int    // predecessors that may drain when it is upgraded; 0: as many as usual
	Protocol    string // version of the link; empty: that of this release
	Store       bool   // there is one, which has descriptor 3 for the first generation
}

func generation(path string, signals <-chan os.Signal) error {
	p := readPlan(path)
	if err := misbehave(context.Background(), p.Start); err != nil {
		return err
	}
	if p.Protocol != "" {
		upgrade.SetProtocol(p.Protocol)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("pid", os.Getpid())
	s := &whoami{check: p.Check, drain: p.Drain, drained: p.Drained, answer: p.Answer, hold: p.Hold}
	var store upgrade.ListenerStore
	if p.Store {
		store = noting{log}
	}
	gen, err := upgrade.New(upgrade.Options{
		Store:   store,
		Version: "v", Control: p.Control, PIDFile: p.PIDFile, Logger: log,
		UpgradeTimeout: p.Timeout, DrainTimeout: cmp.Or(p.Cut, patience), ShutdownDelay: p.Delay, MaxDraining: p.Draining,
		HookTimeout: p.HookTimeout,
	})
	if err != nil {
		return err
	}
	s.number, s.gen, s.inherited = gen.Number(), gen, descriptors()
	for _, addr := range p.Listen {
		ln, err := gen.Listen(addr)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, ln)
	}
	if p.Hooks {
		log.Info("began", "predecessor_drain", gen.PredecessorDrain().String())
		registerHooks(gen, log, p)
	}
	return gen.Run(s, signals)
}

func misbehave(ctx context.Context, how string) error {
	name, detail, _ := strings.Cut(how, " ")
	switch name {
	case "exit":
		code, _ := strconv.Atoi(detail)
		fmt.Fprintln(os.Stderr, "leaving with", code)
		os.Exit(code)
	case "fail":
		return errors.New(detail)
	case "panic":
		panic(detail)
	case "hang":
		if ctx.Done() == nil {
			time.Sleep(time.Minute)
		}
		<-ctx.Done()
		time.Sleep(time.Minute)
	case "wait": // until a file is gone
		for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(detail); err != nil {
				return nil
			}
		}
	case "late": // but not too late
		deadline, _ := ctx.Deadline()
		time.Sleep(time.Until(deadline) - 900*time.Millisecond)
	case "flood":
		fmt.Fprint(os.Stderr, strings.Repeat("x", 1<<20), "\n")
		for i := range 1000 {
			fmt.Fprintln(os.Stderr, "line", i)
		}
		return errors.New("flooded")
	case "chatter":
		for i := range 1000 { // together less than a pipe holds
			fmt.Fprintln(os.Stderr, "chatters", i)
		}
	case "stop": // as a stopped process is; the signal may take a moment
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		time.Sleep(time.Minute)
	case "hangup": // before anyone has asked for the signal
		cmd := exec.Command("true")
		cmd.Run()
		syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -HUP $$; exit 7"}, os.Environ())
	}
	return nil
}

// answer is what a generation tells on a connection.
type answer struct {
	Generation  int
	PID         int
	Variable    bool  // tableflip's is in the environment
	Inheritable []int // descriptors above 2 that a program started from here would get
	Blocking    bool  // the listener that accepted is in blocking mode
	Answers     int   // of the whole line of generations so far, this one included
	Load        int   // of all that are alive
	Secret      string
	Leaked      bool // the secret is in the environment
}

// confidence is what a generation adds to the secret that it was told.
func confidence(generation int) string { return fmt.Sprintf("in-confidence-%d ", generation) }

// descriptors lists those above 2 that are not close-on-exec.
func descriptors() (inheritable []int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fd > 2 && err == nil && flags&unix.FD_CLOEXEC == 0 {
			inheritable = append(inheritable, fd)
		}
	}
	return inheritable
}

// noting is a store that logs what it is asked for.
type noting struct{ log *slog.Logger }

func (n noting) Listeners() (iter.Seq2[string, net.Listener], error) {
	ln, err := net.FileListener(os.NewFile(3, "held"))
	return func(yield func(string, net.Listener) bool) { yield("test.socket", ln) }, err
}

func (n noting) Store(name string, ln net.Listener) error {
	n.log.Info("keeps", "name", name)
	return nil
}

func (n noting) Remove(name string) error {
	n.log.Info("releases", "name", name)
	return nil
}

// whoami is a service that tells who answers.
type whoami struct {
	number    int
	gen       *upgrade.Generation
	answered  atomic.Int64
	check     string
	drain     time.Duration
	drained   string
	answer    time.Duration
	hold      string
	inherited []int
	listeners []net.Listener
	accepting sync.WaitGroup
	answers   sync.WaitGroup
}

func (s *whoami) Check(ctx context.Context) error { return misbehave(ctx, s.check) }

func (s *whoami) Counts() upgrade.Counts {
	return upgrade.Counts{"answers": float64(s.answered.Load())}
}

func (s *whoami) Secret() []byte { return append(s.gen.Secret(), confidence(s.number)...) }

func (s *whoami) Serve() {
	for _, ln := range s.listeners {
		s.accepting.Go(func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				a := answer{Generation: s.number, PID: os.Getpid(), Inheritable: s.inherited}
				a.Secret = string(s.gen.Secret())
				a.Leaked = strings.Contains(strings.Join(os.Environ(), ""), "confidence")
				_, a.Variable = os.LookupEnv("TABLEFLIP_HAS_PARENT_7DIU3")
				if raw, err := ln.(syscall.Conn).SyscallConn(); err == nil {
					raw.Control(func(fd uintptr) {
						flags, _ := unix.FcntlInt(fd, unix.F_GETFL, 0)
						a.Blocking = flags&unix.O_NONBLOCK == 0
					})
				}
				s.answers.Go(func() {
					time.Sleep(s.answer)
					misbehave(context.Background(), s.hold)
					own := s.answered.Add(1)
					a.Answers = int(s.gen.Others(context.Background())["answers"]) + int(own)
					a.Load = s.gen.Status().Load().Requests
					json.NewEncoder(nc).Encode(a)
					nc.Close()
				})
			}
		})
	}
}

func (s *whoami) Drain(ctx context.Context, h upgrade.Handoff) upgrade.Drained {
	start := time.Now()
	for _, ln := range s.listeners {
		slog.Info("drains", "address", ln.Addr().String(), "kept", h.Kept(ln))
		ln.Close()
	}
	s.accepting.Wait()
	s.answers.Wait()
	select {
	case <-time.After(s.drain):
	case <-ctx.Done():
	}
	misbehave(ctx, s.drained)
	return upgrade.Drained{Seconds: time.Since(start).Seconds(), Requests: s.number}
}

func (s *whoami) Load() upgrade.Load { return upgrade.Load{Requests: s.number} }

func readPlan(path string) (p plan) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		panic(err)
	}
	return p
}

// parent returns the parent of a process.
func parent(t *testing.T, pid int) (ppid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "PPid:")
	fmt.Sscan(rest, &ppid)
	return ppid
}

// line is a line of generations, and where its parts are.
type line struct {
	t       *testing.T
	dir     string
	program string // what is executed
	below   string // as a child of this, run with the argument "run"; empty: of the test
	plan    plan   // of the next generation
	first   *exec.Cmd
	stderr  string     // path of what all print
	passed  []*os.File // to the first generation
}

// latch makes a file that something waits for, until it is removed.
func (l *line) latch(name string) (path string) {
	l.t.Helper()
	path = l.path(name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { os.Remove(path) })
	return path
}

// newLine makes a line without its first generation.
func newLine(t *testing.T) *line {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, dir: dir, program: filepath.Join(dir, "program"), stderr: filepath.Join(dir, "stderr")}
	l.plan = plan{Listen: []string{"unix:" + l.path("s")}, Control: l.path("control"), PIDFile: l.path("pid"), Timeout: patience}
	if err := os.Symlink(self, l.program); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *line) path(name string) string { return filepath.Join(l.dir, name) }

func (l *line) setPlan(change func(*plan)) {
	l.t.Helper()
	change(&l.plan)
	text, err := json.Marshal(l.plan)
	if err != nil {
		l.t.Fatal(err)
	}
	next := l.path("plan.next")
	if err := errors.Join(os.WriteFile(next, text, 0o600), os.Rename(next, l.path("plan"))); err != nil {
		l.t.Fatal(err)
	}
}

// launch executes a first generation, and awaits that it serves.
func (l *line) launch() {
	l.t.Helper()
	l.first = l.start()
	l.await("generation 1 serves", func() bool { _, err := l.try(); return err == nil })
	l.t.Cleanup(func() {
		status, err := l.status()
		if err == nil {
			syscall.Kill(status.PID, syscall.SIGTERM)
			l.awaitEnd(status.PID)
		}
		if l.t.Failed() {
			l.t.Logf("what the generations printed:\n%s", l.printed())
		}
	})
}

func (l *line) start() *exec.Cmd {
	l.t.Helper()
	l.setPlan(func(*plan) {})
	out, err := os.OpenFile(l.stderr, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(l.program)
	if l.below != "" {
		cmd = exec.Command(l.below, "run")
	}
	cmd.Dir = l.dir
	// The race detector would otherwise hold up each exit for a second.
	cmd.Env = append(os.Environ(), planVar+"="+l.path("plan"), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = out
	cmd.ExtraFiles = l.passed
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cmd.Process.Release() }) // its pidfd would be closed when it is collected, in the middle of another test
	return cmd
}

func (l *line) terminate(pid int) {
	l.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		l.t.Fatal(err)
	}
	l.awaitEnd(pid)
}

func (l *line) printed() string {
	text, _ := os.ReadFile(l.stderr)
	return string(text)
}

func (l *line) await(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("still not after %v: %s\n%s", patience, what, l.printed())
		}
	}
}

// awaitEnd awaits the end of a process, and reaps it if it is ours by now.
func (l *line) awaitEnd(pid int) {
	l.t.Helper()
	l.await(fmt.Sprintf("process %d is gone", pid), func() bool {
		syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		return syscall.Kill(pid, 0) != nil
	})
}

// try connects to the first listener and asks who answers.
func (l *line) try() (answer, error) {
	network, addr := "tcp", l.plan.Listen[0]
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	return tryAt(network, addr)
}

func tryAt(network, addr string) (a answer, err error) {
	nc, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return a, err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	return a, json.NewDecoder(nc).Decode(&a)
}

func (l *line) who() answer {
	l.t.Helper()
	a, err := l.try()
	if err != nil {
		l.t.Fatalf("nobody answers: %v\n%s", err, l.printed())
	}
	return a
}

func (l *line) upgrade() upgrade.Outcome {
	l.t.Helper()
	o, err := l.ask(nil)
	if err != nil {
		l.t.Fatalf("ask for an upgrade: %v\n%s", err, l.printed())
	}
	return o
}

func (l *line) ask(progress func(string)) (upgrade.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return upgrade.Ask(ctx, l.plan.Control, progress)
}

func (l *line) status() (upgrade.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return upgrade.AskStatus(ctx, l.plan.Control)
}

func (l *line) pidFile() int {
	text, _ := os.ReadFile(l.plan.PIDFile)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// awaitSuccessor awaits that a successor starts and has said hello, and returns
// its pid.
func (l *line) awaitSuccessor() (pid int) {
	l.t.Helper()
	l.await("the successor starts", func() bool {
		s, err := l.status()
		if err == nil && len(s.Generations) == 2 {
			pid = s.Generations[1].PID
		}
		return pid != 0
	})
	return pid
}
