package service

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
)

// manager is the service manager of one service.
type manager struct {
	path     string        // NOTIFY_SOCKET
	watchdog time.Duration // 0: none

	mu     sync.Mutex
	notes  []Note
	stored map[string]*os.File
	Slow   time.Duration // how long a barrier is left standing
}

// Note is one notification.
type Note struct {
	At    time.Time
	Pid   int
	Lines []string
}

func (n Note) has(line string) bool { return slices.Contains(n.Lines, line) }

// Value returns what follows NAME= in a notification, or "".
func (n Note) Value(name string) string {
	for _, line := range n.Lines {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	return ""
}

// Managed has a service started by a manager of its own, with that watchdog; 0: none.
func Managed(t testing.TB, watchdog time.Duration) (*manager, Option) {
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
	return m, func(s *Setup) { s.manager = m }
}

// take reads notifications until the socket is closed.
func (m *manager) take(t testing.TB, nc *net.UnixConn) {
	packet, control := make([]byte, 4096), make([]byte, 4096)
	for {
		n, cn, _, _, err := nc.ReadMsgUnix(packet, control)
		if err != nil {
			return
		}
		got := Note{At: time.Now(), Lines: strings.Split(string(packet[:n]), "\n")}
		var fds []int
		messages, _ := unix.ParseSocketControlMessage(control[:cn])
		for _, message := range messages {
			if rights, err := unix.ParseUnixRights(&message); err == nil {
				fds = append(fds, rights...)
			}
			if cred, err := unix.ParseUnixCredentials(&message); err == nil {
				got.Pid = int(cred.Pid)
			}
		}
		m.mu.Lock()
		m.notes = append(m.notes, got)
		switch name := got.Value("FDNAME"); {
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
		slow := m.Slow
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

// Heard returns the notifications so far which have a line that begins so.
func (m *manager) Heard(prefix string) (found []Note) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.notes {
		if slices.ContainsFunc(n.Lines, func(line string) bool { return strings.HasPrefix(line, prefix) }) {
			found = append(found, n)
		}
	}
	return found
}

// Await waits for n notifications of which a line begins so; there must not be more.
func (m *manager) Await(t testing.TB, prefix string, n int) []Note {
	t.Helper()
	await.Until(t, prefix, func() bool { return len(m.Heard(prefix)) >= n })
	found := m.Heard(prefix)
	if len(found) != n {
		t.Fatalf("got %v, want %d times %s", found, n, prefix)
	}
	return found
}

// AwaitKept waits until so many listeners are in the store.
func (m *manager) AwaitKept(t testing.TB, want int) {
	t.Helper()
	stored := func() []string {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.Collect(maps.Keys(m.stored))
	}
	if !await.Holds(await.Hang, func() bool { return len(stored()) == want }) {
		t.Fatalf("in the store: got %v, want %d listeners", stored(), want)
	}
}

// passed returns the descriptors with which the service is started, to be closed then, and the variables that a manager sets, those
// aside that hold the pid: they are for the shell that becomes the service.
func (s *Setup) passed() (files []*os.File, variables []string) {
	var names []string
	add := func(name string, f *os.File) {
		// A copy: the manager may close its own while the service starts.
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		names, files = append(names, name), append(files, os.NewFile(uintptr(fd), name))
	}
	for name, f := range s.Sockets {
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

// SocketUnit binds the service's address as a socket unit does, before the service is started.
func SocketUnit(t testing.TB, address string) Option {
	return func(s *Setup) { s.bindFirst = append(s.bindFirst, address) }
}

// bindSockets makes the listeners of the socket units.
func (b *Baton) bindSockets() {
	b.T.Helper()
	for i, address := range b.Setup.bindFirst {
		network, address := SplitAddress(strings.Replace(b.Expand(address), "PORT", FreePort(b.T, b.Host), 1))
		ln, err := new(net.ListenConfig).Listen(context.Background(), network, address)
		if err != nil {
			b.T.Fatal(err)
		}
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			b.T.Fatal(err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		ln.Close()
		b.T.Cleanup(func() { f.Close() })
		b.Setup.Sockets[fmt.Sprintf("unit%d.socket", i)] = f
	}
}
