package upgrade_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

// registerHooks registers hooks that log that they run, and that fail in each way.
func registerHooks(gen *upgrade.Generation, log *slog.Logger, p plan) {
	register := func(name string, on func(string, func(context.Context) error), do func(context.Context) error) {
		on(name, func(ctx context.Context) error {
			_, hasDeadline := ctx.Deadline()
			log.Info("hook ran", "name", name, "has_deadline", hasDeadline)
			return do(ctx)
		})
	}
	register("first", gen.OnExit, func(ctx context.Context) error { return misbehave(ctx, p.Exit) })
	register("second", gen.OnExit, func(context.Context) error { return errors.New("broken hook") })
	register("stop", gen.OnStop, func(context.Context) error { runtime.Goexit(); return nil })
	register("third", gen.OnExit, func(context.Context) error { panic("wild hook") })
}

var hookRan = regexp.MustCompile(`msg="hook ran" pid=(\d+) name=(\w+) has_deadline=true`)

// hooksRun returns which hooks a process has run, in turn.
func (l *line) hooksRun(pid int) (names []string) {
	for _, m := range hookRan.FindAllStringSubmatch(l.printed(), -1) {
		if m[1] == fmt.Sprint(pid) {
			names = append(names, m[2])
		}
	}
	return names
}

// checkHooks checks that a process has run these hooks, and logged how they failed.
func (l *line) checkHooks(pid int, want ...string) {
	l.t.Helper()
	if got := l.hooksRun(pid); !slices.Equal(got, want) {
		l.t.Errorf("hooks of process %d: got %v, want %v", pid, got, want)
	}
	failures := ""
	for line := range strings.Lines(l.printed()) {
		if strings.Contains(line, `msg="hooks failed"`) && strings.Contains(line, fmt.Sprintf("pid=%d ", pid)) {
			failures += line
		}
	}
	reasons := map[string]string{"second": "broken hook", "third": "panic: wild hook", "stop": "it ended its goroutine"}
	for name, reason := range reasons {
		if text := "hook " + name + ": " + reason; slices.Contains(want, name) != strings.Contains(failures, text) {
			l.t.Errorf("failures of process %d: got %s, want %q in it: %v", pid, failures, text, slices.Contains(want, name))
		}
	}
}

// Every generation runs the hooks of its end, and the last one those of the stop. Who asked for an upgrade hears of
// its success only then.
func TestHooks(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.plan.Hooks = true
	l.launch()
	for generation := range 3 {
		predecessor := l.who().PID
		if o := l.upgrade(); o.Result != upgrade.Succeeded || o.Predecessor == nil || !o.Predecessor.IsDrained {
			t.Fatalf("upgrade: got %+v, want success and the end of the drain", o)
		}
		l.checkHooks(predecessor, "third", "second", "first")
		l.awaitEnd(predecessor)
		if successor := l.pidFile(); len(l.hooksRun(successor)) > 0 {
			t.Errorf("generation %d has run hooks: %v", generation+2, l.hooksRun(successor))
		}
	}
	last := l.pidFile()
	l.terminate(last)
	l.checkHooks(last, "third", "stop", "second", "first")
}

// A generation that fails before it is ready has nothing to stop, but may have something to close.
func TestHooksOfFailedStart(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.launch()
	l.setPlan(func(p *plan) { p.Hooks, p.Check = true, "fail on purpose" })
	if o := l.upgrade(); o.Result != upgrade.Failed {
		t.Errorf("upgrade: got %+v, want a failure", o)
	}
	m := hookRan.FindStringSubmatch(l.printed())
	if m == nil {
		t.Fatal("no hook of the successor ran")
	}
	var pid int
	fmt.Sscan(m[1], &pid)
	l.checkHooks(pid, "third", "second", "first")
	if got := l.hooksRun(l.pidFile()); len(got) > 0 {
		t.Errorf("hooks of the generation that goes on serving: got %v, want none", got)
	}
}

// While hooks run, the generation still passes on triggers, and leaves a stop to its successor.
func TestSignalsDuringHooks(t *testing.T) {
	tier.Slow(t, "waits for hooks")
	t.Parallel()
	l := newLine(t)
	latch := l.path("latch")
	if err := os.WriteFile(latch, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.plan.Hooks, l.plan.Exit, l.plan.HookTimeout = true, "wait "+latch, time.Minute
	l.launch()
	l.setPlan(func(p *plan) { p.Hooks = false })
	first := l.first.Process.Pid
	asked := make(chan error, 1)
	go func() {
		o, err := l.ask(nil)
		if err == nil && (o.Predecessor == nil || !o.Predecessor.IsDrained) {
			err = fmt.Errorf("got outcome %+v, want the end of the drain", o)
		}
		asked <- err
	}()
	l.await("the hooks of generation 1 run", func() bool { return slices.Contains(l.hooksRun(first), "first") })
	l.first.Process.Signal(syscall.SIGTERM) // for the service, of which this generation is the predecessor
	l.first.Process.Signal(syscall.SIGHUP)
	l.await("generation 3 serves", func() bool { s, err := l.status(); return err == nil && s.Generation == 3 })
	select {
	case err := <-asked:
		t.Errorf("the first upgrade ended before the hooks: %v", err)
	default:
	}
	os.Remove(latch)
	if err := <-asked; err != nil {
		t.Error(err)
	}
	l.awaitEnd(first)
}

// A hook that hangs leaves time to those after it, and the successor does not kill a predecessor whose hooks run.
func TestHookTimeout(t *testing.T) {
	tier.Slow(t, "waits for timeouts")
	t.Parallel()
	l := newLine(t)
	l.plan.Hooks, l.plan.Exit, l.plan.Cut, l.plan.HookTimeout = true, "hang", 3*time.Second, 3*time.Second
	l.launch()
	first := l.first.Process.Pid
	if o := l.upgrade(); o.Result != upgrade.Succeeded {
		t.Errorf("upgrade: got %+v, want success", o)
	}
	l.checkHooks(first, "third", "second", "first")
	if !strings.Contains(l.printed(), "hook first: not done after ") {
		t.Error("the hook that hangs is not in the log")
	}
	if want := "predecessor_drain=6s"; !strings.Contains(l.printed(), want) {
		t.Errorf("the successor's view of the drain: want %s", want)
	}
}
