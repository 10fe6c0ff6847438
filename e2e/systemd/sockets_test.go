package systemd

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/service"
)

// Listeners that systemd has: of a socket unit, and in its file descriptor store, where they outlive a crash.

// activated is installed, started by the first connection to baton.socket.
func activated(t *testing.T, lines ...string) *machine.Unit {
	t.Helper()
	u := machine.Installed(t, lines...)
	u.DropIn("baton.socket", "address", "[Socket]", "ListenStream=", "ListenStream=HOST:80")
	u.Must("systemctl", "start", "baton.socket")
	if got := u.Show("baton.service", "ActiveState"); got != "inactive" {
		t.Fatalf("before the first connection: the service is %s, want inactive", got)
	}
	resp, err := http1.Fetch("tcp", u.Address, "GET", "/100.bin")
	if err != nil || resp.Status != 200 {
		t.Fatalf("first connection: got %+v, %v, want 200\n%s", resp, err, u.Log())
	}
	u.Await(t, "active service", func() bool { return u.Show("baton.service", "ActiveState") == "active" })
	return u
}

func TestSystemdSocketActivation(t *testing.T) {
	t.Parallel()
	u := activated(t)
	u.CheckServes(t, 1, "v1")
	counts, endLoad := u.SmallLoad(t)
	for i := range 3 {
		version := []string{"v2", "v1"}[i%2]
		u.Deploy(version)
		u.Reload()
		u.CheckServes(t, i+2, version)
	}
	endLoad()
	if counts.Failures() != 0 {
		t.Errorf("requests lost: %v", counts)
	}
	if n := u.Stored(); n != 1 {
		t.Errorf("descriptors in the store: got %d, want 1, of the admin listener: the other is the socket unit's", n)
	}
	if got := u.Show("baton.socket", "SubState"); got != "running" {
		t.Errorf("baton.socket: got %s, want running", got)
	}
}

// The queue is systemd's: whoever connects while the service stops is served by the next one.
func TestSystemdSocketKeepsTheQueue(t *testing.T) {
	t.Parallel()
	u := activated(t)
	u.Reload() // so that it is a successor that stops
	main := u.MainPID()
	// The main process cannot accept while it is held: these wait in the queue.
	u.Hold(main)
	var waiting []*http1.Conn
	for range 20 {
		c := http1.MustDial(t, "tcp", u.Address)
		c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		waiting = append(waiting, c)
	}
	stop := u.Meanwhile("systemctl", "stop", "baton")
	u.Await(t, "stop", func() bool { return u.Show("baton.service", "ActiveState") == "deactivating" })
	u.Kill("CONT", main)
	if r := u.Wait("systemctl stop", stop, time.Minute); r.Code != 0 {
		t.Errorf("systemctl stop: got exit code %d, want 0: %s", r.Code, r.Out)
	}
	// What the stopping generation did not answer, the one that systemd starts for it does.
	for i, c := range waiting {
		resp := new(http1.Response)
		c.SetReadDeadline(time.Now().Add(await.Hang))
		if err := c.Receive("GET", resp); err != nil || resp.Status != 200 {
			t.Fatalf("connection %d of those that waited: got status %d, %v, want 200\n%s", i+1, resp.Status, err, service.Tail(u.Log(), 30))
		}
	}
	u.Must("systemctl", "start", "baton")
	u.CheckServes(t, 1, "v1")
}

// The shipped socket unit has a port without an address, and so has the shipped configuration.
func TestSystemdSocketAsShipped(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t)
	port := service.FreePort(t, "")
	u.DropIn("baton.socket", "address", "[Socket]", "ListenStream=", "ListenStream="+port)
	u.ConfigureOnly("listen :"+port, "admin "+u.Admin, "root /srv/baton")
	u.Must("systemctl", "start", "baton.socket")
	for range 2 {
		for _, host := range []string{"127.0.0.1", "::1"} {
			address := net.JoinHostPort(host, port)
			if resp, err := http1.Fetch("tcp", address, "GET", "/100.bin"); err != nil || resp.Status != 200 {
				t.Fatalf("%s: got %+v, %v, want 200\n%s", address, resp, err, u.Log())
			}
		}
		u.Reload()
	}
}

// A socket that nobody would accept from is a mistake, and said so.
func TestSystemdSocketWithoutListen(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t)
	u.DropIn("baton.socket", "address", "[Socket]", "ListenStream=", "ListenStream=HOST:81")
	u.Must("systemctl", "start", "baton.socket")
	if out, code := u.Run("systemctl", "start", "baton"); code == 0 {
		t.Errorf("systemctl start: got exit code 0: %s", out)
	}
	if log := u.Log(); !strings.Contains(log, u.Host+":81") {
		t.Errorf("journal: got\n%s\nwant %s:81 mentioned", service.Tail(log, 10), u.Host)
	}
	u.Configure("listen HOST:81")
	// systemd goes on trying.
	u.Await(t, "service that is mended", func() bool { return http1.Answers("tcp", net.JoinHostPort(u.Host, "81")) })
}

// While a crash loop lasts, connections wait, and systemd does not give up.
func TestSystemdNeverGivesUp(t *testing.T) {
	t.Parallel()
	u := activated(t)
	u.DeployScript("exit 1")
	u.Kill("KILL", u.MainPID())
	c := http1.MustDial(t, "tcp", u.Address)
	c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	u.Await(t, "restarts, more than systemd's usual limits", func() bool {
		return u.Restarts() > 10
	})
	u.Deploy("v2")
	c.Expect(t, "GET", 200)
	u.CheckServes(t, 1, "v2")
}

func TestSystemdCrashUnderLoad(t *testing.T) {
	t.Parallel()
	const crashes = 5
	u := machine.Running(t)
	if n := u.Stored(); n != 2 {
		t.Fatalf("descriptors in the store: got %d, want 2, of the public and the admin listener", n)
	}
	counts, endLoad := u.SmallLoad(t)
	for i := range crashes {
		before := counts.Requests()
		u.Await(t, "load", func() bool { return counts.Requests() > before+200 })
		u.Kill("KILL", u.MainPID())
		u.Await(t, "restart", func() bool {
			return u.Restarts() == i+1 && u.Show("baton.service", "ActiveState") == "active"
		})
	}
	before := counts.Requests()
	u.Await(t, "load after the last restart", func() bool { return counts.Requests() > before+200 })
	u.CheckServes(t, 1, "v1")
	lost := counts.Failures()
	u.Deploy("v2")
	u.Reload()
	u.CheckServes(t, 2, "v2")
	if n := counts.Failures() - lost; n != 0 {
		t.Errorf("the upgrade after the crashes lost %d requests", n)
	}
	endLoad()
	t.Log(counts)
	if n := counts.Failed[exchange.NoConnection].Load(); n != 0 {
		t.Errorf("%d connections refused, want none", n)
	}
	// Each crash may cost each connection that was accepted one request. Answers that are wrong it may not cost.
	if n := counts.Failed[exchange.WrongStatus].Load() + counts.Failed[exchange.WrongBody].Load(); n != 0 {
		t.Errorf("%d wrong answers, want none", n)
	}
	if lost > crashes*36 {
		t.Errorf("%d requests lost in %d crashes, want at most one for each of the 36 clients", lost, crashes)
	}
	if n := u.Stored(); n != 2 {
		t.Errorf("descriptors in the store: got %d, want 2", n)
	}
	u.Must("systemctl", "stop", "baton")
	u.CheckStopped(t)
}

// Connections that the killed process had not accepted are answered by the next one, each and every one.
func TestSystemdCrashKeepsTheQueue(t *testing.T) {
	t.Parallel()
	u := machine.Running(t, "idle-grace 100ms")
	for round := range 3 {
		if round > 0 {
			u.Reload() // a crash of a successor, and of one that was restarted
		}
		// More than the 128 of a process that cannot read what the kernel allows.
		crashWithAQueue(u, t, fmt.Sprintf("round %d", round+1), 300, await.Hang)
		u.CheckServes(t, 1, "v1")
	}
}

func TestSystemdStoreFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t)
	public := net.JoinHostPort(u.Host, "81")
	configure := func(listeners ...string) {
		u.ConfigureOnly(append(listeners, "admin "+u.Admin, "root /srv/baton", "idle-grace 100ms", "pid-file /run/baton/baton.pid")...)
	}
	configure("listen HOST:80", "listen HOST:81", "listen unix:/run/baton/public.sock")
	u.Start()
	if n := u.Stored(); n != 4 {
		t.Errorf("descriptors in the store: got %d, want 4", n)
	}
	socket := func() string { return u.Path("/run/baton/public.sock") }

	// A crash brings all of them back.
	u.Kill("KILL", u.MainPID())
	u.Await(t, "all listeners after a crash", func() bool {
		return u.Restarts() == 1 && http1.Answers("tcp", u.Address) && http1.Answers("tcp", public) && http1.Answers("unix", socket())
	})

	// What the configuration drops is unbound, and comes back neither by a crash.
	configure("listen HOST:80")
	u.Reload()
	refused := func() bool {
		c, err := http1.Dial("tcp", public, time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	}
	if n := u.Stored(); n != 2 {
		t.Errorf("after two listeners were dropped: %d descriptors in the store, want 2", n)
	}
	if !refused() {
		t.Errorf("%s, which was dropped, takes connections", public)
	}
	u.Kill("KILL", u.MainPID())
	u.Await(t, "restart", func() bool { return u.Restarts() == 2 && http1.Answers("tcp", u.Address) })
	if !refused() {
		t.Errorf("%s, which was dropped, takes connections after a crash", public)
	}

	// One that comes is kept, and what is dropped while the service is down is released at the restart.
	configure("listen HOST:80", "listen HOST:81")
	u.Reload()
	if n := u.Stored(); n != 3 || refused() {
		t.Errorf("after a listener was added: %d descriptors in the store, want 3", n)
	}
	configure("listen HOST:80")
	u.Kill("KILL", u.MainPID())
	u.Await(t, "restart", func() bool { return u.Restarts() == 3 && http1.Answers("tcp", u.Address) })
	u.Await(t, "end of the listener that was dropped meanwhile", func() bool { return u.Stored() == 2 && refused() })

	u.Must("systemctl", "stop", "baton")
	u.CheckStopped(t)
}

// A crash while the predecessor drains costs what the dead one had in hand, and nothing else: the drain goes on, and the
// predecessor's program takes over from what has crashed, without a restart.
func TestSystemdCrashDuringADrain(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	u := machine.Running(t, "proxy /begun="+backend.Start(t, g), "idle-grace 100ms")
	// systemd does not notice the end of a process that is not its child. The watchdog would, far too late.
	answered := held(u, t, g)
	first := u.MainPID()
	u.Deploy("v2")
	u.Must("systemctl", "kill", "--signal=HUP", "--kill-who=main", "baton")
	u.Await(t, "next generation", func() bool { return u.MainPID() != first })
	second := u.MainPID()
	crashWithAQueue(u, t, "during the drain", 20, 10*time.Second)
	u.Await(t, "the main process", func() bool { return u.MainPID() != second })
	u.CheckServes(t, 3, "v1")
	g.Open()
	answered()
	u.Await(t, "only the process that serves", func() bool { return len(u.Processes()) == 1 })
	u.Reload()
	u.CheckServes(t, 4, "v2")
	if n := u.Restarts(); n != 0 {
		t.Errorf("NRestarts: got %d, want 0", n)
	}
	if n := u.Stored(); n != 2 {
		t.Errorf("descriptors in the store: got %d, want 2", n)
	}
	u.Must("systemctl", "stop", "baton")
	u.CheckStopped(t)
}

// systemd itself is upgraded as well: it executes itself anew, and still knows the main process and has the listeners.
func TestSystemdStoreOutlivesTheManager(t *testing.T) {
	t.Parallel()
	u := machine.Running(t)
	u.Reload()
	u.Must("systemctl", "daemon-reexec")
	u.Await(t, "systemd that answers again", func() bool {
		out, _ := u.Run("systemctl", "is-active", "baton")
		return out == "active\n"
	})
	u.CheckServes(t, 2, "v1")
	if n := u.Stored(); n != 2 {
		t.Errorf("descriptors in the store: got %d, want 2", n)
	}
	main := u.MainPID()
	u.Hold(main)
	c := http1.MustDial(t, "tcp", u.Address)
	c.Send(t, string(http1.Request("GET", "/4000.bin", nil, "Connection: close")))
	u.Kill("KILL", main)
	c.Expect(t, "GET", 200)
	u.Reload()
	u.CheckServes(t, 2, "v1")
	u.Must("systemctl", "stop", "baton")
	u.CheckStopped(t)
}

// crashWithAQueue kills the main process while n connections wait that it has not accepted. Each must be
// answered in time, by the process that is started then.
func crashWithAQueue(u *machine.Unit, t testing.TB, when string, n int, within time.Duration) {
	t.Helper()
	main := u.MainPID()
	u.Hold(main)
	var waiting []*http1.Conn
	for range n {
		c := http1.MustDial(t, "tcp", u.Address)
		c.Send(t, string(http1.Request("GET", "/4000.bin", nil)))
		waiting = append(waiting, c)
	}
	u.Kill("KILL", main)
	for i, c := range waiting {
		resp := new(http1.Response)
		c.SetReadDeadline(time.Now().Add(within))
		if err := c.Receive("GET", resp); err != nil || resp.Status != 200 {
			t.Fatalf("%s, connection %d of those that waited: got status %d, %v, want 200\n%s", when, i+1, resp.Status, err, service.Tail(u.Log(), 30))
		}
	}
}
