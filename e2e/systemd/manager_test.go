package systemd

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// A service manager that speaks with the service as systemd does, so that every word of it is seen:
// it takes notifications, keeps descriptors, and starts the service with them.

// The manager hears of readiness, of each upgrade's begin and end, of the main process, and of the stop.
func TestManagerIsTold(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 0)
	m.Slow = 300 * time.Millisecond
	b := service.Start(t, with, service.Files(t), service.Args("-idle-grace", "50ms"))
	first := b.PID()
	ready := m.Await(t, "READY=1", 1)
	if ready[0].Value("MAINPID") != strconv.Itoa(first) {
		t.Fatalf("at the start: got %v, want one READY=1 with the main process %d", ready, first)
	}

	b.DeployBytes([]byte("#!/bin/sh\nexit 3\n"), 0o755)
	if u := b.TryUpgrade(); u.Code != 1 {
		t.Fatalf("upgrade: got exit code %d, want 1", u.Code)
	}
	if ready := m.Await(t, "READY=1", 2); ready[1].Pid != first || ready[1].Value("MAINPID") != strconv.Itoa(first) {
		t.Errorf("after a failed upgrade: got %v, want READY=1 of the generation that goes on", ready)
	}
	await.Until(t, "the failed upgrade in the status", func() bool {
		said := m.Heard("STATUS=")
		return strings.Contains(said[len(said)-1].Value("STATUS"), "failed: ")
	})

	b.Deploy("v2")
	predecessor := b.Follow(first)
	u := b.Upgrade()
	reloading := m.Await(t, "RELOADING=1", 2)
	if reloading[1].Pid != first {
		t.Fatalf("upgrades: got %v, want RELOADING=1 for each of two", reloading)
	}
	since := time.Since(reloading[1].At)
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	usec, _ := strconv.ParseInt(reloading[1].Value("MONOTONIC_USEC"), 10, 64)
	if age := time.Duration(now.Nano()-usec*1000) - since; age < 0 || age > 5*time.Second {
		t.Errorf("MONOTONIC_USEC: %v before the message came, want a moment", age)
	}
	ready = m.Await(t, "READY=1", 3)
	if ready[2].Pid != u.PID || ready[2].Value("MAINPID") != strconv.Itoa(u.PID) {
		t.Fatalf("after the upgrade: got %v, want READY=1 and MAINPID of the successor, %d", ready, u.PID)
	}
	b.AwaitExit(first)
	var barrier service.Note
	for _, n := range m.Heard("BARRIER=1") {
		if n.Pid == first {
			barrier = n
		}
	}
	if barrier.Pid == 0 || barrier.At.Before(ready[2].At) || len(barrier.Lines) != 1 {
		t.Errorf("before the predecessor's exit: got barrier %v, want one after the successor's MAINPID at %v", barrier, ready[2].At)
	}
	if after := predecessor.Exited.Sub(barrier.At); after < m.Slow {
		t.Errorf("the predecessor exited %v after it asked whether the manager knows its successor, and had no answer for %v", after, m.Slow)
	}

	for _, said := range m.Heard("STATUS=") {
		if said.Pid == first && said.At.After(barrier.At.Add(-time.Millisecond)) || strings.Contains(said.Value("STATUS"), "is exited") {
			t.Errorf("got %v, which only the successor could know better", said)
		}
	}
	if stopping := m.Heard("STOPPING=1"); len(stopping) != 0 {
		t.Errorf("before the stop: got %v", stopping)
	}
	b.Stop()
	stopping := m.Await(t, "STOPPING=1", 1)
	if stopping[0].Pid != u.PID {
		t.Fatalf("at the stop: got %v, want STOPPING=1 of %d", stopping, u.PID)
	}
	// A drain of 30 s and what comes after it must not be cut by a unit that has not thought of it.
	if usec, _ := strconv.Atoi(stopping[0].Value("EXTEND_TIMEOUT_USEC")); usec < 40e6 {
		t.Errorf("at the stop: got %v, want time for the drain", stopping[0].Lines)
	}
}

// The watchdog hears from the generation that serves, and from it only; of one that hangs it hears nothing.
func TestWatchdogIsFed(t *testing.T) {
	tier.Slow(t, "waits for a watchdog")
	t.Parallel()
	watchdog := await.Unhurried(600 * time.Millisecond)
	busy := await.Measure(t)
	m, with := service.Managed(t, watchdog)
	var held atomic.Pointer[backend.Gate]
	b := service.Start(t, with, service.Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held.Load().ServeHTTP(w, r)
	}))))
	for n := 2; n <= 5; n++ {
		g := backend.NewGate(t)
		held.Store(g)
		slow := b.Dial() // keeps the predecessor in its drain
		slow.Send(t, string(http1.Request("GET", "/hold", nil)))
		g.Await(t, 1)
		result := b.UpgradeMeanwhile()
		await.Until(t, "predecessor that drains", func() bool {
			s, err := b.TryStatus()
			return err == nil && s.Generation == n && s.Generations[0].State == "draining"
		})
		pid, since := b.Status().PID, time.Now()
		await.Until(t, "two words of the generation that serves", func() bool {
			k := 0
			for _, note := range m.Heard("WATCHDOG=1") {
				if note.At.After(since) && note.Pid == pid {
					k++
				} else if note.At.After(since) && k > 0 { // or it may have been sent before
					t.Fatalf("got a notification by %d, which drains", note.Pid)
				}
			}
			return k >= 2
		})
		g.Open()
		slow.Expect(t, "GET", 200)
		result()
	}
	if strings.Contains(b.Log(), "watchdog") {
		t.Error("the log reports a watchdog that was not fed")
	}
	fed := m.Heard("WATCHDOG=1")
	for i, note := range fed[1:] {
		if pause, most := note.At.Sub(fed[i].At), watchdog+busy.Lag(); pause > most {
			t.Errorf("the watchdog heard nothing for %v, which is more than %v", pause, most)
		}
	}
	pid := b.PID()
	b.Kill(pid, syscall.SIGSTOP)
	await.Until(t, "the stop", func() bool { return process.Stopped(t, pid) })
	before := len(m.Heard("WATCHDOG=1"))
	await.Throughout(t, 2*watchdog, "silence of a process that hangs", func() bool { return len(m.Heard("WATCHDOG=1")) == before })
	b.Kill(pid, syscall.SIGCONT)
}

// A watchdog that is meant for another process is none of ours.
func TestWatchdogOfAnother(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 100*time.Millisecond)
	b := service.Start(t, with, service.Env("WATCHDOG_PID=1"), service.Files(t))
	b.Upgrade()
	await.Throughout(t, 300*time.Millisecond, "no word to the watchdog", func() bool { return len(m.Heard("WATCHDOG=1")) == 0 })
}

// Listeners outlive a killed process: what connects meanwhile waits, and is served when the manager has
// started the service again.
func TestListenersOutliveTheProcess(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 0)
	b := service.Start(t, with, service.Files(t), service.Args("-idle-grace", "50ms"), service.ListenInFile(),
		service.Config("listen ADDRESS", "listen unix:DIR/s.sock", "listen HOST:0"))
	b.Upgrade()
	m.AwaitKept(t, 4) // admin as well
	listened := b.Status().Listen
	pid := b.PID()
	b.Kill(pid, syscall.SIGKILL)
	b.AwaitExit(pid)

	var waiting []*http1.Conn
	for _, address := range listened {
		if address == b.Admin {
			continue
		}
		network, address := service.SplitAddress(address)
		c := http1.MustDial(t, network, address)
		c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		waiting = append(waiting, c)
	}
	b.Launch()
	for _, c := range waiting {
		c.Expect(t, "GET", 200)
	}
	b.AwaitReady()
	if again := b.Status().Listen; !slices.Equal(again, listened) {
		t.Errorf("listens at %q, want %q as before", again, listened)
	}
	m.AwaitKept(t, 4)

	// An upgrade works as ever; a listener that the configuration drops leaves the store.
	b.Configure("listen ADDRESS\nlisten unix:DIR/s.sock\n")
	b.Deploy("v2")
	b.Upgrade()
	m.AwaitKept(t, 3)
	b.Stop()
	m.AwaitKept(t, 0)
}

// If a successor dies while its predecessor drains, that one has another process take over, which is the main one
// then. If that fails it is the end of the service, of which the manager would not know. One that is asked to stop is
// another matter.
func TestManagerIsToldOfAnOrphan(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"another takes over": syscall.SIGKILL, "nobody takes over": syscall.SIGKILL, "stop": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, with := service.Managed(t, 0)
			g := backend.NewGate(t)
			b := service.Start(t, with, service.Config("drain-timeout 30s"), service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", "50ms"))
			slow := b.Dial()
			slow.Send(t, string(http1.Request("GET", "/hold", nil)))
			g.Await(t, 1)
			predecessor := b.PID()
			result := b.UpgradeMeanwhile()
			await.Until(t, "predecessor that drains", func() bool {
				s, err := b.TryStatus()
				return err == nil && s.Generation == 2 && s.Generations[0].State == "draining"
			})
			successor := b.PID()
			if name == "nobody takes over" {
				b.Configure("drain-timeout never\n")
			}
			b.Kill(successor, sig)
			switch name {
			case "another takes over":
				third := b.AwaitGeneration(3)
				ready := m.Await(t, "READY=1", 3)
				if got := ready[2]; got.Pid != third || got.Value("MAINPID") != strconv.Itoa(third) {
					t.Errorf("got %v, want the process %d as the main one", got, third)
				}
				m.AwaitKept(t, 2)
			case "nobody takes over":
				trigger := m.Await(t, "WATCHDOG=trigger", 1)
				if trigger[0].Pid != predecessor {
					t.Errorf("told by %d, want the predecessor %d", trigger[0].Pid, predecessor)
				}
			case "stop":
				m.Await(t, "STOPPING=1", 1)
				time.Sleep(time.Second) // or it would be the same signal
				b.Kill(successor, sig)  // it does not wait any longer
				b.AwaitExit(successor)
			}
			g.Open()
			slow.Expect(t, "GET", 200)
			b.AwaitExit(predecessor)
			result()
			if name != "nobody takes over" && len(m.Heard("WATCHDOG=trigger")) > 0 {
				t.Error("the service is taken for one that has failed")
			}
		})
	}
}

// A socket that a unit holds is served through upgrades, and left to the manager at a stop: what
// connects then waits for the next start.
func TestSocketUnit(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 0)
	b := service.Start(t, with, service.SocketUnit(t, "ADDRESS"), service.Files(t), service.Args("-idle-grace", "50ms"))
	for range 2 {
		b.Get("/100.bin")
		b.Upgrade()
	}
	m.AwaitKept(t, 1) // the admin listener
	b.Stop()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	b.Launch()
	c.Expect(t, "GET", 200)
	b.AwaitReady()
}

// A socket of a unit that nobody would serve is an error, not a place where clients wait for ever.
func TestSocketUnitThatIsNotServed(t *testing.T) {
	t.Parallel()
	b := service.Prepare(t, service.SocketUnit(t, "HOST:PORT"), service.Files(t))
	p := b.Launch()
	b.ExpectBad(p.Pid)
	if !p.Within(await.Hang) || p.Status.ExitStatus() != 1 {
		t.Fatalf("start: %s, want exit status 1", p.Outcome())
	}
	if log := b.Log(); !strings.Contains(log, "the configuration does not listen there") {
		t.Errorf("got the message %s", log)
	}
}
