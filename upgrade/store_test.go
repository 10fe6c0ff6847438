package upgrade_test

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// held makes a socket that a store holds, and passes it to the first generation.
func (l *line) held(t *testing.T) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	l.passed = []*os.File{f}
	l.setPlan(func(p *plan) { p.Store = true })
	return ln.Addr().String()
}

// A socket that the store holds is served, through upgrades, and still its own at
// the stop; the others are kept once, and released when they are closed for good.
func TestHeldListener(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	address := l.held(t)
	l.setPlan(func(p *plan) { p.Listen = append(p.Listen, address, "127.0.0.1:0") })
	l.launch()
	l.upgrade()
	if a, err := tryAt("tcp", address); err != nil || a.Generation != 2 {
		t.Errorf("at the socket that is held: got %+v, %v, want an answer of generation 2", a, err)
	}
	l.setPlan(func(p *plan) { p.Listen = p.Listen[:2] })
	l.upgrade()
	// What a successor prints at its start comes by way of its predecessor.
	l.await("the release of the listener that was dropped", func() bool { return strings.Count(l.printed(), "msg=releases") == 1 })
	if n := strings.Count(l.printed(), "msg=keeps"); n != 2 {
		t.Errorf("kept %d times, want each of two listeners once", n)
	}
	status, err := l.status()
	if err != nil {
		t.Fatal(err)
	}
	before := len(l.printed())
	l.terminate(status.PID)
	at := l.printed()[before:]
	for ln, kept := range map[string]bool{address: true, l.path("s"): false} {
		if want := fmt.Sprintf("drains address=%s kept=%v", ln, kept); !strings.Contains(at, want) {
			t.Errorf("at the stop: want %q in\n%s", want, at)
		}
	}
	if n := strings.Count(at, "msg=releases"); n != 1 {
		t.Errorf("at the stop: released %d listeners, want the one that is not held", n)
	}
}

// Nobody would serve clients of a socket that is held and not listened at.
func TestHeldListenerMustBeClaimed(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	address := l.held(t)
	cmd := l.start()
	if err := cmd.Wait(); err == nil || !strings.Contains(l.printed(), "holds a socket at "+address) {
		t.Errorf("got %v, want an exit that names %s:\n%s", err, address, l.printed())
	}
}

// What only a successor that has died had in the store is released: whoever takes over binds such an address anew.
func TestStoreOfADeadSuccessor(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	held := l.held(t)
	l.plan.Drained = "wait " + l.latch("latch")
	l.setPlan(func(p *plan) { p.Listen = append(p.Listen, held) })
	l.launch()
	added := freeAddress(t)
	l.setPlan(func(p *plan) { p.Listen = append(p.Listen, added) })
	s := l.upgradeOn(2)
	syscall.Kill(s.PID, syscall.SIGKILL)
	l.awaitLine(3, 1)
	if a, err := tryAt("tcp", added); err != nil || a.Generation != 3 {
		t.Errorf("at the address that was added: got %+v, %v, want an answer of generation 3", a, err)
	}
	l.await("its release", func() bool { return strings.Count(l.printed(), "msg=releases") == 1 })
	if !strings.Contains(l.printed(), `msg=releases pid=`+strconv.Itoa(l.first.Process.Pid)+` name="{\"bound\":\"`+added) {
		t.Errorf("want %s released by generation 1", added)
	}
	os.Remove(l.path("latch"))
	l.awaitEnd(l.first.Process.Pid)
}
