package systemd_test

// This file holds the tests of what is said to systemd, with a socket in its place.

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/systemd"
	"golang.org/x/sys/unix"
)

const patience = 5 * time.Second

// notifySocket is what systemd hears.
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

func TestMessages(t *testing.T) {
	for name, c := range map[string]struct {
		send func(*systemd.Manager) error
		want string
	}{
		"ready":    {(*systemd.Manager).Ready, fmt.Sprintf("MAINPID=%d\nREADY=1", os.Getpid())},
		"stopping": {func(m *systemd.Manager) error { return m.Stopping(1500 * time.Millisecond) }, "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000"},
		"status":   {func(m *systemd.Manager) error { return m.Status("two\nlines") }, "STATUS=two lines"},
		"fail":     {(*systemd.Manager).Fail, "WATCHDOG=trigger"},
		"release":  {func(m *systemd.Manager) error { return m.Remove("a:b") }, "FDSTOREREMOVE=1\nFDNAME=a%3Ab"},
	} {
		t.Run(name, func(t *testing.T) {
			s := listenNotify(t)
			if err := c.send(systemd.New()); err != nil {
				t.Fatal(err)
			}
			if got, _ := s.next(t); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
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
	if err := systemd.New().Reloading(); err != nil {
		t.Fatal(err)
	}
	after := now()
	got, _ := s.next(t)
	usec, ok := strings.CutPrefix(got, "RELOADING=1\nMONOTONIC_USEC=")
	at, err := strconv.ParseInt(usec, 10, 64)
	if !ok || err != nil || at < before || at > after {
		t.Errorf("got %q, want RELOADING=1 and a time from %d to %d", got, before, after)
	}
}

func TestBarrier(t *testing.T) {
	s := listenNotify(t)
	m := systemd.New()
	passed := make(chan error, 1)
	go func() { passed <- m.Barrier(t.Context()) }()
	got, fds := s.next(t)
	if got != "BARRIER=1" || len(fds) != 1 {
		t.Fatalf("got %q with %d descriptors, want BARRIER=1 with one", got, len(fds))
	}
	select {
	case err := <-passed:
		t.Fatalf("got %v before the descriptor was closed", err)
	case <-time.After(50 * time.Millisecond):
	}
	unix.Close(fds[0])
	select {
	case err := <-passed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("not over although the descriptor is closed")
	}

	// A systemd that hangs is not waited for beyond the deadline.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Barrier(ctx); err == nil {
		t.Error("got no error from a barrier that was never passed")
	}
}

func TestNobodyIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m := systemd.New()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Attend(t.Context(), slog.New(slog.DiscardHandler), nil, nil)
	}()
	for name, err := range map[string]error{
		"ready": m.Ready(), "reloading": m.Reloading(), "stopping": m.Stopping(time.Second), "status": m.Status("x"),
		"fail": m.Fail(), "barrier": m.Barrier(t.Context()), "keep": m.Store(strings.Repeat("é", 200), &net.TCPListener{}), "release": m.Remove("x"),
	} {
		if err != nil {
			t.Errorf("%s: got %v without a systemd", name, err)
		}
	}
	<-ended
}

// A systemd that does not read must not hold the service up.
func TestDeafManager(t *testing.T) {
	listenNotify(t)
	m := systemd.New()
	begin := time.Now()
	for range 10_000 { // until its queue is full
		if err := m.Status("x"); err != nil {
			if took := time.Since(begin); took > patience {
				t.Errorf("took %v", took)
			}
			return
		}
	}
	t.Error("no error although nobody reads")
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
			m := systemd.New()
			if _, there := os.LookupEnv("WATCHDOG_PID"); there {
				t.Error("WATCHDOG_PID is left to successors")
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				m.Attend(ctx, slog.New(slog.DiscardHandler), func(context.Context) error { return nil }, func() string { return "fine" })
			}()
			first, _ := s.next(t)
			cancel()
			<-ended
			if got := first == "WATCHDOG=1"; got != c.want {
				t.Errorf("got %q first, want a word to the watchdog: %v", first, c.want)
			}
		})
	}
}

// The watchdog hears of a service that answers, and of that alone; the status
// is told when it changes.
func TestAttend(t *testing.T) {
	s := listenNotify(t)
	t.Setenv("WATCHDOG_USEC", "60000")
	var alive atomic.Bool
	alive.Store(true)
	var status atomic.Value
	status.Store("one")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		systemd.New().Attend(ctx, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			if !alive.Load() {
				<-ctx.Done()
			}
			return ctx.Err()
		}, func() string { return status.Load().(string) })
	}()
	var heard []string
	listen := func(until func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !until(); {
			if time.Now().After(end) {
				t.Fatalf("heard only %q", heard)
			}
			message, _ := s.next(t)
			heard = append(heard, message)
		}
	}
	count := func(message string) (n int) {
		for _, h := range heard {
			if h == message {
				n++
			}
		}
		return n
	}
	listen(func() bool { return count("WATCHDOG=1") >= 3 })
	if n := count("STATUS=one"); n != 1 {
		t.Errorf("the status was told %d times, want once", n)
	}
	alive.Store(false)
	status.Store("two")
	listen(func() bool { return count("STATUS=two") == 1 })
	before := count("WATCHDOG=1")
	status.Store("three")
	listen(func() bool { return count("STATUS=three") == 1 })
	if n := count("WATCHDOG=1") - before; n > 0 {
		t.Errorf("the watchdog was fed %d times by a service that hangs", n)
	}
	cancel()
	<-ended
	if !slices.Contains(heard, "STATUS=one") {
		t.Errorf("heard %q", heard)
	}
}
