package upgrade

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Listeners through upgrades: they come and go with the configuration file, and what stays is never unbound.

func TestListenersComeAndGo(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.ListenInFile(), service.Config("listen ADDRESS", "listen unix:DIR/a.sock"), service.Files(t), service.Args("-idle-grace", "100ms"))
	added := net.JoinHostPort(b.Host, service.FreePort(t, b.Host))
	kept, gone, came := filepath.Join(b.Dir, "a.sock"), b.Address, filepath.Join(b.Dir, "b.sock")
	if !http1.Answers("tcp", gone) || !http1.Answers("unix", kept) {
		t.Fatal("first configuration: a listener does not answer")
	}

	b.Configure(fmt.Sprintf("listen unix:DIR/a.sock\nlisten %s\nlisten unix:DIR/b.sock\n", added))
	b.Upgrade()
	if !http1.Answers("tcp", added) || !http1.Answers("unix", kept) || !http1.Answers("unix", came) {
		t.Error("second configuration: a listener does not answer")
	}
	if c, err := http1.Dial("tcp", gone, time.Second); err == nil {
		c.Close()
		t.Errorf("dropped listener %s: got a connection, want it refused", gone)
	}

	b.Configure(fmt.Sprintf("listen ADDRESS\nlisten %s\n", added))
	b.Upgrade()
	b.Configure("listen ADDRESS\n")
	b.Upgrade()
	if !http1.Answers("tcp", gone) {
		t.Errorf("listener %s that was dropped and came back: does not answer", gone)
	}
	if c, err := http1.Dial("tcp", added, time.Second); err == nil {
		c.Close()
		t.Errorf("dropped listener %s: got a connection, want it refused", added)
	}
	for _, path := range []string{kept, came} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("dropped unix socket %s: still there", path)
		}
	}
}

func TestAdminListenerMoves(t *testing.T) {
	t.Parallel()
	host := service.Loopback()
	old, next := net.JoinHostPort(host, service.FreePort(t, host)), net.JoinHostPort(host, service.FreePort(t, host))
	b := service.Prepare(t, service.Config("admin "+old), service.Files(t), service.AdminInFile(), service.Args("-idle-grace", "100ms"))
	b.Admin = old
	b.Launch()
	b.AwaitReady()
	b.Configure("admin " + next)
	b.Upgrade()
	b.Admin = next
	service.CheckServes(t, b, 2, b.PID())
	if c, err := http1.Dial("tcp", old, time.Second); err == nil {
		c.Close()
		t.Errorf("former admin address %s: got a connection, want it refused", old)
	}
}

func TestPortZeroIsKept(t *testing.T) {
	tier.Slow(t, "upgrades with ports that the kernel picks")
	t.Parallel()
	b := service.Start(t, service.Listen("HOST:0"), service.Files(t), service.Args("-idle-grace", "100ms"))
	before := process.ListeningAt(t, b.PID())
	if len(before) != 2 {
		t.Fatalf("listening on %v, want the public and the admin port", before)
	}
	for range 2 {
		b.Upgrade()
		if got := process.ListeningAt(t, b.PID()); !slices.Equal(got, before) {
			t.Errorf("listening on: got %v, want %v as before", got, before)
		}
	}
	public := slices.DeleteFunc(before, func(a string) bool { return a == b.Admin })
	if len(public) != 1 || !http1.Answers("tcp", public[0]) {
		t.Errorf("public listener %v: does not answer", public)
	}
}

func TestListenerSpelledDifferently(t *testing.T) {
	t.Parallel()
	tests := []struct{ before, after string }{
		{"127.0.0.1:%s", "localhost:%s"},
		{"localhost:%s", "127.0.0.1:%s"},
		{"127.0.0.1:%s", "127.0.0.1:0%s"},
		{":%s", "[::]:%s"},
		{"0.0.0.0:%s", ":%s"},
		{":%s", "0.0.0.0:%s"},
	}
	for _, tt := range tests {
		t.Run(tt.before+" "+tt.after, func(t *testing.T) {
			t.Parallel()
			port := freePortEverywhere(t)
			b := service.Start(t, service.Listen("127.0.0.1:"+port), service.ListenInFile(), service.Config("listen "+fmt.Sprintf(tt.before, port)), service.Files(t), service.Args("-idle-grace", "100ms"))
			l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files()}
			l.Clients = [load.Habits]int{load.Pausing: 4, load.PerRequest: 1}
			counts, stop := load.Start(t, l)
			for i, spelling := range []string{tt.after, tt.before} {
				b.Configure("listen " + fmt.Sprintf(spelling, port))
				b.Upgrade()
				before := counts.Requests()
				await.Until(t, fmt.Sprintf("requests after upgrade %d", i+1), func() bool { return counts.Requests() > before+10 })
			}
			if stop().Failures() != 0 {
				t.Error(counts)
			}
		})
	}
}

var ports atomic.Int32 // counts what freePortEverywhere has looked at

// freePortEverywhere returns a port that is free on all addresses, and below those that the kernel gives
// to outgoing connections: any of those would be in the way of a listener on all addresses.
func freePortEverywhere(t *testing.T) string {
	t.Helper()
	for range 100 {
		// Not at random: tests that run at the same time must not meet.
		port := strconv.Itoa(10_000 + (os.Getpid()*131+int(ports.Add(1)))%20_000)
		if ln, err := net.Listen("tcp", ":"+port); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("found no free port")
	return ""
}

func TestUnixSocketSurvives(t *testing.T) {
	t.Parallel()
	tier.Tool(t, "sh")
	b := service.Start(t, service.Listen("unix:DIR/public.sock"), service.Files(t), service.Args("-idle-grace", "100ms"))
	inode := func() uint64 {
		t.Helper()
		var st syscall.Stat_t
		if err := syscall.Lstat(b.Address, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	before := inode()
	l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files()}
	l.Clients = [load.Habits]int{load.Pausing: 2, load.PerRequest: 2}
	counts, stop := load.Start(t, l)
	for range 3 {
		b.Upgrade()
		b.DeployBytes(files.Script("exit 1"), 0o755)
		if u := b.TryUpgrade(); u.Code != 1 {
			t.Errorf("bad upgrade: got exit code %d, want 1", u.Code)
		}
		b.Deploy("v1")
		if got := inode(); got != before {
			t.Errorf("the socket: got inode %d, want %d as before", got, before)
		}
	}
	if stop().Failures() != 0 {
		t.Error(counts)
	}
	load.CheckKept(t, counts, l.Clients)
	b.Stop()
	if _, err := os.Lstat(b.Address); err == nil {
		t.Error("the socket: still there after the stop")
	}
}

func TestStaleSocketsAfterKill(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Listen("unix:DIR/public.sock"), service.Files(t))
	pid := b.PID()
	b.Kill(pid, syscall.SIGKILL)
	b.AwaitExit(pid)
	if _, err := os.Lstat(b.Address); err != nil {
		t.Fatalf("the socket after SIGKILL: %v, want it there", err)
	}
	// Public socket, control socket and PID file are all left over.
	b.Launch()
	b.AwaitReady()
	service.CheckServes(t, b, 1, b.PID())
	b.Upgrade()
	service.CheckServes(t, b, 2, b.PID())
}

// What is in the way is only removed if it is a socket.
func TestFileInTheWayOfASocket(t *testing.T) {
	t.Parallel()
	b := service.Prepare(t, service.Listen("unix:DIR/public.sock"), service.Files(t))
	if err := os.WriteFile(b.Address, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := b.Run(b.Flags()...)
	if code != 1 || !strings.Contains(stderr, b.Address) {
		t.Errorf("start: got exit code %d, stderr %q, want 1 and the path", code, stderr)
	}
	if content, _ := os.ReadFile(b.Address); string(content) != "precious" {
		t.Errorf("the file: got %q, want it untouched", content)
	}
}
