package upgrade_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

// latched makes a line whose generations drain until the latch is gone.
func latched(t *testing.T, change func(*plan)) (l *line, latch string) {
	t.Helper()
	l = newLine(t)
	latch = l.path("latch")
	if err := os.WriteFile(latch, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.setPlan(func(p *plan) {
		p.Drained = "wait " + latch
		change(p)
	})
	l.launch()
	t.Cleanup(func() { os.Remove(latch) })
	return l, latch
}

// upgradeOn upgrades without waiting for the drain, and returns the status of the new
// generation once it knows of every one that lives.
func (l *line) upgradeOn(number int) upgrade.Status {
	l.t.Helper()
	go l.ask(nil)
	return l.awaitLine(number, number)
}

// awaitLine waits until a generation serves and this many live.
func (l *line) awaitLine(number, alive int) (s upgrade.Status) {
	l.t.Helper()
	l.await(fmt.Sprintf("generation %d serves, of %d", number, alive), func() bool {
		var err error
		s, err = l.status()
		if err != nil || s.Generation != number || len(s.Generations) != alive {
			return false
		}
		return !slices.ContainsFunc(s.Generations, func(m upgrade.Member) bool {
			return m.Generation < number && (m.State != "draining" || m.Requests == 0)
		})
	})
	return s
}

func TestSeveralDrain(t *testing.T) {
	tier.Slow(t, "holds several generations up")
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	given := l.who().Answers
	var s upgrade.Status
	for n := 1; n <= 5; n++ {
		if n > 1 {
			s = l.upgradeOn(n)
		}
		for of := 0; of < 3; {
			given++
			a := l.who()
			if a.Generation == n { // for a moment the predecessor accepts as well
				of++
			}
			if a.Answers != given {
				t.Errorf("got answer %d of generation %d, want %d", a.Answers, a.Generation, given)
			}
			if want := n * (n + 1) / 2; a.Generation == n && a.Load != want { // a generation's load is its number
				t.Errorf("generation %d: got load %d of all, want %d", n, a.Load, want)
			}
		}
	}
	for i, m := range s.Generations {
		if m.Generation != i+1 {
			t.Errorf("got %+v at place %d of the status, want generation %d", m, i, i+1)
		}
	}
	os.Remove(latch)
	l.awaitLine(5, 1)
	given++
	if a := l.who(); a.Answers != given {
		t.Errorf("when all are gone: got answer %d, want %d", a.Answers, given)
	}
	for n := 1; n <= 4; n++ {
		if want := fmt.Sprintf(`msg="predecessor drained" pid=%d generation=5 predecessor=%d`, s.PID, n); !strings.Contains(l.printed(), want) {
			t.Errorf("want a line %s", want)
		}
	}
	for _, bad := range []string{"without a report", "no process accepts", "level=ERROR", "level=WARN"} {
		if strings.Contains(l.printed(), bad) {
			t.Errorf("something says %q", bad)
		}
	}
}

// Beyond the limit the trigger waits, says so, and is carried out when one is gone.
func TestTooManyDrain(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(p *plan) { p.Draining = 1 })
	l.upgradeOn(2)
	l.upgradeOn(3)
	said := make(chan string, 64)
	go l.ask(func(progress string) { said <- progress })
	for waits := false; !waits; {
		select {
		case line := <-said:
			waits = line == "waits: 2 predecessors still drain"
		case <-time.After(patience):
			t.Fatalf("no trigger was reported to wait\n%s", l.printed())
		}
	}
	time.Sleep(100 * time.Millisecond)
	if a := l.who(); a.Generation != 3 {
		t.Errorf("generation %d serves although 2 predecessors drain", a.Generation)
	}
	os.Remove(latch)
	l.awaitLine(4, 1)
}

// A generation that dies between its predecessor and its successor takes neither along.
func TestMiddleGenerationIsKilled(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	given := l.who().Answers
	l.upgradeOn(2)
	s := l.upgradeOn(3)
	syscall.Kill(s.Generations[1].PID, syscall.SIGKILL)
	s = l.awaitLine(3, 2)
	if s.Generations[0].Generation != 1 {
		t.Errorf("got %v, want generations 1 and 3", s)
	}
	if a := l.who(); a.Answers != given+1 {
		t.Errorf("got answer %d, want %d", a.Answers, given+1)
	}
	os.Remove(latch)
	l.awaitLine(3, 1)
	if strings.Contains(l.printed(), "no process accepts") {
		t.Error("generation 1 takes the service for dead")
	}
}

// The death of the one that serves is noticed by all that drain, and one of them takes over again: the
// one that has executed it.
func TestServingGenerationIsKilled(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	first := l.first.Process.Pid
	l.upgradeOn(2)
	s := l.upgradeOn(3)
	syscall.Kill(s.PID, syscall.SIGKILL)
	l.awaitLine(4, 1)
	l.await("the other has noticed", func() bool { return strings.Contains(l.printed(), "the one that has executed it decides") })
	os.Remove(latch)
	l.awaitEnd(first)
	l.awaitEnd(s.Generations[1].PID)
	if strings.Contains(l.printed(), "no process accepts") {
		t.Error("a generation says that no process accepts connections")
	}
}

// If that one has died before, none takes over: systemd, of which the dead one is a child by then,
// has noticed by itself.
func TestServingGenerationIsKilledWithItsPredecessor(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	first := l.first.Process.Pid
	l.upgradeOn(2)
	s := l.upgradeOn(3)
	syscall.Kill(s.Generations[1].PID, syscall.SIGKILL)
	s = l.awaitLine(3, 2)
	syscall.Kill(s.PID, syscall.SIGKILL)
	l.await("it is noticed", func() bool { return strings.Contains(l.printed(), "no process accepts connections now") })
	os.Remove(latch)
	l.awaitEnd(first)
}

// A stop waits for all that drain.
func TestStopWaitsForAll(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	l.upgradeOn(2)
	s := l.upgradeOn(3)
	l.setPlan(func(p *plan) { p.Drained = "" })
	s = l.upgradeOn(4)
	syscall.Kill(s.PID, syscall.SIGTERM)
	l.await("generation 4 waits", func() bool { return strings.Contains(l.printed(), "waiting for predecessors") })
	os.Remove(latch)
	l.awaitEnd(s.PID)
	if n := strings.Count(l.printed(), `msg="predecessor exited" pid=`+fmt.Sprint(s.PID)); n != 3 {
		t.Errorf("%d predecessors were gone at the end, want 3", n)
	}
	if strings.Contains(l.printed(), "no process accepts") {
		t.Error("a predecessor takes the stop for a death")
	}
}

// Releases that speak different versions of the link upgrade into each other; with one
// of the past an upgrade waits for the predecessor's end, as it did then.
func TestVersionsOfTheLink(t *testing.T) {
	tier.Slow(t, "waits for timeouts")
	t.Parallel()
	l := newLine(t)
	l.setPlan(func(p *plan) { p.Protocol, p.Drain = "1", 200*time.Millisecond })
	l.launch()
	given := l.who().Answers
	for i, protocol := range []string{"2", "1", "2", "2", "1", "1", "3", "2"} {
		l.setPlan(func(p *plan) { p.Protocol = protocol })
		o := l.upgrade()
		if o.Result != upgrade.Succeeded || o.Generation != i+2 || !o.Predecessor.IsDrained {
			t.Fatalf("to version %s of the link: got %+v, want generation %d and a drained predecessor", protocol, o, i+2)
		}
		given++
		if a := l.who(); a.Generation != i+2 || a.Answers != given {
			t.Errorf("to version %s of the link: got answer %d of generation %d, want %d of %d", protocol, a.Answers, a.Generation, given, i+2)
		}
	}
	for _, bad := range []string{"without a report", "no process accepts", "level=ERROR", "level=WARN"} {
		if strings.Contains(l.printed(), bad) {
			t.Errorf("something says %q", bad)
		}
	}
}

// A predecessor of the past keeps its own predecessors, and lives as long as they do.
func TestRollbackWhileSeveralDrain(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(*plan) {})
	l.upgradeOn(2)
	l.setPlan(func(p *plan) { p.Protocol = "1" })
	go l.ask(nil)
	l.awaitLine(3, 2) // it knows of generation 2 only
	l.setPlan(func(p *plan) { p.Protocol, p.Drained = "", "" })
	go l.ask(nil)
	time.Sleep(100 * time.Millisecond)
	if a := l.who(); a.Generation != 3 {
		t.Errorf("generation %d serves while a predecessor of the past drains", a.Generation)
	}
	os.Remove(latch)
	l.awaitLine(4, 1)
	if strings.Contains(l.printed(), "no process accepts") {
		t.Error("generation 1 takes the service for dead")
	}
}
