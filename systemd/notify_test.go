package systemd_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/systemd"
	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

func TestStateChanged(t *testing.T) {
	for _, tt := range []struct {
		name      string
		from, to  upgrade.State
		isStopped bool
		want      []string
	}{
		{"ready", upgrade.Starting, upgrade.Serving, false, []string{ready, status("v1"), status("v1")}}, // the second is of the heartbeat
		{"upgrade failed", upgrade.Upgrading, upgrade.Serving, false, []string{ready, status("v1")}},
		{"stop", upgrade.Serving, upgrade.Draining, true, []string{"STOPPING=1\nEXTEND_TIMEOUT_USEC=4500000", status("v1")}},
		{"a successor takes over", upgrade.Upgrading, upgrade.Draining, false, nil},
		{"exit", upgrade.Draining, upgrade.Exited, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := listenNotify(t)
			synctest.Test(t, func(t *testing.T) {
				n := newNotifier(&generation{version: "v1", isStopped: tt.isStopped})
				n.StateChanged(tt.from, tt.to)
				synctest.Wait()
				if got := s.received(t); !slices.Equal(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				n.StateChanged(upgrade.Upgrading, upgrade.Draining) // ends the heartbeat
			})
		})
	}
}

// systemd compares MONOTONIC_USEC with its own clock.
func TestReloading(t *testing.T) {
	s := listenNotify(t)
	now := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano() / 1000
	}
	before := now()
	newNotifier(&generation{}).StateChanged(upgrade.Serving, upgrade.Upgrading)
	after := now()
	got, _ := s.next(t)
	usec, ok := strings.CutPrefix(got, "RELOADING=1\nMONOTONIC_USEC=")
	at, err := strconv.ParseInt(usec, 10, 64)
	if !ok || err != nil || at < before || at > after {
		t.Errorf("got %q, want RELOADING=1 and a time from %d to %d", got, before, after)
	}
}

func TestOrphaned(t *testing.T) {
	s := listenNotify(t)
	newNotifier(&generation{}).Orphaned()
	if got, _ := s.next(t); got != "WATCHDOG=trigger" {
		t.Errorf("got %q, want WATCHDOG=trigger", got)
	}
}

// The status is sent once when it has changed, in one line, until a successor takes over.
func TestStatus(t *testing.T) {
	s := listenNotify(t)
	synctest.Test(t, func(t *testing.T) {
		g := &generation{version: "v1"}
		n := newNotifier(g)
		n.StateChanged(upgrade.Starting, upgrade.Serving)
		time.Sleep(10 * time.Second)
		if got := s.received(t); count(got, status("v1")) != 2 {
			t.Errorf("got %q, want the status at readiness, and of the heartbeat once", got)
		}
		g.set(func() { g.version = "two\nlines" })
		time.Sleep(10 * time.Second)
		if got, want := s.received(t), []string{status("two lines")}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		n.StateChanged(upgrade.Upgrading, upgrade.Draining)
		g.set(func() { g.version = "v3" })
		time.Sleep(10 * time.Second)
		if got := s.received(t); len(got) != 0 {
			t.Errorf("got %q after a successor has taken over, want nothing", got)
		}
	})
}

// While a successor is started, which may take over before this process hears of it, the status is
// not brought up to date: it would replace that of the successor.
func TestStatusWhileUpgrading(t *testing.T) {
	s := listenNotify(t)
	synctest.Test(t, func(t *testing.T) {
		g := &generation{version: "v1"}
		n := newNotifier(g)
		n.StateChanged(upgrade.Starting, upgrade.Serving)
		n.StateChanged(upgrade.Serving, upgrade.Upgrading)
		synctest.Wait()
		s.received(t)
		g.set(func() { g.version = "v1, with more requests" })
		time.Sleep(10 * time.Second)
		if got := s.received(t); len(got) != 0 {
			t.Errorf("got %q while a successor is started, want nothing", got)
		}
		n.StateChanged(upgrade.Upgrading, upgrade.Serving) // the successor has failed
		time.Sleep(10 * time.Second)
		if got, want := s.received(t), status(g.version); count(got, want) == 0 {
			t.Errorf("got %q after the upgrade has failed, want %q among it", got, want)
		}
		n.StateChanged(upgrade.Upgrading, upgrade.Draining)
	})
}

// In the trial of a successor the status is brought up to date: before that one commits, this process knows
// that the trial is over.
func TestStatusInATrial(t *testing.T) {
	s := listenNotify(t)
	synctest.Test(t, func(t *testing.T) {
		g := &generation{version: "v1"}
		n := newNotifier(g)
		n.StateChanged(upgrade.Starting, upgrade.Serving)
		n.StateChanged(upgrade.Serving, upgrade.Upgrading)
		synctest.Wait()
		s.received(t)
		g.set(func() {
			g.trial = &upgrade.TrialStatus{Stage: upgrade.StageTrial, Share: .1, Ends: time.Now().Add(5 * time.Second)}
		})
		time.Sleep(2500 * time.Millisecond)
		want := status("v1") + "; trial: 10 % of connections, 0 requests, 0 failed (0.0 %); here 0, 0 failed (0.0 %); 3 s left"
		if got := s.received(t); len(got) != 2 || got[1] != want {
			t.Errorf("got %q in a trial, want two, of which the last is %q", got, want)
		}
		g.set(func() {
			g.trial, g.version = &upgrade.TrialStatus{Verdict: upgrade.VerdictGood}, "v1, with more requests"
		})
		time.Sleep(10 * time.Second)
		if got := s.received(t); len(got) != 0 {
			t.Errorf("got %q after the trial, want nothing", got)
		}
		n.StateChanged(upgrade.Upgrading, upgrade.Draining)
	})
}

// The watchdog is notified three times in its time, by a service that answers only.
func TestWatchdog(t *testing.T) {
	for _, tt := range []struct {
		name string
		is   *generation
		want int
	}{
		{"alive", &generation{}, 7}, // at once, and every second
		{"the generation hangs", &generation{hangs: true}, 0},
		{"the service fails", &generation{failure: errors.New("hangs")}, 0},
		{"the service is closed in a stop", &generation{isStopped: true, failure: errors.New("closed")}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := listenNotify(t)
			t.Setenv("WATCHDOG_USEC", "3000000")
			synctest.Test(t, func(t *testing.T) {
				n := newNotifier(tt.is)
				n.StateChanged(upgrade.Starting, upgrade.Serving)
				time.Sleep(6*time.Second + 500*time.Millisecond)
				if got := s.received(t); count(got, "WATCHDOG=1") != tt.want {
					t.Errorf("got %q, want the watchdog notified %d times", got, tt.want)
				}
				tt.is.set(func() { tt.is.isStopped = false })
				n.StateChanged(upgrade.Upgrading, upgrade.Draining)
				time.Sleep(6 * time.Second)
				if got := s.received(t); len(got) != 0 {
					t.Errorf("got %q after a successor has taken over, want nothing", got)
				}
			})
		})
	}
}

// The watchdog means the process that systemd started, and its successors.
func TestWatchdogVariables(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		usec, pid string
		want      bool
	}{
		"own":        {"30000", own, true},
		"successor":  {"30000", "", true},
		"another":    {"30000", "1", false},
		"none":       {"", "", false},
		"malformed":  {"soon", own, false},
		"not a time": {"-1", own, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := listenNotify(t)
			for variable, value := range map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid} {
				t.Setenv(variable, value)
				if value == "" {
					os.Unsetenv(variable)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				n := newNotifier(&generation{})
				if _, there := os.LookupEnv("WATCHDOG_PID"); there {
					t.Error("WATCHDOG_PID is left to successors")
				}
				n.StateChanged(upgrade.Starting, upgrade.Serving)
				synctest.Wait()
				if got := s.received(t); slices.Contains(got, "WATCHDOG=1") != c.want {
					t.Errorf("got %q, want a message to the watchdog: %t", got, c.want)
				}
				n.StateChanged(upgrade.Upgrading, upgrade.Draining)
			})
		})
	}
}

// A systemd that does not read holds nothing up for longer than a second. It must learn
// which process is the main one, though, whenever it reads again.
func TestManagerThatDoesNotRead(t *testing.T) {
	s := listenNotify(t)
	synctest.Test(t, func(t *testing.T) {
		s.fill(t)
		n := newNotifier(&generation{})
		begin := time.Now()
		n.Orphaned()
		if took := time.Since(begin); took < time.Second || took > 2*time.Second {
			t.Errorf("a message took %v, want one second", took)
		}
		n.StateChanged(upgrade.Upgrading, upgrade.Serving)
		time.Sleep(time.Minute)
		got := s.received(t) // which makes room
		time.Sleep(time.Second)
		if got = append(got, s.received(t)...); count(got, ready) != 1 {
			t.Errorf("got %q %d times, want once", ready, count(got, ready))
		}
		n.StateChanged(upgrade.Upgrading, upgrade.Draining)
	})
}

func TestClose(t *testing.T) {
	s := listenNotify(t)
	n := newNotifier(&generation{})
	closed := make(chan struct{})
	go func() { n.Close(); close(closed) }()
	got, fds := s.next(t)
	if got != "BARRIER=1" || len(fds) != 1 {
		t.Fatalf("got %q with %d descriptors, want BARRIER=1 with one", got, len(fds))
	}
	select {
	case <-closed:
		t.Fatal("closed before systemd has read the messages")
	default:
	}
	unix.Close(fds[0])
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("not closed although systemd has read the messages")
	}
}

// What was under way when a successor took over is not sent after its messages.
func TestCloseAfterTakeover(t *testing.T) {
	s := listenNotify(t)
	t.Setenv("WATCHDOG_USEC", "3000000")
	synctest.Test(t, func(t *testing.T) {
		g := &generation{held: make(chan struct{})}
		n := newNotifier(g)
		n.StateChanged(upgrade.Starting, upgrade.Serving)
		synctest.Wait()
		s.received(t)
		n.StateChanged(upgrade.Upgrading, upgrade.Draining)
		closed := make(chan struct{})
		go func() { n.Close(); close(closed) }()
		time.Sleep(time.Millisecond)
		if got := s.received(t); len(got) != 0 {
			t.Errorf("got %q while the watchdog is about to be notified, want nothing", got)
		}
		close(g.held)
		got, fds := s.next(t)
		if got != "BARRIER=1" || len(fds) != 1 {
			t.Fatalf("got %q with %d descriptors, want BARRIER=1 with one", got, len(fds))
		}
		unix.Close(fds[0])
		<-closed
	})
}

// A systemd that hangs is not waited for beyond the deadline.
func TestBarrierThatIsNotPassed(t *testing.T) {
	listenNotify(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(nil)
	if err := systemd.Barrier(systemd.New(), ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m := systemd.New()
	n := newNotifier(&generation{failure: errors.New("asked for nothing")})
	for _, to := range []upgrade.State{upgrade.Serving, upgrade.Upgrading, upgrade.Draining, upgrade.Exited} {
		n.StateChanged(upgrade.Starting, to)
	}
	n.Orphaned()
	n.Close()
	if err := errors.Join(m.Store(strings.Repeat("é", 200), &net.TCPListener{}), m.Remove("x")); err != nil {
		t.Errorf("got %v without a systemd", err)
	}
}

func TestRemove(t *testing.T) {
	s := listenNotify(t)
	if err := systemd.New().Remove("a:b"); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.next(t); got != "FDSTOREREMOVE=1\nFDNAME=a%3Ab" {
		t.Errorf("got %q", got)
	}
}
