// A service manager that speaks with the service as systemd does, so that every word of it is seen:
// it takes notifications, keeps descriptors, and starts the service with them.
package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the service manager of one service.
type manager struct {
	path     string        // NOTIFY_SOCKET
	watchdog time.Duration // 0: none

	mu     sync.Mutex
	notes  []note
	stored map[string]*os.File
	slow   time.Duration // how long a barrier is left standing
}

// note is one notification.
type note struct {
	at    time.Time
	pid   int
	lines []string
}

func (n note) has(line string) bool { return slices.Contains(n.lines, line) }

// value returns what follows NAME= in a notification, or "".
func (n note) value(name string) string {
	for _, line := range n.lines {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	return ""
}

// managed has a service started by a manager of its own, with that watchdog; 0: none.
func managed(t testing.TB, watchdog time.Duration) (*manager, option) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &manager{path: filepath.Join(dir, "notify"), watchdog: watchdog, stored: make(map[string]*os.File)}
	nc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.take(t, nc)
	}()
	t.Cleanup(func() {
		nc.Close()
		<-ended
		for _, f := range m.stored {
			f.Close()
		}
	})
	return m, func(s *setup) { s.manager = m }
}

// take reads notifications until the socket is closed.
func (m *manager) take(t testing.TB, nc *net.UnixConn) {
	packet, control := make([]byte, 4096), make([]byte, 4096)
	for {
		n, cn, _, _, err := nc.ReadMsgUnix(packet, control)
		if err != nil {
			return
		}
		got := note{at: time.Now(), lines: strings.Split(string(packet[:n]), "\n")}
		var fds []int
		messages, _ := unix.ParseSocketControlMessage(control[:cn])
		for _, message := range messages {
			if rights, err := unix.ParseUnixRights(&message); err == nil {
				fds = append(fds, rights...)
			}
			if cred, err := unix.ParseUnixCredentials(&message); err == nil {
				got.pid = int(cred.Pid)
			}
		}
		m.mu.Lock()
		m.notes = append(m.notes, got)
		switch name := got.value("FDNAME"); {
		case got.has("FDSTORE=1") && len(fds) == 1:
			// One that is there already is kept once, as systemd does.
			if m.stored[name] == nil {
				unix.CloseOnExec(fds[0])
				m.stored[name] = os.NewFile(uintptr(fds[0]), name)
				fds = nil
			}
		case got.has("FDSTOREREMOVE=1"):
			if f := m.stored[name]; f != nil {
				f.Close()
			} else {
				t.Errorf("FDSTOREREMOVE of %s: it is not there", name)
			}
			delete(m.stored, name)
		}
		slow := m.slow
		m.mu.Unlock()
		for _, fd := range fds { // a barrier's
			if slow > 0 {
				time.AfterFunc(slow, func() { unix.Close(fd) })
			} else {
				unix.Close(fd)
			}
		}
	}
}

// heard returns the notifications so far which have a line that begins so.
func (m *manager) heard(prefix string) (found []note) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.notes {
		if slices.ContainsFunc(n.lines, func(line string) bool { return strings.HasPrefix(line, prefix) }) {
			found = append(found, n)
		}
	}
	return found
}

// await waits for n notifications of which a line begins so; there must not be more.
func (m *manager) await(t testing.TB, prefix string, n int) []note {
	t.Helper()
	await(t, 5*time.Second, prefix, func() bool { return len(m.heard(prefix)) >= n })
	found := m.heard(prefix)
	if len(found) != n {
		t.Fatalf("got %v, want %d times %s", found, n, prefix)
	}
	return found
}

// awaitKept waits until so many listeners are in the store.
func (m *manager) awaitKept(t testing.TB, want int) {
	t.Helper()
	stored := func() []string {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.Collect(maps.Keys(m.stored))
	}
	if !holds(5*time.Second, func() bool { return len(stored()) == want }) {
		t.Fatalf("in the store: got %v, want %d listeners", stored(), want)
	}
}

// passed returns the descriptors with which the service is started, to be closed then, and the variables that a manager sets, those
// aside that hold the pid: they are for the shell that becomes the service.
func (s *setup) passed() (files []*os.File, variables []string) {
	var names []string
	add := func(name string, f *os.File) {
		// A copy: the manager may close its own while the service starts.
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		names, files = append(names, name), append(files, os.NewFile(uintptr(fd), name))
	}
	for name, f := range s.sockets {
		add(name, f)
	}
	if m := s.manager; m != nil {
		variables = append(variables, "NOTIFY_SOCKET="+m.path)
		if m.watchdog > 0 {
			variables = append(variables, "WATCHDOG_USEC="+strconv.FormatInt(m.watchdog.Microseconds(), 10))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for name, f := range m.stored {
			add(name, f)
		}
	}
	if len(files) > 0 {
		variables = append(variables, "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return files, variables
}

// socketUnit binds the service's address as a socket unit does, before the service is started.
func socketUnit(t testing.TB, address string) option {
	return func(s *setup) { s.bindFirst = append(s.bindFirst, address) }
}

// bindSockets makes the listeners of the socket units.
func (b *Baton) bindSockets() {
	b.t.Helper()
	for i, address := range b.setup.bindFirst {
		network, address := split(strings.Replace(b.expand(address), "PORT", freePort(b.t, b.Host), 1))
		ln, err := new(net.ListenConfig).Listen(context.Background(), network, address)
		if err != nil {
			b.t.Fatal(err)
		}
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			b.t.Fatal(err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		ln.Close()
		b.t.Cleanup(func() { f.Close() })
		b.setup.sockets[fmt.Sprintf("unit%d.socket", i)] = f
	}
}

// The manager hears of readiness, of each upgrade's begin and end, of the main process, and of the stop.
func TestManagerIsTold(t *testing.T) {
	t.Parallel()
	m, with := managed(t, 0)
	m.slow = 300 * time.Millisecond
	b := start(t, with, files(t), args("-idle-grace", "50ms"))
	first := b.PID()
	ready := m.await(t, "READY=1", 1)
	if ready[0].value("MAINPID") != strconv.Itoa(first) {
		t.Fatalf("at the start: got %v, want one READY=1 with the main process %d", ready, first)
	}

	b.DeployBytes([]byte("#!/bin/sh\nexit 3\n"), 0o755)
	if u := b.TryUpgrade(); u.Code != 1 {
		t.Fatalf("upgrade: got exit code %d, want 1", u.Code)
	}
	if ready := m.await(t, "READY=1", 2); ready[1].pid != first || ready[1].value("MAINPID") != strconv.Itoa(first) {
		t.Errorf("after a failed upgrade: got %v, want READY=1 of the generation that goes on", ready)
	}
	await(t, 10*time.Second, "the failed upgrade in the status", func() bool {
		said := m.heard("STATUS=")
		return strings.Contains(said[len(said)-1].value("STATUS"), "failed: ")
	})

	b.Deploy("v2")
	predecessor := b.follow(first)
	u := b.Upgrade()
	reloading := m.await(t, "RELOADING=1", 2)
	if reloading[1].pid != first {
		t.Fatalf("upgrades: got %v, want RELOADING=1 for each of two", reloading)
	}
	since := time.Since(reloading[1].at)
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	usec, _ := strconv.ParseInt(reloading[1].value("MONOTONIC_USEC"), 10, 64)
	if age := time.Duration(now.Nano()-usec*1000) - since; age < 0 || age > 5*time.Second {
		t.Errorf("MONOTONIC_USEC: %v before the message came, want a moment", age)
	}
	ready = m.await(t, "READY=1", 3)
	if ready[2].pid != u.PID || ready[2].value("MAINPID") != strconv.Itoa(u.PID) {
		t.Fatalf("after the upgrade: got %v, want READY=1 and MAINPID of the successor, %d", ready, u.PID)
	}
	b.awaitExit(first, 5*time.Second)
	var barrier note
	for _, n := range m.heard("BARRIER=1") {
		if n.pid == first {
			barrier = n
		}
	}
	if barrier.pid == 0 || barrier.at.Before(ready[2].at) || len(barrier.lines) != 1 {
		t.Errorf("before the predecessor's exit: got barrier %v, want one after the successor's MAINPID at %v", barrier, ready[2].at)
	}
	if after := predecessor.exited.Sub(barrier.at); after < m.slow {
		t.Errorf("the predecessor exited %v after it asked whether the manager knows its successor, and had no answer for %v", after, m.slow)
	}

	for _, said := range m.heard("STATUS=") {
		if said.pid == first && said.at.After(barrier.at.Add(-time.Millisecond)) || strings.Contains(said.value("STATUS"), "is exited") {
			t.Errorf("got %v, which only the successor could know better", said)
		}
	}
	if stopping := m.heard("STOPPING=1"); len(stopping) != 0 {
		t.Errorf("before the stop: got %v", stopping)
	}
	b.Stop()
	stopping := m.await(t, "STOPPING=1", 1)
	if stopping[0].pid != u.PID {
		t.Fatalf("at the stop: got %v, want STOPPING=1 of %d", stopping, u.PID)
	}
	// A drain of 30 s and what comes after it must not be cut by a unit that has not thought of it.
	if usec, _ := strconv.Atoi(stopping[0].value("EXTEND_TIMEOUT_USEC")); usec < 40e6 {
		t.Errorf("at the stop: got %v, want time for the drain", stopping[0].lines)
	}
}

// The watchdog hears from the generation that serves, and from it only; of one that hangs it hears nothing.
func TestWatchdogIsFed(t *testing.T) {
	t.Parallel()
	const watchdog = 600 * time.Millisecond
	m, with := managed(t, watchdog)
	var held atomic.Pointer[gate]
	b := start(t, with, args("-proxy", "/="+backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held.Load().ServeHTTP(w, r)
	}))))
	for n := 2; n <= 5; n++ {
		g := newGate(t)
		held.Store(g)
		slow := b.Dial() // keeps the predecessor in its drain
		slow.send(t, string(request("GET", "/hold", nil)))
		g.await(t, 1)
		result := b.UpgradeMeanwhile()
		await(t, 5*time.Second, "predecessor that drains", func() bool {
			s, err := b.TryStatus()
			return err == nil && s.Generation == n && s.Generations[0].State == "draining"
		})
		pid, since := b.Status().PID, time.Now()
		await(t, 5*time.Second, "two words of the generation that serves", func() bool {
			k := 0
			for _, note := range m.heard("WATCHDOG=1") {
				if note.at.After(since) && note.pid == pid {
					k++
				} else if note.at.After(since) {
					t.Fatalf("got a word of %d, which drains", note.pid)
				}
			}
			return k >= 2
		})
		g.open()
		slow.expect(t, "GET", 200)
		result()
	}
	if strings.Contains(b.Log(), "watchdog") {
		t.Error("the log tells of a watchdog that was not fed")
	}
	fed := m.heard("WATCHDOG=1")
	for i, note := range fed[1:] {
		if pause := note.at.Sub(fed[i].at); pause > watchdog {
			t.Errorf("the watchdog heard nothing for %v, which is more than %v", pause, watchdog)
		}
	}
	pid := b.PID()
	b.Kill(pid, syscall.SIGSTOP)
	await(t, 2*time.Second, "the stop", func() bool { return stopped(t, pid) })
	before := len(m.heard("WATCHDOG=1"))
	throughout(t, 2*watchdog, "silence of a process that hangs", func() bool { return len(m.heard("WATCHDOG=1")) == before })
	b.Kill(pid, syscall.SIGCONT)
}

// A watchdog that is meant for another process is none of ours.
func TestWatchdogOfAnother(t *testing.T) {
	t.Parallel()
	m, with := managed(t, 100*time.Millisecond)
	b := start(t, with, env("WATCHDOG_PID=1"), files(t))
	b.Upgrade()
	throughout(t, 300*time.Millisecond, "no word to the watchdog", func() bool { return len(m.heard("WATCHDOG=1")) == 0 })
}

// Listeners outlive a killed process: what connects meanwhile waits, and is served when the manager has
// started the service again.
func TestListenersOutliveTheProcess(t *testing.T) {
	t.Parallel()
	m, with := managed(t, 0)
	b := start(t, with, files(t), args("-idle-grace", "50ms"), listenInFile(),
		config("listen ADDRESS", "listen unix:DIR/s.sock", "listen HOST:0"))
	b.Upgrade()
	m.awaitKept(t, 4) // admin as well
	listened := b.Status().Listen
	pid := b.PID()
	b.Kill(pid, syscall.SIGKILL)
	b.awaitExit(pid, 5*time.Second)

	var waiting []*conn
	for _, address := range listened {
		if address == b.Admin {
			continue
		}
		network, address := split(address)
		c := mustDial(t, network, address)
		c.send(t, string(request("GET", "/100.bin", nil)))
		waiting = append(waiting, c)
	}
	b.launch()
	for _, c := range waiting {
		c.expectWithin(t, "GET", 200, 10*time.Second)
	}
	b.awaitReady()
	if again := b.Status().Listen; !slices.Equal(again, listened) {
		t.Errorf("listens at %q, want %q as before", again, listened)
	}
	m.awaitKept(t, 4)

	// An upgrade works as ever; a listener that the configuration drops leaves the store.
	b.Configure("listen ADDRESS\nlisten unix:DIR/s.sock\n")
	b.Deploy("v2")
	b.Upgrade()
	m.awaitKept(t, 3)
	b.Stop()
	m.awaitKept(t, 0)
}

// A successor that dies while its predecessor drains is the end of the service, of which the manager would not know;
// one that is told to stop is not.
func TestManagerIsToldOfAnOrphan(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			m, with := managed(t, 0)
			g := newGate(t)
			b := start(t, with, args("-proxy", "/="+backend(t, g), "-idle-grace", "50ms"))
			slow := b.Dial()
			slow.send(t, string(request("GET", "/hold", nil)))
			g.await(t, 1)
			predecessor := b.PID()
			result := b.UpgradeMeanwhile()
			await(t, 5*time.Second, "predecessor that drains", func() bool {
				s, err := b.TryStatus()
				return err == nil && s.Generation == 2 && s.Generations[0].State == "draining"
			})
			successor := b.PID()
			b.Kill(successor, sig)
			if sig == syscall.SIGKILL {
				trigger := m.await(t, "WATCHDOG=trigger", 1)
				if trigger[0].pid != predecessor {
					t.Errorf("told by %d, want the predecessor %d", trigger[0].pid, predecessor)
				}
			} else {
				m.await(t, "STOPPING=1", 1)
				time.Sleep(time.Second) // or it would be the same signal
				b.Kill(successor, sig)  // it does not wait any longer
				b.awaitExit(successor, 5*time.Second)
			}
			g.open()
			slow.expect(t, "GET", 200)
			b.awaitExit(predecessor, 5*time.Second)
			result()
			if sig == syscall.SIGTERM && len(m.heard("WATCHDOG=trigger")) > 0 {
				t.Error("a stop was taken for a failure")
			}
		})
	}
}

// A socket that a unit holds is served through upgrades, and left to the manager at a stop: what
// connects then waits for the next start.
func TestSocketUnit(t *testing.T) {
	t.Parallel()
	m, with := managed(t, 0)
	b := start(t, with, socketUnit(t, "ADDRESS"), files(t), args("-idle-grace", "50ms"))
	for range 2 {
		b.Get("/100.bin")
		b.Upgrade()
	}
	m.awaitKept(t, 1) // the admin listener
	b.Stop()
	c := b.Dial()
	c.send(t, string(request("GET", "/100.bin", nil)))
	b.launch()
	c.expectWithin(t, "GET", 200, 10*time.Second)
	b.awaitReady()
}

// A socket of a unit that nobody would serve is an error, not a place where clients wait for ever.
func TestSocketUnitThatIsNotServed(t *testing.T) {
	t.Parallel()
	b := prepare(t, socketUnit(t, "HOST:PORT"), files(t))
	p := b.launch()
	b.expectBad(p.pid)
	if !p.within(10*time.Second) || p.status.ExitStatus() != 1 {
		t.Fatalf("start: %s, want exit status 1", p.outcome())
	}
	if log := b.Log(); !strings.Contains(log, "the configuration does not listen there") {
		t.Errorf("got the message %s", log)
	}
}
