package stop

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The stop: readiness first, then the delay, the drain, and the exit with 0.

func TestStopIsOrderly(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			g := backend.NewGate(t)
			b := service.Start(t, service.Listen("unix:DIR/public.sock"), service.Args("-proxy", "/="+backend.Start(t, g)))
			pid := b.PID()
			begun, held, idle := b.Dial(), b.Dial(), b.Dial()
			idle.Send(t, string(http1.Request("GET", "/", nil)))
			idle.Expect(t, "GET", 200)
			begun.Send(t, string(http1.Request("GET", "/begun", nil)))
			held.Send(t, string(http1.Request("GET", "/hold", nil)))
			g.Await(t, 2)

			b.Signal(sig)
			await.Until(t, "refusal of new connections", service.Refused(b))
			if got := b.Probe("/readyz"); got != 503 {
				t.Errorf("readyz in the drain: got %d, want 503", got)
			}
			for _, path := range []string{"/healthz", "/metrics", "/status"} {
				if got := b.Probe(path); got != 200 {
					t.Errorf("%s in the drain: got %d, want 200", path, got)
				}
			}
			if got := b.Metric("baton_state", "state", "draining"); got != 1 {
				t.Errorf("baton_state draining: got %v, want 1", got)
			}
			if e := idle.AwaitClose(service.DefaultGrace + service.Slack); e != http1.Fin {
				t.Errorf("idle connection: got %s, want FIN after the grace", e)
			}
			g.Open()
			if resp := held.Expect(t, "GET", 200); !resp.Close || string(resp.Body) != "world" {
				t.Errorf("request that waited for its header: got close %v, body %q, want an announced close and world", resp.Close, resp.Body)
			}
			if resp := begun.Expect(t, "GET", 200); string(resp.Body) != "hello, world" {
				t.Errorf("request under way: got body %q, want hello, world", resp.Body)
			}
			if p := b.AwaitExit(pid); p.Outcome() != "exit status 0" {
				t.Errorf("the service: got %s, want exit status 0", p.Outcome())
			}
			for _, path := range []string{b.PIDFile, b.Control, b.Address} {
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: got %v, want it removed at the stop", path, err)
				}
			}
		})
	}
}

// Until the delay is over, the service works as ever, and only says that it is about to go.
func TestShutdownDelay(t *testing.T) {
	tier.Slow(t, "waits for the delay")
	t.Parallel()
	const delay = 1500 * time.Millisecond
	b := service.Start(t, service.Files(t), service.Args("-shutdown-delay", delay.String(), "-drain-timeout", "1h"))
	kept := b.Dial()
	pid := b.PID()
	signalled := time.Now()
	b.Signal(syscall.SIGTERM)
	await.Until(t, "503 on /readyz", func() bool { return b.Probe("/readyz") == 503 })
	served := 0
	for time.Since(signalled) < delay-300*time.Millisecond {
		kept.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		if resp := kept.Expect(t, "GET", 200); resp.Close {
			t.Fatal("connection during the delay: got Connection: close, want it kept")
		}
		b.Get("/100.bin")
		if got := b.Probe("/readyz"); got != 503 {
			t.Fatalf("readyz during the delay: got %d, want 503", got)
		}
		if got := b.Probe("/healthz"); got != 200 {
			t.Fatalf("healthz during the delay: got %d, want 200", got)
		}
		served++
	}
	if served == 0 { // how many there are is a matter of what else the machine does
		t.Error("no round of requests fits into the delay")
	}
	// From here on it may answer or refuse; once it has refused, it refuses.
	await.Until(t, "refusal of new connections", service.Refused(b))
	if took := time.Since(signalled); took < delay {
		t.Errorf("refused %v after the signal, want not before %v", took, delay)
	}
	await.Throughout(t, 200*time.Millisecond, "refusal", service.Refused(b))
	if p := b.AwaitExit(pid); p.Outcome() != "exit status 0" {
		t.Errorf("the service: got %s, want exit status 0", p.Outcome())
	}
}

func TestSecondSignalCutsTheDrain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		flags []string
		ready func(b *service.Baton) func() bool // what to wait for before the second signal
	}{
		{"in the drain", nil, service.Refused},
		{"in the delay", []string{"-shutdown-delay", "1h"}, func(b *service.Baton) func() bool {
			return func() bool { return b.Probe("/readyz") == 503 }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := backend.NewGate(t)
			b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-drain-timeout", "1h"), service.Args(tt.flags...))
			pid := b.PID()
			c := b.Dial()
			c.Send(t, string(http1.Request("GET", "/hold", nil)))
			g.Await(t, 1)
			b.Kill(pid, syscall.SIGTERM)
			await.Until(t, "the first signal to be noticed", tt.ready(b))
			time.Sleep(time.Second) // or it would be the same signal
			b.Kill(pid, syscall.SIGTERM)
			if p := b.AwaitExit(pid); p.Outcome() != "exit status 0" {
				t.Errorf("the service: got %s, want exit status 0", p.Outcome())
			}
		})
	}
}

func TestDrainDeadlineHolds(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-drain-timeout", "700ms", "-idle-grace", "100ms"))
	hang := func() *http1.Conn {
		c := b.Dial()
		c.Send(t, string(http1.Request("GET", "/hold", nil)))
		g.Await(t, 1)
		return c
	}

	c := hang()
	u := b.Upgrade()
	if u.Predecessor.Connections.Cut != 1 || u.Predecessor.DrainSeconds < 0.6 {
		t.Errorf("drain of the predecessor: got %+v, want 1 connection closed forcibly after about 0.7 s", u.Predecessor)
	}
	b.AwaitExit(u.Predecessor.PID)
	if e := c.AwaitClose(await.Hang); e == http1.StillOn {
		t.Error("connection of the hanging request: still open after the deadline")
	}

	c = hang()
	pid, began := b.PID(), time.Now()
	b.Signal(syscall.SIGTERM)
	p := b.AwaitExit(pid)
	if took := p.Exited.Sub(began); took < 500*time.Millisecond || p.Outcome() != "exit status 0" {
		t.Errorf("stop with a hanging backend: got %s after %v, want exit status 0 after about 0.7 s", p.Outcome(), took)
	}
	if e := c.AwaitClose(await.Hang); e == http1.StillOn {
		t.Error("connection of the hanging request: still open after the deadline")
	}
}

// A stop may meet a successor that is just becoming ready, and has accepted connections by then: whoever
// has one answers on it, and nobody is left behind.
func TestStopRightAfterATrigger(t *testing.T) {
	const longest = 20 // ms
	n := tier.Times(t, "stops", 2, 10, longest)
	for i := 0; i < longest; i += longest / n {
		b := service.Start(t, service.Files(t), service.Args("-idle-grace", "50ms"))
		counts, stop := load.Start(t, load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files(),
			Clients: [load.Habits]int{load.BackToBack: 4, load.PerRequest: 4}})
		await.Until(t, "load", func() bool { return counts.Requests() > 50 })
		b.Signal(syscall.SIGHUP)
		// A little later each time, to hit another point of the successor's start.
		for until := time.Now().Add(time.Duration(i) * time.Millisecond); time.Now().Before(until); {
		}
		told := map[int]bool{}
		await.Until(t, "end of the service", func() bool {
			// A predecessor that has handed over leaves the stop to its successor, as it should.
			if pid := b.ReadPID(); pid != 0 && !told[pid] {
				told[pid] = true
				syscall.Kill(pid, syscall.SIGTERM)
			}
			return len(b.Alive()) == 0
		})
		stop()
		// Nobody is there any more, which clients do see; but who was let in gets an answer.
		if lost := counts.Failures() - counts.Failed[exchange.NoConnection].Load(); lost > 0 {
			t.Errorf("stop %d ms after a trigger: %v", i, counts)
		}
	}
}
