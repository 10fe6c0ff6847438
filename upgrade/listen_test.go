package upgrade_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

func TestSecondServer(t *testing.T) {
	for name, change := range map[string]func(l *line, p *plan){
		"same control socket": func(l *line, p *plan) { p.Listen, p.PIDFile = []string{"unix:" + l.path("s2")}, l.path("pid2") },
		"same PID file":       func(l *line, p *plan) { p.Listen, p.Control = []string{"unix:" + l.path("s2")}, l.path("control2") },
		"same address":        func(l *line, p *plan) { p.PIDFile, p.Control = l.path("pid2"), l.path("control2") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.launch()
			before, good := l.who(), l.plan
			l.setPlan(func(p *plan) { change(l, p) })
			second := l.start()
			var exit *exec.ExitError
			if err := second.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("second server: got %v, want exit 1", err)
			}
			l.setPlan(func(p *plan) { *p = good })
			if out := l.printed(); !strings.Contains(out, "generation: claim") || !strings.Contains(out, "; stop that one, or use another") {
				t.Errorf("it did not say what is wrong and what to do:\n%s", out)
			}
			if now := l.who(); now.PID != before.PID || l.pidFile() != before.PID {
				t.Errorf("got %+v and PID file %d, want pid %d undisturbed", now, l.pidFile(), before.PID)
			}
			if o := l.upgrade(); o.Result != upgrade.Succeeded {
				t.Errorf("upgrade of the first: got %+v", o)
			}
		})
	}
}

// A server that was killed leaves names behind that belong to nobody.
func TestStartAfterKill(t *testing.T) {
	l := newLine(t)
	l.launch()
	l.first.Process.Kill()
	l.first.Wait()
	for _, name := range []string{"s", "control", "pid"} {
		if _, err := os.Lstat(l.path(name)); err != nil {
			t.Fatalf("%s is not left behind; the test shows nothing", name)
		}
	}
	l.launch()
	if a := l.who(); a.PID != l.first.Process.Pid || l.pidFile() != a.PID {
		t.Errorf("got %+v and PID file %d, want the new server", a, l.pidFile())
	}
}

func TestListenersComeAndGo(t *testing.T) {
	free := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		return port
	}
	kept, wild, dropped, added := free(), free(), free(), free()
	l := newLine(t)
	s, gone := "unix:"+l.path("s"), "unix:"+l.path("gone")
	l.plan.Listen = []string{s, "127.0.0.1:" + kept, ":" + wild, "127.0.0.1:" + dropped, gone}
	l.launch()
	open := func(port string) bool { _, err := tryAt("tcp", "127.0.0.1:"+port); return err == nil }
	for _, port := range []string{kept, wild, dropped} {
		if !open(port) {
			t.Fatalf("port %s does not answer", port)
		}
	}
	// Another spelling of the same address finds the same socket.
	l.setPlan(func(p *plan) { p.Listen = []string{s, "localhost:" + kept, "0.0.0.0:" + wild, "127.0.0.1:" + added} })
	o := l.upgrade()
	if o.Result != upgrade.Succeeded {
		t.Fatalf("got %+v", o)
	}
	for port, want := range map[string]bool{kept: true, wild: true, added: true, dropped: false} {
		if got := open(port); got != want {
			t.Errorf("port %s: got open %v, want %v", port, got, want)
		}
	}
	if _, err := os.Lstat(l.path("gone")); err == nil {
		t.Error("the path of the dropped unix socket is left behind")
	}
	// A change that no one socket can follow is refused with what to do.
	l.setPlan(func(p *plan) { p.Listen = []string{s, ":" + kept} })
	if o := l.upgrade(); o.Result != upgrade.Failed || !strings.Contains(strings.Join(o.Stderr, "\n"), "such a change needs a restart") {
		t.Errorf("from one address to all: got %+v", o)
	}
	l.setPlan(func(p *plan) { p.Listen = []string{s, s} })
	if o := l.upgrade(); o.Result != upgrade.Failed || !strings.Contains(strings.Join(o.Stderr, "\n"), "given twice") {
		t.Errorf("an address given twice: got %+v", o)
	}
	if !open(kept) {
		t.Error("a failed upgrade has closed a listener")
	}
	l.setPlan(func(p *plan) { p.Listen = []string{s} })
}

// Each of two listeners on port 0 keeps the port that it got.
func TestPortZeroIsKept(t *testing.T) {
	tier.Slow(t, "takes many ports")
	l := newLine(t)
	l.plan.Listen = []string{"unix:" + l.path("s"), "127.0.0.1:0", "127.0.0.1:0"}
	l.launch()
	before := ports(t, l.who().PID)
	l.upgrade()
	l.upgrade()
	after := ports(t, l.who().PID)
	if len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("got ports %v, want %v as before", after, before)
	}
}

// ports lists the TCP ports that a process listens on.
func ports(t *testing.T, pid int) (ports []string) {
	t.Helper()
	sockets := make(map[string]bool)
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		sockets[to] = true
	}
	table, err := os.Open(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for rows := bufio.NewScanner(table); rows.Scan(); {
		if f := strings.Fields(rows.Text()); len(f) > 9 && f[3] == "0A" && sockets["socket:["+f[9]+"]"] {
			ports = append(ports, f[1])
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
