package upgrade_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

// A stop may come at any moment of a takeover. What either has accepted is answered, and both end.
func TestStopDuringTakeover(t *testing.T) {
	tier.Slow(t, "stops in one moment of an upgrade after another")
	for i := range 16 {
		l := newLine(t)
		l.launch()
		latch := l.path("latch")
		os.WriteFile(latch, nil, 0o600)
		l.setPlan(func(p *plan) { p.Check, p.Answer = "wait "+latch, 100*time.Millisecond })
		l.first.Process.Signal(syscall.SIGHUP)
		successor := l.awaitSuccessor()
		os.Remove(latch)
		time.Sleep(time.Duration(i) * time.Millisecond) // the moment
		nc, err := net.Dial("unix", l.path("s"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		l.first.Process.Signal(syscall.SIGTERM)
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

func TestStopDuringUpgrade(t *testing.T) {
	tier.Slow(t, "stops in one moment of an upgrade after another")
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
	successor := l.awaitSuccessor()
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

// The end of the last generation is the end of the service: it waits for a
// predecessor that still drains, unless it is signalled again.
func TestStopWaitsForPredecessor(t *testing.T) {
	t.Parallel()
	for _, signals := range []int{1, 2} {
		t.Run(strconv.Itoa(signals), func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			latch := l.latch("latch")
			l.setPlan(func(p *plan) { p.Drained = "wait " + latch })
			l.launch()
			predecessor := l.first.Process.Pid
			l.setPlan(func(p *plan) { p.Drained = "" })
			go l.ask(nil)
			l.await("generation 2 serves", func() bool { return l.pidFile() != predecessor })
			successor := l.pidFile()
			for n := range signals {
				if n > 0 {
					time.Sleep(time.Second) // or it would be the same signal
				}
				syscall.Kill(successor, syscall.SIGTERM)
				l.await("the stop", func() bool { return strings.Count(l.printed(), "stop requested") > n })
			}
			if signals == 1 {
				l.await("generation 2 waits", func() bool { return strings.Contains(l.printed(), "waiting for predecessors") })
				// The predecessor, if it still answers, may yet have to read the hello.
				l.await("a status of both generations", func() bool {
					s, err := l.status()
					return err == nil && len(s.Generations) == 2
				})
				os.Remove(latch)
			}
			l.awaitEnd(successor)
			drained := strings.Contains(l.printed(), "predecessor exited")
			if want := signals == 1; drained != want {
				t.Errorf("at its end: the predecessor has drained: %v, want %v", drained, want)
			}
			syscall.Kill(predecessor, syscall.SIGKILL)
			l.awaitEnd(predecessor)
		})
	}
}

func TestStop(t *testing.T) {
	tier.Slow(t, "waits for the delay of a stop")
	t.Parallel()
	l := newLine(t)
	l.plan.Hooks, l.plan.Delay, l.plan.Drain = true, 5*time.Second, time.Minute
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
	l.checkHooks(l.first.Process.Pid, "third", "stop", "second", "first")
}

// newAttendedLine makes a line whose first process waits in the foreground.
func newAttendedLine(t *testing.T) *line {
	t.Helper()
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
	return l
}

// Whoever has started the first process may wait for the whole service: the
// process stays, and passes signals on.
func TestForeground(t *testing.T) {
	tier.Slow(t, "waits for generations that hang")
	l := newAttendedLine(t)
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
