package systemd

import (
	"net"
	"os"
	"slices"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/service"
)

// What the manager keeps when the configuration, or what lies at a path, changes meanwhile.

// crash kills the generation that serves.
func crash(b *service.Baton) {
	b.T.Helper()
	pid := b.PID()
	b.Kill(pid, syscall.SIGKILL)
	b.AwaitExit(pid)
}

// A socket whose path is another's by now is of no use, and must not come back after a crash.
func TestStoreWithAReplacedPath(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 0)
	b := service.Start(t, with, service.Listen("unix:DIR/s.sock"), service.Files(t))
	m.AwaitKept(t, 2)
	os.Remove(b.Address)
	b.Upgrade()
	m.Await(t, "FDSTOREREMOVE=1", 1) // the new one is there by then
	m.AwaitKept(t, 2)
	crash(b)
	b.Launch()
	b.AwaitReady()
	b.Get("/100.bin")
}

// A socket unit takes over the path of a listener that is in the store: its socket is the one that counts.
func TestStoreBesideASocketUnit(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 0)
	b := service.Start(t, with, service.Listen("unix:DIR/s.sock"), service.Files(t))
	m.AwaitKept(t, 2)
	crash(b)
	os.Remove(b.Address)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.Address, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	if b.Setup.Sockets["a.socket"], err = ln.File(); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	t.Cleanup(func() { b.Setup.Sockets["a.socket"].Close() })
	b.Launch()
	b.AwaitReady()
	b.Get("/100.bin")
	m.AwaitKept(t, 1) // the admin listener
}

// A listener leaves the store under the name under which it came, however its address was spelt since.
func TestStoreWithAnotherSpelling(t *testing.T) {
	t.Parallel()
	m, with := service.Managed(t, 0)
	b := service.Start(t, with, service.ListenInFile(), service.Config("listen ADDRESS", "listen HOST:0"), service.Files(t))
	m.AwaitKept(t, 3)
	bound := b.Status().Listen
	free := slices.DeleteFunc(bound, func(a string) bool { return a == b.Admin || a == b.Address })
	b.Configure("listen ADDRESS\nlisten " + free[0])
	b.Upgrade()
	m.AwaitKept(t, 3)
	b.Configure("listen ADDRESS")
	b.Upgrade()
	m.AwaitKept(t, 2)
	b.Stop()
	m.AwaitKept(t, 0)
}

// From one address to all of the machine between a crash and the restart: what is kept is in the way, and goes.
func TestStoreWithAWiderAddress(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	m, with := service.Managed(t, 0)
	b := service.Start(t, with, service.Listen("127.0.0.1:"+port), service.ListenInFile(), service.Config("listen 127.0.0.1:"+port), service.Files(t))
	m.AwaitKept(t, 2)
	b.Configure("listen :" + port)
	crash(b)
	b.Launch()
	b.AwaitReady()
	b.Get("/100.bin")
	m.AwaitKept(t, 2)
}
