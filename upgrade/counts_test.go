package upgrade_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
)

// Each answer tells how many the line has given so far. Asked one at a time,
// they count up by one, whoever answers.
func TestCountsGoOn(t *testing.T) {
	tier.Slow(t, "upgrades again and again")
	t.Parallel()
	l := newLine(t)
	latch := l.latch("latch")
	l.setPlan(func(p *plan) { p.Drained = "wait " + latch })
	l.launch()
	given := l.who().Answers
	for n := 2; n <= 6; n++ {
		l.latch("latch")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.ask(nil)
		}()
		for over, both := false, false; !over || !both; {
			if both {
				os.Remove(latch)
			}
			select {
			case <-ended:
				over = true
			default:
			}
			given++
			a := l.who()
			if a.Answers != given {
				t.Fatalf("answer of generation %d during upgrade %d: it is number %d of all, want %d\n%s", a.Generation, n-1, a.Answers, given, l.printed())
			}
			both = both || a.Generation == n && a.Load == n+n-1 // a generation's load is its number
			if over && !both {
				t.Fatalf("generation %d never told the load of both", n)
			}
		}
	}
}

// A generation that drains counts what its successor does meanwhile.
func TestCountsOfSuccessor(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.launch()
	latch := l.latch("latch")
	l.setPlan(func(p *plan) { p.Hold = "wait " + latch })
	l.upgrade()
	os.Remove(latch)
	given := l.who().Answers
	l.latch("latch")
	l.setPlan(func(p *plan) { p.Hold = "" })

	slow, err := net.Dial("unix", strings.TrimPrefix(l.plan.Listen[0], "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	go l.ask(nil)
	l.await("generation 3 serves", func() bool { s, err := l.status(); return err == nil && s.Generation == 3 })
	for range 3 {
		given++
		if a := l.who(); a.Answers != given || a.Generation != 3 {
			t.Errorf("got answer %d of generation %d, want %d of 3", a.Answers, a.Generation, given)
		}
	}
	os.Remove(latch)
	slow.SetDeadline(time.Now().Add(patience))
	var last answer
	if err := json.NewDecoder(slow).Decode(&last); err != nil {
		t.Fatal(err)
	}
	if last.Generation != 2 || last.Answers != given+1 || last.Load != 2+3 {
		t.Errorf("answer of the generation that drains: got %+v, want number %d of generation 2, and the load of both", last, given+1)
	}
	l.awaitLine(3, 1)
	if a := l.who(); a.Answers != given+2 {
		t.Errorf("after the drain: got answer %d, want %d", a.Answers, given+2)
	}
}

// So does one that has drained through several upgrades, about all that came after it.
func TestCountsOfAllSuccessors(t *testing.T) {
	t.Parallel()
	l, latch := latched(t, func(p *plan) { p.Hold = "wait " + filepath.Join(filepath.Dir(p.PIDFile), "hold") })
	given := 1 // at the launch
	hold := l.latch("hold")
	slow, err := net.Dial("unix", strings.TrimPrefix(l.plan.Listen[0], "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	l.setPlan(func(p *plan) { p.Hold = "" })
	for n := 2; n <= 4; n++ {
		l.upgradeOn(n)
		given++
		if a := l.who(); a.Answers != given {
			t.Errorf("generation %d: got answer %d, want %d", n, a.Answers, given)
		}
	}
	os.Remove(hold)
	slow.SetDeadline(time.Now().Add(patience))
	var last answer
	if err := json.NewDecoder(slow).Decode(&last); err != nil {
		t.Fatal(err)
	}
	if last.Generation != 1 || last.Answers != given+1 {
		t.Errorf("answer of the generation that drains: got %+v, want number %d of generation 1", last, given+1)
	}
	os.Remove(latch)
	l.awaitLine(4, 1)
	if a := l.who(); a.Answers != given+2 {
		t.Errorf("after the drains: got answer %d, want %d", a.Answers, given+2)
	}
}

// What a predecessor has counted is not lost with it, the last moment aside.
func TestCountsOfKilledPredecessor(t *testing.T) {
	t.Parallel()
	l, first, given := lineWithADrain(t)
	syscall.Kill(first, syscall.SIGKILL)
	l.awaitEnd(first)
	if a := l.who(); a.Answers != given+1 {
		t.Errorf("got answer %d, want %d", a.Answers, given+1)
	}
}

// A predecessor that is stopped holds nobody up for long.
func TestCountsOfStoppedPredecessor(t *testing.T) {
	t.Parallel()
	l, first, given := lineWithADrain(t)
	syscall.Kill(first, syscall.SIGSTOP)
	defer syscall.Kill(first, syscall.SIGKILL)
	l.await("the predecessor is stopped", func() bool { return processState(first) == 'T' })
	start := time.Now()
	for range 100 { // the first of which may wait for an answer
		given++
		if a := l.who(); a.Answers != given {
			t.Errorf("got answer %d, want %d", a.Answers, given)
		}
	}
	if took := time.Since(start); took > time.Minute { // 75 s if each waits
		t.Errorf("100 answers took %v", took)
	}
}

// lineWithADrain makes a line whose first generation has given some answers and drains for long.
func lineWithADrain(t *testing.T) (l *line, first, given int) {
	t.Helper()
	l = newLine(t)
	l.setPlan(func(p *plan) { p.Drain = patience })
	l.launch()
	l.setPlan(func(p *plan) { p.Drain = 0 })
	for range 5 {
		given = l.who().Answers
	}
	go l.ask(nil)
	l.awaitDraining(1)
	return l, l.first.Process.Pid, given
}

// awaitDraining waits until a generation drains, so that it accepts no more.
func (l *line) awaitDraining(number int) {
	l.t.Helper()
	l.await("the drain", func() bool {
		s, err := l.status()
		return err == nil && s.Generations[0].Generation == number && s.Generations[0].State == "draining"
	})
}

// processState returns the letter of /proc/PID/stat for it.
func processState(pid int) byte {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0
	}
	return stat[i+2]
}
