// The stop: readiness first, then the delay, the drain, and the exit with 0.
package e2e

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"
)

// refused says whether nobody listens on the public address any more.
func refused(b *Baton) func() bool {
	return func() bool {
		c, err := dial(b.Network, b.Address, time.Second)
		if err != nil {
			return true
		}
		c.Close()
		return false
	}
}

func TestStopIsOrderly(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			b := start(t, listen("unix:DIR/public.sock"), args("-proxy", "/="+backend(t, g)))
			pid := b.PID()
			begun, held, idle := b.Dial(), b.Dial(), b.Dial()
			idle.send(t, string(request("GET", "/", nil)))
			idle.expect(t, "GET", 200)
			begun.send(t, string(request("GET", "/begun", nil)))
			held.send(t, string(request("GET", "/hold", nil)))
			g.await(t, 2)

			b.Signal(sig)
			await(t, 5*time.Second, "refusal of new connections", refused(b))
			if got := b.probe("/readyz"); got != 503 {
				t.Errorf("readyz in the drain: got %d, want 503", got)
			}
			for _, path := range []string{"/healthz", "/metrics", "/status"} {
				if got := b.probe(path); got != 200 {
					t.Errorf("%s in the drain: got %d, want 200", path, got)
				}
			}
			if got := b.Metric("baton_state", "state", "draining"); got != 1 {
				t.Errorf("baton_state draining: got %v, want 1", got)
			}
			if e := idle.awaitClose(defaultGrace + slack); e != fin {
				t.Errorf("idle connection: got %s, want FIN after the grace", e)
			}
			g.open()
			if resp := held.expect(t, "GET", 200); !resp.Close || string(resp.Body) != "world" {
				t.Errorf("request that waited for its header: got close %v, body %q, want an announced close and world", resp.Close, resp.Body)
			}
			if resp := begun.expect(t, "GET", 200); string(resp.Body) != "hello, world" {
				t.Errorf("request under way: got body %q, want hello, world", resp.Body)
			}
			if p := b.awaitExit(pid, 5*time.Second); p.outcome() != "exit status 0" {
				t.Errorf("the service: got %s, want exit status 0", p.outcome())
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
	t.Parallel()
	const delay = 1500 * time.Millisecond
	b := start(t, files(t), args("-shutdown-delay", delay.String()))
	kept := b.Dial()
	pid := b.PID()
	signalled := time.Now()
	b.Signal(syscall.SIGTERM)
	await(t, 500*time.Millisecond, "503 on /readyz", func() bool { return b.probe("/readyz") == 503 })
	served := 0
	for time.Since(signalled) < delay-300*time.Millisecond {
		kept.send(t, string(request("GET", "/100.bin", nil)))
		if resp := kept.expect(t, "GET", 200); resp.Close {
			t.Fatal("connection during the delay: got Connection: close, want it kept")
		}
		b.Get("/100.bin")
		if got := b.probe("/readyz"); got != 503 {
			t.Fatalf("readyz during the delay: got %d, want 503", got)
		}
		if got := b.probe("/healthz"); got != 200 {
			t.Fatalf("healthz during the delay: got %d, want 200", got)
		}
		served++
	}
	if served == 0 { // how many there are is a matter of what else the machine does
		t.Error("no round of requests fits into the delay")
	}
	// From here on it may answer or refuse; once it has refused, it refuses.
	await(t, 5*time.Second, "refusal of new connections", refused(b))
	if took := time.Since(signalled); took < delay {
		t.Errorf("refused %v after the signal, want not before %v", took, delay)
	}
	throughout(t, 200*time.Millisecond, "refusal", refused(b))
	if p := b.awaitExit(pid, defaultGrace+slack+time.Second); p.outcome() != "exit status 0" {
		t.Errorf("the service: got %s, want exit status 0", p.outcome())
	}
}

func TestSecondSignalCutsTheDrain(t *testing.T) {
	tests := []struct {
		name  string
		flags []string
		ready func(b *Baton) func() bool // what to wait for before the second signal
	}{
		{"in the drain", nil, refused},
		{"in the delay", []string{"-shutdown-delay", "1m"}, func(b *Baton) func() bool {
			return func() bool { return b.probe("/readyz") == 503 }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			b := start(t, args("-proxy", "/="+backend(t, g), "-drain-timeout", "1m"), args(tt.flags...))
			pid := b.PID()
			c := b.Dial()
			c.send(t, string(request("GET", "/hold", nil)))
			g.await(t, 1)
			b.Kill(pid, syscall.SIGTERM)
			await(t, 5*time.Second, "the first signal to be noticed", tt.ready(b))
			time.Sleep(time.Second) // or it would be the same signal
			b.Kill(pid, syscall.SIGTERM)
			if p := b.awaitExit(pid, 3*time.Second); p.outcome() != "exit status 0" {
				t.Errorf("the service: got %s, want exit status 0", p.outcome())
			}
		})
	}
}

func TestDrainDeadlineHolds(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	b := start(t, args("-proxy", "/="+backend(t, g), "-drain-timeout", "700ms", "-idle-grace", "100ms"))
	hang := func() *conn {
		c := b.Dial()
		c.send(t, string(request("GET", "/hold", nil)))
		g.await(t, 1)
		return c
	}

	c := hang()
	u := b.Upgrade()
	if u.Predecessor.Connections.Cut != 1 || u.Predecessor.DrainSeconds < 0.6 || u.Predecessor.DrainSeconds > 2 {
		t.Errorf("drain of the predecessor: got %+v, want 1 connection cut after about 0.7 s", u.Predecessor)
	}
	b.awaitExit(u.Predecessor.PID, time.Second)
	if e := c.awaitClose(time.Second); e == stillOn {
		t.Error("connection of the hanging request: still open after the deadline")
	}

	c = hang()
	pid, began := b.PID(), time.Now()
	b.Signal(syscall.SIGTERM)
	p := b.awaitExit(pid, 5*time.Second)
	if took := p.exited.Sub(began); took < 500*time.Millisecond || took > 2700*time.Millisecond || p.outcome() != "exit status 0" {
		t.Errorf("stop with a hanging backend: got %s after %v, want exit status 0 after about 0.7 s", p.outcome(), took)
	}
	if e := c.awaitClose(time.Second); e == stillOn {
		t.Error("connection of the hanging request: still open after the deadline")
	}
}

// A stop may meet a successor that is just becoming ready, and has accepted connections by then: whoever
// has one answers on it, and nobody is left behind.
func TestStopRightAfterATrigger(t *testing.T) {
	for i := range 20 {
		b := start(t, files(t), args("-idle-grace", "50ms"))
		counts, stop := startLoad(t, load{network: b.Network, address: b.Address, grace: b.grace(), exchanges: fileExchanges(),
			clients: [habits]int{backToBack: 4, perRequest: 4}})
		await(t, 10*time.Second, "load", func() bool { return counts.Requests() > 50 })
		b.Signal(syscall.SIGHUP)
		// A little later each time, to hit another point of the successor's start.
		for until := time.Now().Add(time.Duration(i) * time.Millisecond); time.Now().Before(until); {
		}
		told := map[int]bool{}
		await(t, 10*time.Second, "end of the service", func() bool {
			// A predecessor that has handed over leaves the stop to its successor, as it should.
			if pid := b.readPID(); pid != 0 && !told[pid] {
				told[pid] = true
				syscall.Kill(pid, syscall.SIGTERM)
			}
			return len(b.Alive()) == 0
		})
		stop()
		// Nobody is there any more, which clients do see; but who was let in gets an answer.
		if lost := counts.Failures() - counts.failures[failDial].Load(); lost > 0 {
			t.Errorf("stop %d ms after a trigger: %v", i, counts)
		}
	}
}
