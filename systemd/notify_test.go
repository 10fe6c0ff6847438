package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/systemd"
	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

// patience is how long what must happen may take: only a hang takes so long.
const patience = time.Minute

// notifySocket is the socket that systemd reads.
type notifySocket struct{ *net.UnixConn }

func listenNotify(t *testing.T) notifySocket {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	nc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return notifySocket{nc}
}

// next returns the next message and the descriptors that came along.
func (s notifySocket) next(t *testing.T) (message string, fds []int) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(patience))
	packet, control := make([]byte, 4096), make([]byte, 4096)
	n, cn, _, _, err := s.ReadMsgUnix(packet, control)
	if err != nil {
		t.Fatal(err)
	}
	if controls, err := unix.ParseSocketControlMessage(control[:cn]); err == nil {
		for _, c := range controls {
			rights, _ := unix.ParseUnixRights(&c)
			fds = append(fds, rights...)
		}
	}
	return string(packet[:n]), fds
}

// received returns the messages that have been sent. It does not wait, so that time
// goes on in a bubble.
func (s notifySocket) received(t *testing.T) (messages []string) {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		packet := make([]byte, 4096)
		for {
			n, _, err := unix.Recvfrom(int(fd), packet, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			messages = append(messages, string(packet[:n]))
		}
	})
	return messages
}

// count returns how many of the messages are one.
func count(messages []string, message string) (n int) {
	for _, m := range messages {
		if m == message {
			n++
		}
	}
	return n
}

// generation is one of which the test decides how it is, and the service that it runs.
type generation struct {
	mu        sync.Mutex
	version   string // of which the status tells
	isStopped bool
	hangs     bool
	held      chan struct{} // if not nil, closed when the generation answers, however late
	failure   error         // of the service
}

// set changes a generation.
func (g *generation) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *generation) Status() upgrade.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return upgrade.Status{Generation: 1, Generations: []upgrade.Member{{Generation: 1, Version: g.version, State: "serving"}}}
}

func (g *generation) Alive(ctx context.Context) error {
	g.mu.Lock()
	hangs := g.hangs
	g.mu.Unlock()
	if g.held != nil {
		<-g.held
		return nil
	}
	if hangs {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (g *generation) TakesRequests() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.isStopped
}

func (g *generation) PredecessorDrain() time.Duration { return 2 * time.Second }

func (g *generation) Check(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}

func newNotifier(g *generation) *systemd.Notifier {
	return systemd.New().NewNotifier(systemd.NotifierOptions{
		Generation: g, Service: g, StopTime: 1500 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
}

// status is the message with the status of a version.
func status(version string) string {
	return fmt.Sprintf("STATUS=generation 1, version %s, is serving: 0 requests in flight, 0 connections", version)
}

var ready = fmt.Sprintf("MAINPID=%d\nREADY=1", os.Getpid())

func TestStateChanged(t *testing.T) {
	for _, tt := range []struct {
		name      string
		from, to  upgrade.State
		isStopped bool
		want      []string
	}{
		{"ready", upgrade.Starting, upgrade.Serving, false, []string{ready, status("v1"), status("v1")}}, // the second is of the heartbeat
		{"upgrade failed", upgrade.Upgrading, upgrade.Serving, false, []string{ready, status("v1")}},
		{"stop", upgrade.Serving, upgrade.Draining, true, []string{"STOPPING=1\nEXTEND_TIMEOUT_USEC=3500000", status("v1")}},
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

// fill sends messages until nobody reads them.
func (s notifySocket) fill(t *testing.T) {
	t.Helper()
	nc, err := net.DialUnix("unixgram", nil, s.LocalAddr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for err == nil {
			_, err = unix.Write(int(fd), []byte("x")) // net has made it non-blocking
		}
	})
	if err != unix.EAGAIN {
		t.Fatal(err)
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
