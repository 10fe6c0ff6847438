package upgrade_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

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
	t.Parallel()
	tier.Slow(t, "waits for successors that hang")
	const hanging = 5 * time.Second // a good one must be ready within this time, too
	tests := map[string]struct {
		plan     func(*plan)
		timeout  time.Duration // 0: a minute
		sabotage func(t *testing.T, l *line)
		reason   string // part of it
		stderr   string // a line of it
	}{
		"exits 0":             {plan: func(p *plan) { p.Start = "exit 0" }, reason: "exited", stderr: "leaving with 0"},
		"exits 3":             {plan: func(p *plan) { p.Start = "exit 3" }, reason: "exit status 3", stderr: "leaving with 3"},
		"exits at the end":    {plan: func(p *plan) { p.Check = "exit 1" }, reason: "exit status 1", stderr: "leaving with 1"},
		"panics":              {plan: func(p *plan) { p.Check = "panic wild" }, reason: "exit status 2", stderr: "panic: wild"},
		"fails its check":     {plan: func(p *plan) { p.Check = "fail no database" }, reason: "exit status 1", stderr: "generation: generation 2 failed: no database"},
		"hangs at the start":  {plan: func(p *plan) { p.Start = "hang" }, timeout: hanging, reason: "not ready within 5s and was killed"},
		"hangs at the end":    {plan: func(p *plan) { p.Check = "hang" }, timeout: hanging, reason: "not ready within 5s and was killed"},
		"is stopped":          {plan: func(p *plan) { p.Check = "stop" }, timeout: hanging, reason: "not ready within 5s and was killed"},
		"is a moment late":    {plan: func(p *plan) { p.Check = "late" }, timeout: 20 * time.Second, reason: "exit status 1", stderr: "it exits shortly before it would be killed"},
		"gets SIGHUP early":   {plan: func(p *plan) { p.Start = "hangup" }, reason: "hangup"},
		"prints a lot":        {plan: func(p *plan) { p.Check = "flood" }, reason: "exit status 1", stderr: "failed: flooded"},
		"wants a bad address": {plan: func(p *plan) { p.Listen = append(p.Listen, "127.0.0.1:http-no") }, reason: "exit status 1", stderr: `"http-no" is not a port`},
		"is missing":          {sabotage: func(t *testing.T, l *line) { os.Remove(l.program) }, reason: "no such file"},
		"is not executable":   {sabotage: replaceBy("#!/bin/sh\n", 0o644), reason: "permission denied"},
		"is no program":       {sabotage: replaceBy("nonsense", 0o755), reason: "exec format error"},
		"cannot write its PID": {plan: func(p *plan) { p.PIDFile = filepath.Join(filepath.Dir(p.PIDFile), "no", "pid") },
			reason: "exit status 1", stderr: "claim PID file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.timeout > hanging {
				tier.Long(t, "waits until shortly before a deadline that no machine misses")
			}
			t.Parallel()
			l := newLine(t)
			l.plan.Timeout = cmp.Or(test.timeout, patience)
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
			status, err := l.status()
			if err != nil {
				t.Fatal(err)
			}
			if last := status.Upgrades[len(status.Upgrades)-1]; !strings.Contains(last.Reason, test.reason) || !strings.Contains(last.Reason, test.stderr) {
				t.Errorf("got reason %q in the status, want %q and the last words %q", last.Reason, test.reason, test.stderr)
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
	tier.Slow(t, "waits for successors that fail")
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
	t.Parallel()
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
	l.awaitSuccessor()
	l.first.Process.Kill()
	l.first.Wait()
	if err := <-asked; !errors.Is(err, upgrade.ErrLost) {
		t.Errorf("who asked got %v, want %v", err, upgrade.ErrLost)
	}
	// Before, what it prints still goes to the predecessor's pipe.
	l.await("the successor has noticed", func() bool { return strings.Contains(l.printed(), "exited without a report") })
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

// A predecessor that hangs is killed, by whichever generation serves by then.
func TestPredecessorThatDoesNotGo(t *testing.T) {
	tier.Slow(t, "waits for timeouts")
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
	l.await("the generation that serves kills it", func() bool { return strings.Contains(l.printed(), "killing it") })
	var status syscall.WaitStatus
	syscall.Wait4(first, &status, 0, nil)
	if status.Signal() != syscall.SIGKILL {
		t.Errorf("predecessor: got status %v, want it killed", status)
	}
}

// What a successor prints before it is ready is printed whole, although it comes by
// way of a predecessor that may be gone a moment later.
func TestSuccessorChatters(t *testing.T) {
	tier.Slow(t, "waits for a successor that does not end")
	t.Parallel()
	l := newLine(t)
	l.launch()
	l.setPlan(func(p *plan) { p.Check = "chatter" })
	l.upgrade()
	l.await("the end of the predecessor", func() bool { s, err := l.status(); return err == nil && len(s.Generations) == 1 })
	if n := strings.Count(l.printed(), "chatters"); n != 1000 {
		t.Errorf("%d lines of the successor were printed, want 1000", n)
	}
}
