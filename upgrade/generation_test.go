package upgrade_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

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
	status := l.awaitLine(4, 1) // a moment after the end of generation 3
	if status.State != "serving" || len(status.Upgrades) != 3 {
		t.Errorf("got %+v, want one generation that serves, after 3 upgrades", status)
	}
}

// A secret is heard by each successor, and by nobody else.
func TestSecret(t *testing.T) {
	l := newLine(t)
	l.launch()
	want := ""
	for generation := 1; generation <= 3; generation++ {
		a := l.who()
		if a.Generation != generation || a.Secret != want || a.Leaked {
			t.Errorf("generation %d: got secret %q, in the environment: %v, want %q and only that", a.Generation, a.Secret, a.Leaked, want)
		}
		want += confidence(generation)
		l.upgrade()
	}
	if s, err := l.status(); err != nil || strings.Contains(fmt.Sprintf("%+v", s)+l.printed(), "confidence") {
		t.Errorf("the secret is in the status or the log (%v)", err)
	}
}

// Triggers that come while one upgrade runs make one more, not none and not many.
func TestTriggersAreCoalesced(t *testing.T) {
	l := newLine(t)
	drain := l.latch("drain")
	l.plan.Drained, l.plan.Draining = "wait "+drain, -1
	l.launch()
	latch := l.latch("latch")
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
	joined := func(generation int) (n int) {
		for line := range strings.Lines(l.printed()) {
			if strings.Contains(line, "joining the one that waits") && strings.Contains(line, fmt.Sprintf(" generation=%d ", generation)) {
				n++
			}
		}
		return n
	}
	ask()
	l.await("an upgrade runs", func() bool { s, err := l.status(); return err == nil && len(s.Generations) == 2 })
	ask()
	ask()
	l.first.Process.Signal(syscall.SIGHUP)
	l.await("the others have arrived", func() bool { return joined(1) == 2 })
	os.Remove(latch)
	l.await("the first upgrade is done", func() bool { a, err := l.try(); return err == nil && a.Generation == 2 })
	ask() // while generation 1 drains, or still hands over: joins as well
	// At generation 2 one of four is the first, and three join.
	l.await("all have arrived", func() bool { return joined(2) == 3 })
	os.Remove(drain)
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

// Signals that reach a predecessor after the handoff are not lost.
func TestSignalsToDrainingPredecessor(t *testing.T) {
	l := newLine(t)
	drain := l.latch("drain")
	l.plan.Drained = "wait " + drain
	l.launch()
	first := l.who().PID
	syscall.Kill(first, syscall.SIGHUP)
	l.await("generation 2 serves", func() bool { return l.who().Generation == 2 })
	l.await("generation 1 knows", func() bool { return strings.Contains(l.printed(), "upgrade succeeded") })
	syscall.Kill(first, syscall.SIGTERM) // as systemd may do: it goes on draining
	syscall.Kill(first, syscall.SIGHUP)  // meant for whoever serves
	l.await("generation 3 serves", func() bool { return l.who().Generation == 3 })
	l.await("the predecessor has noticed the stop", func() bool { return strings.Contains(l.printed(), "draining continues") })
	os.Remove(drain)
	var s upgrade.Status
	var err error
	l.await("generation 3 answers alone", func() bool { // what has come before may be answered by generation 2
		s, err = l.status()
		return err == nil && s.Generation == 3
	})
	if len(s.Upgrades) != 2 || s.Upgrades[1].Trigger != "signal" {
		t.Errorf("got %+v, want 2 upgrades, the second by a signal", s)
	}
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

// Who has heard from a generation that serves does not hear from its predecessor afterwards.
func TestStatusNeverGoesBack(t *testing.T) {
	tier.Slow(t, "upgrades again and again")
	t.Parallel()
	l := newLine(t)
	l.launch()
	stop := make(chan struct{})
	var askers sync.WaitGroup
	for range 3 {
		askers.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				s, err := l.status()
				if err != nil {
					t.Error(err)
					return
				}
				if s.Generation < last {
					t.Errorf("got status of generation %d after that of %d", s.Generation, last)
				}
				last = s.Generation
			}
		})
	}
	for range 20 {
		l.upgrade()
	}
	close(stop)
	askers.Wait()
}
