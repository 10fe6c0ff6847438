// Listeners through upgrades: they come and go with the configuration file, and what stays is never unbound.
package e2e

import (
	"bufio"
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
)

func answers(network, address string) bool {
	resp, err := fetch(network, address, "GET", "/100.bin")
	return err == nil && resp.Status == 200
}

func TestListenersComeAndGo(t *testing.T) {
	t.Parallel()
	b := start(t, listenInFile(), config("listen ADDRESS", "listen unix:DIR/a.sock"), files(t), args("-idle-grace", "100ms"))
	added := net.JoinHostPort(b.Host, freePort(t, b.Host))
	kept, gone, came := filepath.Join(b.Dir, "a.sock"), b.Address, filepath.Join(b.Dir, "b.sock")
	if !answers("tcp", gone) || !answers("unix", kept) {
		t.Fatal("first configuration: a listener does not answer")
	}

	b.Configure(fmt.Sprintf("listen unix:DIR/a.sock\nlisten %s\nlisten unix:DIR/b.sock\n", added))
	b.Upgrade()
	if !answers("tcp", added) || !answers("unix", kept) || !answers("unix", came) {
		t.Error("second configuration: a listener does not answer")
	}
	if c, err := dial("tcp", gone, time.Second); err == nil {
		c.Close()
		t.Errorf("dropped listener %s: got a connection, want it refused", gone)
	}

	b.Configure(fmt.Sprintf("listen ADDRESS\nlisten %s\n", added))
	b.Upgrade()
	b.Configure("listen ADDRESS\n")
	b.Upgrade()
	if !answers("tcp", gone) {
		t.Errorf("listener %s that was dropped and came back: does not answer", gone)
	}
	if c, err := dial("tcp", added, time.Second); err == nil {
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
	host := loopback()
	old, next := net.JoinHostPort(host, freePort(t, host)), net.JoinHostPort(host, freePort(t, host))
	b := prepare(t, config("admin "+old), files(t), adminInFile(), args("-idle-grace", "100ms"))
	b.Admin = old
	b.launch()
	b.awaitReady()
	b.Configure("admin " + next)
	b.Upgrade()
	b.Admin = next
	checkServes(t, b, 2, b.PID())
	if c, err := dial("tcp", old, time.Second); err == nil {
		c.Close()
		t.Errorf("former admin address %s: got a connection, want it refused", old)
	}
}

func TestPortZeroIsKept(t *testing.T) {
	t.Parallel()
	b := start(t, listen("HOST:0"), files(t), args("-idle-grace", "100ms"))
	before := listening(t, b.PID())
	if len(before) != 2 {
		t.Fatalf("listening on %v, want the public and the admin port", before)
	}
	for range 2 {
		b.Upgrade()
		if got := listening(t, b.PID()); !slices.Equal(got, before) {
			t.Errorf("listening on: got %v, want %v as before", got, before)
		}
	}
	public := slices.DeleteFunc(before, func(a string) bool { return a == b.Admin })
	if len(public) != 1 || !answers("tcp", public[0]) {
		t.Errorf("public listener %v: does not answer", public)
	}
}

// listening returns the IPv4 addresses that a process listens on, in order.
func listening(t *testing.T, pid int) (addresses []string) {
	t.Helper()
	inodes := make(map[string]bool)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		const listen = "0A"
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != listen || !inodes[f[9]] {
			continue
		}
		ip, port, _ := strings.Cut(f[1], ":")
		a, err1 := strconv.ParseUint(ip, 16, 32)
		p, err2 := strconv.ParseUint(port, 16, 16)
		if err1 != nil || err2 != nil {
			t.Fatalf("/proc/net/tcp: %s", lines.Text())
		}
		addresses = append(addresses, fmt.Sprintf("%d.%d.%d.%d:%d", byte(a), byte(a>>8), byte(a>>16), byte(a>>24), p))
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

func TestListenerSpelledDifferently(t *testing.T) {
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
			b := start(t, listen("127.0.0.1:"+port), listenInFile(), config("listen "+fmt.Sprintf(tt.before, port)), files(t), args("-idle-grace", "100ms"))
			l := load{network: b.Network, address: b.Address, grace: b.grace(), exchanges: fileExchanges()}
			l.clients = [habits]int{pausing: 4, perRequest: 1}
			counts, stop := startLoad(t, l)
			for i, spelling := range []string{tt.after, tt.before} {
				b.Configure("listen " + fmt.Sprintf(spelling, port))
				b.Upgrade()
				before := counts.Requests()
				await(t, 5*time.Second, fmt.Sprintf("requests after upgrade %d", i+1), func() bool { return counts.Requests() > before+10 })
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
	need(t, "sh")
	b := start(t, listen("unix:DIR/public.sock"), files(t), args("-idle-grace", "100ms"))
	inode := func() uint64 {
		t.Helper()
		var st syscall.Stat_t
		if err := syscall.Lstat(b.Address, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	before := inode()
	l := load{network: b.Network, address: b.Address, grace: b.grace(), exchanges: fileExchanges()}
	l.clients = [habits]int{pausing: 2, perRequest: 2}
	counts, stop := startLoad(t, l)
	for range 3 {
		b.Upgrade()
		b.DeployBytes(script("exit 1"), 0o755)
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
	checkKept(t, counts, l.clients)
	b.Stop()
	if _, err := os.Lstat(b.Address); err == nil {
		t.Error("the socket: still there after the stop")
	}
}

func TestStaleSocketsAfterKill(t *testing.T) {
	t.Parallel()
	b := start(t, listen("unix:DIR/public.sock"), files(t))
	pid := b.PID()
	b.Kill(pid, syscall.SIGKILL)
	b.awaitExit(pid, 5*time.Second)
	if _, err := os.Lstat(b.Address); err != nil {
		t.Fatalf("the socket after SIGKILL: %v, want it there", err)
	}
	// Public socket, control socket and PID file are all left over.
	b.launch()
	b.awaitReady()
	checkServes(t, b, 1, b.PID())
	b.Upgrade()
	checkServes(t, b, 2, b.PID())
}

// What is in the way is only removed if it is a socket.
func TestFileInTheWayOfASocket(t *testing.T) {
	t.Parallel()
	b := prepare(t, listen("unix:DIR/public.sock"), files(t))
	if err := os.WriteFile(b.Address, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := b.run(b.Flags()...)
	if code != 1 || !strings.Contains(stderr, b.Address) {
		t.Errorf("start: got exit code %d, stderr %q, want 1 and the path", code, stderr)
	}
	if content, _ := os.ReadFile(b.Address); string(content) != "precious" {
		t.Errorf("the file: got %q, want it untouched", content)
	}
}
