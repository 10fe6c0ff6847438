package upgrade_test

// This file holds a program that is a generation, which is the test binary
// itself under another name, and the tests of what generations do to each other.

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

const (
	patience = 10 * time.Second
	planVar  = "UPGRADE_TEST_PLAN"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(planVar); path != "" {
		if code, waited := upgrade.Foreground(); waited {
			os.Exit(code)
		}
		if err := generation(path); err != nil {
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
	Listen  []string
	Control string
	PIDFile string
	Timeout time.Duration // of its upgrades
	Drain   time.Duration // how long its drain takes
	Cut     time.Duration // when that is cut; 0: late
	Drained string        // what it does at the end of its drain
	Answer  time.Duration // how long an answer takes
	Delay   time.Duration // of a stop
	Start   string        // what it does before anything else
	Check   string        // what it does last before it is ready
	Hooks   bool
}

func generation(path string) error {
	signals := upgrade.Signals()
	p := readPlan(path)
	if err := misbehave(context.Background(), p.Start); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("pid", os.Getpid())
	gen, err := upgrade.New(upgrade.Options{
		Version: "v", Control: p.Control, PIDFile: p.PIDFile, Logger: log,
		UpgradeTimeout: p.Timeout, DrainTimeout: cmp.Or(p.Cut, patience), ShutdownDelay: p.Delay,
		Check: func(ctx context.Context) error { return misbehave(ctx, p.Check) },
	})
	if err != nil {
		return err
	}
	s := &whoami{number: gen.Number(), drain: p.Drain, drained: p.Drained, answer: p.Answer, inherited: descriptors()}
	for _, addr := range p.Listen {
		ln, err := gen.Listen(addr)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, ln)
	}
	if p.Hooks {
		for _, name := range []string{"first", "second", "third"} {
			gen.OnStop(name, func(ctx context.Context) error {
				deadline, _ := ctx.Deadline()
				log.Info("hook ran", "name", name, "has_deadline", time.Until(deadline) > 0)
				switch name {
				case "second":
					return errors.New("broken hook")
				case "third":
					panic("wild hook")
				}
				return nil
			})
		}
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
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(detail); err != nil {
				return nil
			}
		}
	case "late": // but not too late
		deadline, _ := ctx.Deadline()
		time.Sleep(time.Until(deadline) - 150*time.Millisecond)
	case "flood":
		fmt.Fprint(os.Stderr, strings.Repeat("x", 1<<20), "\n")
		for i := range 1000 {
			fmt.Fprintln(os.Stderr, "line", i)
		}
		return errors.New("flooded")
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
}

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

// whoami is a service that tells who answers.
type whoami struct {
	number    int
	drain     time.Duration
	drained   string
	answer    time.Duration
	inherited []int
	listeners []net.Listener
	accepting sync.WaitGroup
	answers   sync.WaitGroup
}

func (s *whoami) Check(context.Context) error { return nil }

func (s *whoami) Serve() {
	for _, ln := range s.listeners {
		s.accepting.Go(func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				a := answer{Generation: s.number, PID: os.Getpid(), Inheritable: s.inherited}
				_, a.Variable = os.LookupEnv("TABLEFLIP_HAS_PARENT_7DIU3")
				if raw, err := ln.(syscall.Conn).SyscallConn(); err == nil {
					raw.Control(func(fd uintptr) {
						flags, _ := unix.FcntlInt(fd, unix.F_GETFL, 0)
						a.Blocking = flags&unix.O_NONBLOCK == 0
					})
				}
				s.answers.Go(func() {
					time.Sleep(s.answer)
					json.NewEncoder(nc).Encode(a)
					nc.Close()
				})
			}
		})
	}
}

func (s *whoami) Drain(ctx context.Context, kept func(net.Listener) bool) upgrade.Drained {
	start := time.Now()
	for _, ln := range s.listeners {
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
	stderr  string // path of what all print
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
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	return cmd
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

func TestUpgrades(t *testing.T) {
	l := newLine(t)
	l.launch()
	for want := 2; want <= 4; want++ {
		before := l.who()
		o := l.upgrade()
		if o.Result != upgrade.Succeeded || o.Generation != want || o.Version != "v" || o.ReadySeconds <= 0 {
			t.Fatalf("got %+v, want generation %d to succeed", o, want)
		}
		p := o.Predecessor
		if p == nil || !p.IsDrained || p.Generation != want-1 || p.PID != before.PID || p.Requests != want-1 {
			t.Errorf("got predecessor %+v, want a drained generation %d with pid %d", p, want-1, before.PID)
		}
		now := l.who()
		if now.Generation != want || now.PID != o.PID || l.pidFile() != o.PID {
			t.Errorf("got %+v and PID file %d, want pid %d", now, l.pidFile(), o.PID)
		}
		l.awaitEnd(before.PID)
	}
	status, err := l.status()
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Generations) != 1 || status.State != "serving" || len(status.Upgrades) != 3 {
		t.Errorf("got %+v, want one generation that serves, after 3 upgrades", status)
	}
}

// A program that is started from a successor must not take itself for one, nor
// get its pipes; and what the two processes share must stay non-blocking.
func TestSuccessorIsCleanProcess(t *testing.T) {
	l := newLine(t)
	l.launch()
	given := l.who().Inheritable // by whoever runs the test
	l.upgrade()
	a := l.who()
	if a.Variable {
		t.Error("tableflip's variable is in the successor's environment")
	}
	if !slices.Equal(a.Inheritable, given) {
		t.Errorf("descriptors %v would be given to a program started from the successor, want %v", a.Inheritable, given)
	}
	if a.Blocking {
		t.Error("the listener is in blocking mode")
	}
}

func TestSuccessorThatIsNoGood(t *testing.T) {
	tests := map[string]struct {
		plan     func(*plan)
		timeout  time.Duration // 0: one second
		sabotage func(t *testing.T, l *line)
		reason   string // part of it
		stderr   string // a line of it
	}{
		"exits 0":             {plan: func(p *plan) { p.Start = "exit 0" }, reason: "exited", stderr: "leaving with 0"},
		"exits 3":             {plan: func(p *plan) { p.Start = "exit 3" }, reason: "exit status 3", stderr: "leaving with 3"},
		"exits at the end":    {plan: func(p *plan) { p.Check = "exit 1" }, reason: "exit status 1", stderr: "leaving with 1"},
		"panics":              {plan: func(p *plan) { p.Check = "panic wild" }, reason: "exit status 2", stderr: "panic: wild"},
		"fails its check":     {plan: func(p *plan) { p.Check = "fail no database" }, reason: "exit status 1", stderr: "generation: generation 2 is no good: no database"},
		"hangs at the start":  {plan: func(p *plan) { p.Start = "hang" }, reason: "not ready within 1s and was killed"},
		"hangs at the end":    {plan: func(p *plan) { p.Check = "hang" }, reason: "not ready within 1s and was killed"},
		"is stopped":          {plan: func(p *plan) { p.Check = "stop" }, reason: "not ready within 1s and was killed"},
		"is a moment late":    {plan: func(p *plan) { p.Check = "late" }, timeout: 4 * time.Second, reason: "exit status 1", stderr: "gives up"},
		"gets SIGHUP early":   {plan: func(p *plan) { p.Start = "hangup" }, reason: "hangup"},
		"prints a lot":        {plan: func(p *plan) { p.Check = "flood" }, reason: "exit status 1", stderr: "line 999"},
		"wants a bad address": {plan: func(p *plan) { p.Listen = append(p.Listen, "127.0.0.1:http-no") }, reason: "exit status 1", stderr: `"http-no" is not a port`},
		"is missing":          {sabotage: func(t *testing.T, l *line) { os.Remove(l.program) }, reason: "no such file"},
		"is not executable":   {sabotage: replaceBy("#!/bin/sh\n", 0o644), reason: "permission denied"},
		"is no program":       {sabotage: replaceBy("nonsense", 0o755), reason: "exec format error"},
		"cannot write its PID": {plan: func(p *plan) { p.PIDFile = filepath.Join(filepath.Dir(p.PIDFile), "no", "pid") },
			reason: "exit status 1", stderr: "write PID file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			l.plan.Timeout = cmp.Or(test.timeout, time.Second)
			l.launch()
			before, good := l.who(), l.plan
			if test.plan != nil {
				l.setPlan(test.plan)
			}
			if test.sabotage != nil {
				test.sabotage(t, l)
			}
			o := l.upgrade()
			l.plan = good
			if o.Result != upgrade.Failed || !strings.Contains(o.Reason, test.reason) {
				t.Errorf("got %s: %q, want failed: %q", o.Result, o.Reason, test.reason)
			}
			if test.stderr != "" && !slices.ContainsFunc(o.Stderr, func(s string) bool { return strings.Contains(s, test.stderr) }) {
				t.Errorf("got stderr %q, want %q in it", o.Stderr, test.stderr)
			}
			if n := len(o.Stderr); n > 20 {
				t.Errorf("got %d lines of stderr, want at most 20", n)
			}
			if now := l.who(); now.PID != before.PID || l.pidFile() != before.PID {
				t.Errorf("got %+v and PID file %d, want %+v as before", now, l.pidFile(), before)
			}

			os.Remove(l.program)
			self, _ := os.Executable()
			os.Symlink(self, l.program)
			l.setPlan(func(*plan) {})
			if o := l.upgrade(); o.Result != upgrade.Succeeded {
				t.Errorf("next good one: got %s: %s", o.Result, o.Reason)
			}
		})
	}
}

// tableflip closes what it held for a successor only when that is collected.
func TestFailedUpgradesLeaveNoDescriptors(t *testing.T) {
	l := newLine(t)
	l.launch()
	l.setPlan(func(p *plan) { p.Start = "exit 1" })
	open := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", l.first.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	l.upgrade()
	before := open()
	for range 20 {
		if o := l.upgrade(); o.Result != upgrade.Failed {
			t.Fatalf("got %+v, want it failed", o)
		}
	}
	// A finalizer may still run, and the connection of who asked be closed.
	l.await(fmt.Sprintf("not more than %d descriptors", before+2), func() bool { return open() <= before+2 })
	l.setPlan(func(p *plan) { p.Start = "" })
}

func replaceBy(content string, mode os.FileMode) func(*testing.T, *line) {
	return func(t *testing.T, l *line) {
		os.Remove(l.program)
		if err := os.WriteFile(l.program, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
}

// A successor whose predecessor dies while it starts has the sockets and is
// the only one left.
func TestPredecessorDiesWhileSuccessorStarts(t *testing.T) {
	l := newLine(t)
	l.launch()
	latch := l.path("latch")
	os.WriteFile(latch, nil, 0o600)
	l.setPlan(func(p *plan) { p.Check = "wait " + latch })
	asked := make(chan error, 1)
	go func() {
		_, err := l.ask(nil)
		asked <- err
	}()
	l.await("the successor starts", func() bool {
		s, err := l.status()
		return err == nil && len(s.Generations) == 2 && s.Generations[1].PID != 0
	})
	l.first.Process.Kill()
	l.first.Wait()
	if err := <-asked; !errors.Is(err, upgrade.ErrLost) {
		t.Errorf("who asked got %v, want %v", err, upgrade.ErrLost)
	}
	os.Remove(latch)
	if a := l.who(); a.Generation != 2 {
		t.Errorf("got %+v, want generation 2", a)
	}
	l.await("the PID file names generation 2", func() bool { return l.pidFile() == l.who().PID })
	if !strings.Contains(l.printed(), "predecessor died") {
		t.Error("what the successor says after that is not to be read")
	}
	l.setPlan(func(p *plan) { p.Check = "" })
	if o := l.upgrade(); o.Result != upgrade.Succeeded || o.Generation != 3 {
		t.Errorf("next upgrade: got %+v", o)
	}
}

// Triggers that come while one upgrade runs make one more, not none and not many.
func TestTriggersAreCoalesced(t *testing.T) {
	l := newLine(t)
	l.plan.Drain = 300 * time.Millisecond
	l.launch()
	latch := l.path("latch")
	os.WriteFile(latch, nil, 0o600)
	l.setPlan(func(p *plan) { p.Check = "wait " + latch })
	outcomes := make(chan upgrade.Outcome, 4)
	ask := func() {
		go func() {
			o, err := l.ask(nil)
			if err != nil {
				t.Error(err)
			}
			outcomes <- o
		}()
	}
	ask()
	l.await("an upgrade runs", func() bool { s, err := l.status(); return err == nil && len(s.Generations) == 2 })
	ask()
	ask()
	l.first.Process.Signal(syscall.SIGHUP)
	l.await("the others have arrived", func() bool { return strings.Count(l.printed(), "joins the one that waits") == 2 })
	os.Remove(latch)
	l.await("the first upgrade is done", func() bool { a, err := l.try(); return err == nil && a.Generation == 2 })
	ask() // while generation 1 drains: joins as well
	var generations []int
	for range 4 {
		generations = append(generations, (<-outcomes).Generation)
	}
	slices.Sort(generations)
	if want := []int{2, 3, 3, 3}; !slices.Equal(generations, want) {
		t.Errorf("got generations %v, want %v", generations, want)
	}
	s, err := l.status()
	if err != nil || s.Generation != 3 || len(s.Upgrades) != 2 {
		t.Errorf("got %+v, %v, want generation 3 after 2 upgrades", s, err)
	}
}

// A stop may come when the successor serves and the predecessor does not know
// yet. What the successor has accepted is answered, and both end.
func TestStopAsSuccessorBecomesReady(t *testing.T) {
	for range 8 {
		l := newLine(t)
		l.launch()
		latch := l.path("latch")
		os.WriteFile(latch, nil, 0o600)
		l.setPlan(func(p *plan) { p.Check, p.Answer = "wait "+latch, 100*time.Millisecond })
		l.first.Process.Signal(syscall.SIGHUP)
		var successor int
		l.await("the successor starts", func() bool {
			s, err := l.status()
			if err == nil && len(s.Generations) == 2 {
				successor = s.Generations[1].PID
			}
			return successor != 0
		})
		l.first.Process.Signal(syscall.SIGSTOP)
		os.Remove(latch)
		l.await("the successor serves", func() bool { return l.pidFile() == successor })
		nc, err := net.Dial("unix", l.path("s")) // the successor has it as soon as it accepts
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		l.first.Process.Signal(syscall.SIGTERM)
		l.first.Process.Signal(syscall.SIGCONT)
		var a answer
		if err := json.NewDecoder(nc).Decode(&a); err != nil {
			t.Errorf("a connection that was accepted: got %v, want an answer", err)
		}
		if err := l.first.Wait(); err != nil {
			t.Errorf("predecessor: got %v, want exit 0", err)
		}
		// If the predecessor heard of its successor first, the stop was not for
		// the service any more.
		if s, err := l.status(); err == nil && s.State == "serving" {
			syscall.Kill(successor, syscall.SIGTERM)
		}
		l.awaitEnd(successor)
		for _, name := range []string{"s", "control", "pid"} {
			if _, err := os.Lstat(l.path(name)); err == nil {
				t.Errorf("%s is left behind", name)
			}
		}
	}
}

// Signals that reach a predecessor after the handoff are not lost.
func TestSignalsToDrainingPredecessor(t *testing.T) {
	l := newLine(t)
	l.plan.Drain = 500 * time.Millisecond
	l.launch()
	first := l.who().PID
	syscall.Kill(first, syscall.SIGHUP)
	l.await("generation 2 serves", func() bool { return l.who().Generation == 2 })
	l.await("generation 1 knows", func() bool { return strings.Contains(l.printed(), "upgrade succeeded") })
	syscall.Kill(first, syscall.SIGTERM) // as systemd may do: it goes on draining
	syscall.Kill(first, syscall.SIGHUP)  // meant for whoever serves
	l.await("generation 3 serves", func() bool { return l.who().Generation == 3 })
	if !strings.Contains(l.printed(), "goes on draining") {
		t.Error("the predecessor did not say that it goes on draining")
	}
	s, err := l.status()
	if err != nil || len(s.Upgrades) != 2 || s.Upgrades[1].Trigger != "signal" {
		t.Errorf("got %+v, %v, want 2 upgrades, the second by a signal", s, err)
	}
}

// A predecessor that hangs would keep every later upgrade waiting.
func TestPredecessorThatDoesNotGo(t *testing.T) {
	t.Parallel() // it takes its time
	l := newLine(t)
	l.plan.Cut, l.plan.Drained = 100*time.Millisecond, "stop"
	l.launch()
	l.setPlan(func(p *plan) { p.Drained = "" })
	first := l.who().PID
	syscall.Kill(first, syscall.SIGHUP)
	l.await("generation 2 serves", func() bool { return l.who().Generation == 2 })
	if o := l.upgrade(); o.Result != upgrade.Succeeded || o.Generation != 3 {
		t.Errorf("next upgrade: got %+v, want generation 3", o)
	}
	if !strings.Contains(l.printed(), "kills it") {
		t.Error("the successor did not say that it kills its predecessor")
	}
	var status syscall.WaitStatus
	syscall.Wait4(first, &status, 0, nil)
	if status.Signal() != syscall.SIGKILL {
		t.Errorf("predecessor: got status %v, want it killed", status)
	}
}

func TestStopDuringUpgrade(t *testing.T) {
	l := newLine(t)
	l.launch()
	l.setPlan(func(p *plan) { p.Check = "hang" })
	outcome := make(chan upgrade.Outcome, 1)
	go func() {
		o, err := l.ask(nil)
		if err != nil {
			t.Error(err)
		}
		outcome <- o
	}()
	var successor int
	l.await("the successor starts", func() bool {
		s, err := l.status()
		if err == nil && len(s.Generations) == 2 {
			successor = s.Generations[1].PID
		}
		return successor != 0
	})
	l.first.Process.Signal(syscall.SIGTERM)
	if err := l.first.Wait(); err != nil {
		t.Errorf("predecessor: got %v, want exit 0", err)
	}
	if o := <-outcome; o.Result != upgrade.Refused {
		t.Errorf("who asked got %+v, want it refused", o)
	}
	l.awaitEnd(successor)
	for _, name := range []string{"s", "control", "pid", "pid.next"} {
		if _, err := os.Lstat(l.path(name)); err == nil {
			t.Errorf("%s is left behind", name)
		}
	}
}

func TestStop(t *testing.T) {
	l := newLine(t)
	l.plan.Hooks, l.plan.Delay, l.plan.Drain = true, 200*time.Millisecond, time.Minute
	l.launch()
	l.first.Process.Signal(syscall.SIGTERM)
	l.await("the stop begins", func() bool { s, err := l.status(); return err == nil && s.State == "draining" })
	if _, err := l.try(); err != nil {
		t.Errorf("within the delay: got %v, want an answer", err)
	}
	if o := l.upgrade(); o.Result != upgrade.Refused {
		t.Errorf("upgrade during a stop: got %+v, want it refused", o)
	}
	l.await("nobody accepts", func() bool { _, err := l.try(); return err != nil })
	l.first.Process.Signal(syscall.SIGINT) // cuts the drain of one minute
	if err := l.first.Wait(); err != nil {
		t.Errorf("got %v, want exit 0", err)
	}
	out := l.printed()
	var at []int
	for _, name := range []string{"third", "second", "first"} {
		at = append(at, strings.Index(out, `msg="hook ran"`+" pid="+strconv.Itoa(l.first.Process.Pid)+" name="+name+" has_deadline=true"))
	}
	if at[0] < 0 || !slices.IsSorted(at) {
		t.Errorf("hooks are logged at %v, want each, in reverse order of registration", at)
	}
	for _, want := range []string{"hook second: broken hook", "hook third: panic: wild hook"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the log", want)
		}
	}
}

func TestSecondServer(t *testing.T) {
	for name, change := range map[string]func(l *line, p *plan){
		"same control socket": func(l *line, p *plan) { p.Listen, p.PIDFile = []string{"unix:" + l.path("s2")}, l.path("pid2") },
		"same PID file":       func(l *line, p *plan) { p.Listen, p.Control = []string{"unix:" + l.path("s2")}, l.path("control2") },
		"same address":        func(l *line, p *plan) { p.PIDFile, p.Control = l.path("pid2"), l.path("control2") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.launch()
			before, good := l.who(), l.plan
			l.setPlan(func(p *plan) { change(l, p) })
			second := l.start()
			var exit *exec.ExitError
			if err := second.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("second server: got %v, want exit 1", err)
			}
			l.setPlan(func(p *plan) { *p = good })
			if out := l.printed(); !strings.Contains(out, "generation: claim") || !strings.Contains(out, "; stop that one, or use another") {
				t.Errorf("it did not say what is wrong and what to do:\n%s", out)
			}
			if now := l.who(); now.PID != before.PID || l.pidFile() != before.PID {
				t.Errorf("got %+v and PID file %d, want pid %d undisturbed", now, l.pidFile(), before.PID)
			}
			if o := l.upgrade(); o.Result != upgrade.Succeeded {
				t.Errorf("upgrade of the first: got %+v", o)
			}
		})
	}
}

// A server that was killed leaves names behind that belong to nobody.
func TestStartAfterKill(t *testing.T) {
	l := newLine(t)
	l.launch()
	l.first.Process.Kill()
	l.first.Wait()
	for _, name := range []string{"s", "control", "pid"} {
		if _, err := os.Lstat(l.path(name)); err != nil {
			t.Fatalf("%s is not left behind; the test shows nothing", name)
		}
	}
	l.launch()
	if a := l.who(); a.PID != l.first.Process.Pid || l.pidFile() != a.PID {
		t.Errorf("got %+v and PID file %d, want the new server", a, l.pidFile())
	}
}

func TestListenersComeAndGo(t *testing.T) {
	free := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		return port
	}
	kept, wild, dropped, added := free(), free(), free(), free()
	l := newLine(t)
	s, gone := "unix:"+l.path("s"), "unix:"+l.path("gone")
	l.plan.Listen = []string{s, "127.0.0.1:" + kept, ":" + wild, "127.0.0.1:" + dropped, gone}
	l.launch()
	open := func(port string) bool { _, err := tryAt("tcp", "127.0.0.1:"+port); return err == nil }
	for _, port := range []string{kept, wild, dropped} {
		if !open(port) {
			t.Fatalf("port %s does not answer", port)
		}
	}
	// Another spelling of the same address finds the same socket.
	l.setPlan(func(p *plan) { p.Listen = []string{s, "localhost:" + kept, "0.0.0.0:" + wild, "127.0.0.1:" + added} })
	o := l.upgrade()
	if o.Result != upgrade.Succeeded {
		t.Fatalf("got %+v", o)
	}
	for port, want := range map[string]bool{kept: true, wild: true, added: true, dropped: false} {
		if got := open(port); got != want {
			t.Errorf("port %s: got open %v, want %v", port, got, want)
		}
	}
	if _, err := os.Lstat(l.path("gone")); err == nil {
		t.Error("the path of the dropped unix socket is left behind")
	}
	// A change that no one socket can follow is refused with what to do.
	l.setPlan(func(p *plan) { p.Listen = []string{s, ":" + kept} })
	if o := l.upgrade(); o.Result != upgrade.Failed || !strings.Contains(strings.Join(o.Stderr, "\n"), "such a change needs a restart") {
		t.Errorf("from one address to all: got %+v", o)
	}
	l.setPlan(func(p *plan) { p.Listen = []string{s, s} })
	if o := l.upgrade(); o.Result != upgrade.Failed || !strings.Contains(strings.Join(o.Stderr, "\n"), "given twice") {
		t.Errorf("an address given twice: got %+v", o)
	}
	if !open(kept) {
		t.Error("a failed upgrade has closed a listener")
	}
	l.setPlan(func(p *plan) { p.Listen = []string{s} })
}

// Each of two listeners on port 0 keeps the port that it got.
func TestPortZeroIsKept(t *testing.T) {
	l := newLine(t)
	l.plan.Listen = []string{"unix:" + l.path("s"), "127.0.0.1:0", "127.0.0.1:0"}
	l.launch()
	before := ports(t, l.who().PID)
	l.upgrade()
	l.upgrade()
	after := ports(t, l.who().PID)
	if len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("got ports %v, want %v as before", after, before)
	}
}

// ports lists the TCP ports that a process listens on.
func ports(t *testing.T, pid int) (ports []string) {
	t.Helper()
	sockets := make(map[string]bool)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		sockets[to] = true
	}
	table, err := os.Open(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for rows := bufio.NewScanner(table); rows.Scan(); {
		if f := strings.Fields(rows.Text()); len(f) > 9 && f[3] == "0A" && sockets["socket:["+f[9]+"]"] {
			ports = append(ports, f[1])
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// While a successor starts, the predecessor alone answers on the control socket.
func TestStatusDuringUpgrade(t *testing.T) {
	l := newLine(t)
	l.launch()
	latch := l.path("latch")
	os.WriteFile(latch, nil, 0o600)
	l.setPlan(func(p *plan) { p.Check, p.Drain = "wait "+latch, 0 })
	go l.ask(nil)
	l.await("the successor has said hello", func() bool {
		s, err := l.status()
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Generations) < 2 {
			return false
		}
		if s.Generation != 1 || s.State != "upgrading" || s.Generations[1].State != "starting" {
			t.Fatalf("got %+v, want generation 1 upgrading and 2 starting", s)
		}
		return true
	})
	os.Remove(latch)
	l.await("generation 2 answers", func() bool {
		s, err := l.status()
		return err == nil && s.Generation == 2 && len(s.Generations) == 1
	})
}

// Whoever has started the first process may wait for the whole service: the
// process stays, and passes signals on.
func TestForeground(t *testing.T) {
	l := newLine(t)
	l.below = l.path("go") // a shell under this name, which runs a script called run
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	script := "./program; exit $?\n"
	if err := errors.Join(os.Symlink(sh, l.below), os.WriteFile(l.path("run"), []byte(script), 0o600)); err != nil {
		t.Fatal(err)
	}
	l.plan.Drain = 300 * time.Millisecond
	l.launch()
	foreground := parent(t, l.who().PID)
	if shell := parent(t, foreground); shell != l.first.Process.Pid {
		t.Fatalf("got generation 1 below %d below %d, want a process of the program below %d", foreground, shell, l.first.Process.Pid)
	}
	for want := 2; want <= 3; want++ {
		syscall.Kill(foreground, syscall.SIGHUP)
		l.await("the next generation serves", func() bool { return l.who().Generation == want })
	}
	// Generation 2 still drains: the stop is for the one that serves.
	syscall.Kill(foreground, syscall.SIGINT)
	if err := l.first.Wait(); err != nil {
		t.Errorf("process in the foreground: got %v, want exit 0", err)
	}
	if _, err := l.try(); err == nil {
		t.Error("somebody still serves when the process in the foreground is gone")
	}

	l.setPlan(func(p *plan) { p.Start = "exit 7" })
	failing := l.start()
	var exit *exec.ExitError
	if err := failing.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("with a first generation that exits 7: got %v, want the same", err)
	}
}

func TestAskFails(t *testing.T) {
	dir := t.TempDir()
	silent := filepath.Join(dir, "silent")
	ln, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	hasty := filepath.Join(dir, "hasty")
	ln2, err := net.Listen("unix", hasty)
	if err != nil {
		t.Fatal(err)
	}
	defer ln2.Close()
	go func() {
		for {
			nc, err := ln2.Accept()
			if err != nil {
				return
			}
			io.WriteString(nc, "{")
			nc.Close()
		}
	}()
	for name, test := range map[string]struct {
		path string
		want error
	}{
		"no socket":     {filepath.Join(dir, "none"), upgrade.ErrNoServer},
		"silent server": {silent, context.DeadlineExceeded},
		"server ends":   {hasty, upgrade.ErrLost},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := upgrade.Ask(ctx, test.path, nil); !errors.Is(err, test.want) {
				t.Errorf("Ask: got %v, want %v", err, test.want)
			}
			if _, err := upgrade.AskStatus(ctx, test.path); !errors.Is(err, test.want) {
				t.Errorf("AskStatus: got %v, want %v", err, test.want)
			}
		})
	}
}
