package upgrade_test

import (
	"net"
	"strings"
	"testing"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade"
)

// freeEverywhere returns a port that is free on all addresses, and a listener that has it
// for IPv6 alone.
func freeEverywhere(t *testing.T) (port string, v6only net.Listener) {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	ln.Close()
	v6only, err = net.Listen("tcp6", "[::1]:"+port)
	if err != nil {
		tier.Needs(t, "IPv6", err.Error())
	}
	t.Cleanup(func() { v6only.Close() })
	return port, v6only
}

func TestListenIPv4Only(t *testing.T) {
	port, v6only := freeEverywhere(t)
	// Another server's, on all of IPv6.
	v6only.Close()
	other, err := net.Listen("tcp6", "[::]:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l := newLine(t)
	l.plan.Listen = []string{"unix:" + l.path("s"), "0.0.0.0:" + port}
	l.launch()
	if _, err := tryAt("tcp", "127.0.0.1:"+port); err != nil {
		t.Errorf("over IPv4: %v", err)
	}
	if o := l.upgrade(); o.Result != upgrade.Succeeded {
		t.Errorf("upgrade: got %+v", o)
	}
	if _, err := tryAt("tcp", "127.0.0.1:"+port); err != nil {
		t.Errorf("over IPv4 after an upgrade: %v", err)
	}
	if out := l.printed(); strings.Contains(out, "listener stays as it was bound") {
		t.Errorf("an upgrade warns of a listener that is as configured:\n%s", out)
	}
}

func TestListenFamilies(t *testing.T) {
	for name, test := range map[string]struct {
		listen string
		v6     bool
	}{
		"all of IPv4": {"0.0.0.0:", false},
		"all":         {":", true},
		"all of IPv6": {"[::]:", true},
	} {
		t.Run(name, func(t *testing.T) {
			port, v6only := freeEverywhere(t)
			v6only.Close()
			l := newLine(t)
			l.plan.Listen = []string{"unix:" + l.path("s"), test.listen + port}
			l.launch()
			if _, err := tryAt("tcp", "127.0.0.1:"+port); err != nil {
				t.Errorf("over IPv4: %v", err)
			}
			if _, err := tryAt("tcp", "[::1]:"+port); (err == nil) != test.v6 {
				t.Errorf("over IPv6: got %v, want an answer %v", err, test.v6)
			}
		})
	}
}

// A change that the listeners which go on are in the way of is refused with what to do.
func TestListenBesideAnInheritedListener(t *testing.T) {
	port, v6only := freeEverywhere(t)
	v6only.Close()
	l := newLine(t)
	s := "unix:" + l.path("s")
	l.plan.Listen = []string{s, ":" + port}
	l.launch()
	l.setPlan(func(p *plan) { p.Listen = []string{s, "0.0.0.0:" + port, "[::1]:" + port} })
	if o := l.upgrade(); o.Result != upgrade.Failed || !strings.Contains(strings.Join(o.Stderr, "\n"), "such a change needs a restart") {
		t.Errorf("got %+v", o)
	}
	l.setPlan(func(p *plan) { p.Listen = []string{s, "0.0.0.0:" + port} })
	if o := l.upgrade(); o.Result != upgrade.Succeeded {
		t.Errorf("from all addresses to those of IPv4: got %+v", o)
	}
	if out := l.printed(); !strings.Contains(out, "listener stays as it was bound") || !strings.Contains(out, "[::]:"+port) {
		t.Errorf("no warning of a listener for IPv6 too:\n%s", out)
	}
	l.setPlan(func(p *plan) { p.Listen = []string{s} })
}
