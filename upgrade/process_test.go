package upgrade_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"os/exec"
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
	flag.Set("test.parallel", "12") // those that are wait most of the time
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
	Draining    int           // predecessors that may drain when it is upgraded; 0: as many as usual
	Protocol    string        // version of the link; empty: that of this release
	Store       bool          // there is one, which has descriptor 3 for the first generation
	Trial       upgrade.Trial // of its successors; zero: its service cannot be shared
	Fails       bool          // all its answers are failures
	Unserved    uint64        // clients that connect where successors do not listen
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
		HookTimeout: p.HookTimeout, Trial: p.Trial,
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
	if p.Trial != (upgrade.Trial{}) {
		return gen.Run(&sharer{whoami: s, fails: p.Fails, unserved: p.Unserved}, signals)
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

// confidence is what a generation adds to the secret that it inherits.
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
				s.serve(ln, nc)
			}
		})
	}
}

// serve answers on a connection.
func (s *whoami) serve(ln net.Listener, nc net.Conn) {
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
