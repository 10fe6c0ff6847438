package upgrade_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

// freeAddress returns an address at which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// visit connects again and again until stopped, and returns how many connects were refused.
func (l *line) visit() (stop func() (visits, refused int64)) {
	var visits, refused atomic.Int64
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			_, err := l.try()
			visits.Add(1)
			if op := new(net.OpError); errors.As(err, &op) && op.Op == "dial" {
				refused.Add(1)
			}
		}
	}()
	return func() (int64, int64) {
		close(quit)
		<-done
		return visits.Load(), refused.Load()
	}
}

// A generation that dies after it has taken over is replaced by its predecessor's program as long
// as that one drains; no client is refused, and whatever replaces it can be upgraded.
func TestSuccessorDiesDuringTheDrain(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			if network == "tcp" {
				l.plan.Listen[0] = freeAddress(t)
			}
			l.plan.Drained = "wait " + l.latch("latch")
			l.launch()
			given := l.who().Inheritable // by whoever runs the test
			rounds := tier.Times(t, "rounds", 2, 20, 20)
			stop := l.visit()
			for n := 1; n < 2*rounds; n += 2 { // generation n serves
				before := l.who().PID
				outcome := make(chan upgrade.Outcome, 1)
				go func() {
					o, _ := l.ask(nil)
					outcome <- o
				}()
				s := l.awaitLine(n+1, 2)
				syscall.Kill(s.PID, syscall.SIGKILL)
				l.awaitLine(n+2, 1)
				a := l.who()
				if a.Generation != n+2 || a.PID == before || a.PID == s.PID {
					t.Fatalf("got an answer of generation %d, pid %d, want generation %d in a process of its own", a.Generation, a.PID, n+2)
				}
				if !slices.Equal(a.Inheritable, given) || a.Blocking || a.Variable || a.Leaked {
					t.Errorf("generation %d: got %+v, want nothing that programs started there would get", n+2, a)
				}
				if got := l.pidFile(); got != a.PID {
					t.Errorf("PID file: got %d, want %d", got, a.PID)
				}
				if o := <-outcome; o.Result != upgrade.Failed || o.Generation != n+2 || o.PID != a.PID || !strings.Contains(o.Reason, "died after it had taken over") {
					t.Errorf("whoever has requested the upgrade got %+v", o)
				}
				if syscall.Kill(before, 0) != nil {
					t.Error("the predecessor drains no more")
				}
				s, err := l.status()
				if err != nil || len(s.Upgrades) == 0 {
					t.Fatalf("got %+v, %v, want the last upgrades", s, err)
				}
				if last := s.Upgrades[len(s.Upgrades)-1]; last.Result != upgrade.Failed || last.To != n+1 || !strings.Contains(last.Reason, "died") {
					t.Errorf("the status has %+v of the upgrade", last)
				}
				if a.Answers < n {
					t.Errorf("%d answers counted, want those of all generations", a.Answers)
				}
				os.Remove(l.path("latch"))
				l.awaitEnd(before)
				l.latch("latch")
			}
			if visits, refused := stop(); refused > 0 {
				t.Errorf("%d of %d visitors were refused", refused, visits)
			}
			os.Remove(l.path("latch"))
			if o := l.upgrade(); o.Result != upgrade.Succeeded || o.Generation != 2*rounds+2 {
				t.Errorf("the next upgrade: got %+v, want generation %d", o, 2*rounds+2)
			}
			if strings.Contains(l.printed(), "no process accepts") {
				t.Error("a generation says that no process accepts connections")
			}
		})
	}
}

// The program that takes over is the one that runs, and not the one in its place by now, which is
// executed at the next upgrade.
func TestTheProgramThatTakesOver(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	s := l.upgradeOn(2)
	if err := errors.Join(os.Remove(l.program), os.WriteFile(l.program, []byte("#!/bin/sh\necho executed >&2\nexit 7\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(s.PID, syscall.SIGKILL)
	l.awaitLine(3, 1)
	if strings.Contains(l.printed(), "executed\n") {
		t.Error("the program at the path was executed")
	}
	if o := l.upgrade(); o.Result != upgrade.Failed || !strings.Contains(o.Reason, "exit status 7") {
		t.Errorf("the next upgrade: got %+v, want the failure of the program at the path", o)
	}
	os.Remove(latch)
	l.awaitEnd(l.first.Process.Pid)
}

// What is stopped in order, here or there, stays stopped.
func TestStopDuringTheDrain(t *testing.T) {
	t.Parallel()
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed %v", kill), func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			l.plan.Listen[0] = freeAddress(t)
			l.plan.Drained = "wait " + l.latch("latch")
			l.launch()
			s := l.upgradeOn(2)
			syscall.Kill(s.PID, syscall.SIGTERM)
			l.await("clients are refused", func() bool {
				nc, err := net.DialTimeout("tcp", l.plan.Listen[0], time.Second)
				if err == nil {
					nc.Close()
				}
				return errors.Is(err, syscall.ECONNREFUSED)
			})
			if kill { // it waits for its predecessor
				syscall.Kill(s.PID, syscall.SIGKILL)
			}
			os.Remove(l.path("latch"))
			l.awaitEnd(s.PID)
			l.awaitEnd(l.first.Process.Pid)
			if strings.Contains(l.printed(), "this program again") {
				t.Error("a stop is taken for a death")
			}
		})
	}
}

// Whoever has requested a stop does not get another process instead.
func TestNoneTakesOverAfterAStop(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	s := l.upgradeOn(2)
	syscall.Kill(l.first.Process.Pid, syscall.SIGTERM)
	l.await("it is noticed", func() bool { return strings.Contains(l.printed(), "stop requested; draining continues") })
	syscall.Kill(s.PID, syscall.SIGKILL)
	l.await("the death is noticed", func() bool { return strings.Contains(l.printed(), "no process accepts connections now") })
	if _, err := l.try(); err == nil {
		t.Error("somebody answers")
	}
	os.Remove(latch)
	l.awaitEnd(l.first.Process.Pid)
}

// A second death is the end: a program that dies and dies is not executed for ever.
func TestWhateverTakesOverDies(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	s := l.upgradeOn(2)
	l.setPlan(func(p *plan) { p.Start = "exit 3" })
	syscall.Kill(s.PID, syscall.SIGKILL)
	l.await("the end is noticed", func() bool { return strings.Contains(l.printed(), "no process accepts connections now") })
	if !strings.Contains(l.printed(), "exit status 3") {
		t.Error("the cause is not logged")
	}
	if n := strings.Count(l.printed(), "leaving with 3"); n != 1 {
		t.Errorf("it was executed %d times, want once", n)
	}
	os.Remove(latch)
	l.awaitEnd(l.first.Process.Pid)
}

// The process in the foreground waits for the one that takes over as for any other generation.
func TestForegroundOutlivesADeath(t *testing.T) {
	l := newAttendedLine(t)
	l.plan.Drained = "wait " + l.latch("latch")
	l.launch()
	predecessor := l.who().PID
	foreground := parent(t, predecessor)
	s := l.upgradeOn(2)
	syscall.Kill(s.PID, syscall.SIGKILL)
	s = l.awaitLine(3, 1)
	os.Remove(l.path("latch"))
	l.await("the predecessor is gone", func() bool { return syscall.Kill(predecessor, 0) != nil })
	if got := parent(t, s.PID); got != foreground {
		t.Errorf("generation 3 is a child of %d, want the process in the foreground, %d", got, foreground)
	}
	syscall.Kill(foreground, syscall.SIGHUP)
	l.awaitLine(4, 1)
	syscall.Kill(foreground, syscall.SIGINT)
	if err := l.first.Wait(); err != nil {
		t.Errorf("process in the foreground: got %v, want exit 0", err)
	}
	if _, err := l.try(); err == nil {
		t.Error("somebody still serves when the process in the foreground is gone")
	}
}
