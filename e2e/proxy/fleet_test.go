package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/service"
)

// fleet are backends that are processes of their own, each restarted many times.
type fleet struct {
	t         *testing.T
	network   string
	addresses []string
	running   []*instance // by address
	all       []*instance
	log       string // of all of them
	announce  bool   // they announce a stop by their health path
}

// instance is one process of testdata/counting.
type instance struct {
	name   string
	cmd    *exec.Cmd
	said   chan string   // what it prints
	done   chan struct{} // closed when it has exited
	killed bool
	closed bool // its listener was closed while Baton connected to it
}

// newFleet starts n backends.
func newFleet(t *testing.T, network string, n int, announce bool) *fleet {
	t.Helper()
	// Not t.TempDir: the path of a unix socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "baton-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fleet{t: t, network: network, announce: announce, log: filepath.Join(dir, "log"), running: make([]*instance, n)}
	host := service.Loopback()
	for i := range n {
		address := filepath.Join(dir, fmt.Sprint(i))
		if network == "tcp" {
			address = host + ":" + service.FreePort(t, host)
		}
		f.addresses = append(f.addresses, address)
	}
	t.Cleanup(func() {
		for _, x := range f.all {
			x.cmd.Process.Kill()
			<-x.done
		}
	})
	for i := range n {
		f.start(i).await(t, "ready")
	}
	return f
}

// targets returns the flags of a proxy in front of the fleet.
func (f *fleet) targets() (flags []string) {
	for _, address := range f.addresses {
		target := "/=http://" + address
		if f.network == "unix" {
			target = "/=unix:" + address
		}
		flags = append(flags, "-proxy", target)
	}
	return flags
}

// start starts a backend, which listens as soon as its address is free.
func (f *fleet) start(i int) *instance {
	f.t.Helper()
	x := &instance{name: fmt.Sprintf("%d.%d", i, len(f.all)), said: make(chan string, 2), done: make(chan struct{})}
	x.cmd = exec.Command(build.Version(f.t, build.Counting), "-network", f.network, "-address", f.addresses[i], "-name", x.name, "-log", f.log, "-announce="+fmt.Sprint(f.announce))
	x.cmd.Stderr = os.Stderr
	stdout, err := x.cmd.StdoutPipe()
	if err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	go func() {
		defer close(x.done)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			x.said <- lines.Text()
		}
		close(x.said)
		x.cmd.Wait()
	}()
	f.running[i] = x
	f.all = append(f.all, x)
	return x
}

// await waits until the process has printed a word.
func (x *instance) await(t *testing.T, word string) {
	t.Helper()
	select {
	case said := <-x.said: // nothing if it has exited
		if said != word {
			t.Fatalf("backend %s: got %q, want %q", x.name, said, word)
		}
	case <-time.After(await.Hang):
		t.Fatalf("backend %s: nothing, want %q", x.name, word)
	}
}

// stop lets a backend stop in order, and returns when it accepts no more. It finishes what it has.
func (x *instance) stop(t *testing.T) {
	t.Helper()
	x.cmd.Process.Signal(syscall.SIGTERM)
	x.await(t, "closed")
}

// kill kills a backend.
func (f *fleet) kill(i int) {
	f.running[i].killed = true
	f.running[i].cmd.Process.Kill()
	<-f.running[i].done
}

// delivery is what one backend wrote down of a request.
type delivery struct {
	instance *instance
	method   string
	hash     string // of its body; empty: it has not come in whole
	ended    bool   // all of the response was in the socket
}

// deliveries returns what became of each request, by its id.
func (f *fleet) deliveries() map[string][]*delivery {
	f.t.Helper()
	content, err := os.ReadFile(f.log)
	if err != nil {
		f.t.Fatal(err)
	}
	byName := make(map[string]*instance)
	for _, x := range f.all {
		byName[x.name] = x
	}
	all := make(map[string][]*delivery)
	latest := make(map[string]*delivery) // by instance and id
	for line := range bytes.Lines(content) {
		field := strings.Fields(string(line))
		if len(field) != 4 {
			f.t.Fatalf("log of the backends: %q", line)
		}
		key := field[0] + " " + field[2]
		switch d := latest[key]; field[1] {
		case "begin":
			d = &delivery{instance: byName[field[0]], method: field[3]}
			latest[key], all[field[2]] = d, append(all[field[2]], d)
		case "body":
			d.hash = field[3]
		case "end":
			d.ended = true
		}
	}
	return all
}
