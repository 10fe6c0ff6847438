package systemd_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"example.com/baton/systemd"
)

// TestMain is also the process that systemd starts with descriptors: it prints
// what it finds, twice.
func TestMain(m *testing.M) {
	if os.Getenv("SYSTEMD_TEST") == "" {
		os.Exit(m.Run())
	}
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	if pid := os.Getenv("SYSTEMD_TEST_PID"); pid != "" {
		os.Setenv("LISTEN_PID", pid)
	}
	for range 2 {
		kept, err := systemd.New().Listeners()
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(0)
		}
		n := 0
		for name, ln := range kept {
			n++
			fmt.Println(name, ln.Addr())
			ln.Close()
		}
		fmt.Println(n, "listeners")
	}
	for _, variable := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if _, there := os.LookupEnv(variable); there {
			fmt.Println(variable, "is left to successors")
		}
	}
	os.Exit(0)
}

// started returns what a process prints that systemd starts with descriptors.
func started(t *testing.T, names string, files []*os.File, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "SYSTEMD_TEST=1", "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+names)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// file returns the descriptor of a socket, which it closes itself.
func file(t *testing.T, s interface {
	File() (*os.File, error)
	Close() error
}) *os.File {
	t.Helper()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	t.Cleanup(func() { f.Close() })
	return f
}

// What is put into the store under a name comes back under that name.
func TestStoreAndListeners(t *testing.T) {
	s := listenNotify(t)
	m := systemd.New()
	path := filepath.Join(t.TempDir(), "é%:s")
	unixListener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	tcpListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcpListener.Close()

	var names []string
	var files []*os.File
	for name, ln := range map[string]net.Listener{"unix:" + path: unixListener, `{"bound":"[::]:80"} 100%41`: tcpListener} {
		if err := m.Store(name, ln); err != nil {
			t.Fatal(err)
		}
		message, fds := s.next(t)
		fdName, ok := strings.CutPrefix(message, "FDSTORE=1\nFDNAME=")
		if !ok || len(fds) != 1 {
			t.Fatalf("got %q with %d descriptors, want FDSTORE=1 with one", message, len(fds))
		}
		if strings.ContainsAny(fdName, ":\n") || len(fdName) > 255 {
			t.Errorf("FDNAME=%s is not what systemd allows", fdName)
		}
		names, files = append(names, fdName), append(files, os.NewFile(uintptr(fds[0]), fdName))
	}
	out := started(t, strings.Join(names, ":"), files)
	for _, f := range files {
		f.Close()
	}
	for _, want := range []string{
		fmt.Sprintf("unix:%s %s\n", path, path),
		fmt.Sprintf("{\"bound\":\"[::]:80\"} 100%%41 %s\n", tcpListener.Addr()),
		"2 listeners\n0 listeners\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "left") {
		t.Error(out)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the unix socket's path went with a process that had it: %v", err)
	}
}

func TestKeepRejects(t *testing.T) {
	listenNotify(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := systemd.New().Store(strings.Repeat("n", 256), ln); err == nil {
		t.Error("got no error for a name that is longer than systemd allows")
	}
	if err := systemd.New().Store("n", struct{ net.Listener }{ln}); err == nil {
		t.Error("got no error for a listener that has no descriptor")
	}
}

// Descriptors that are for another process, or are no listeners.
func TestListenersRejects(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if out := started(t, "a.socket", []*os.File{file(t, ln.(*net.TCPListener))}, "SYSTEMD_TEST_PID=1"); !strings.HasPrefix(out, "0 listeners") {
		t.Errorf("descriptors for another process: got %s", out)
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if out := started(t, "b.socket", []*os.File{file(t, udp)}); !strings.HasPrefix(out, `error: take socket "b.socket"`) {
		t.Errorf("a datagram socket: got %s", out)
	}
}
