package compare

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// place is where a server runs: a directory, an address for HTTP/1.1 and one for TLS, and its certificate.
type place struct{ dir, address, secure, cert, key string }

// fill replaces in a configuration the words that stand for a place. BOTH is a file of the certificate and its key.
func (p place) fill(config string) string {
	_, port, _ := net.SplitHostPort(p.address)
	host, securePort, _ := net.SplitHostPort(p.secure)
	return strings.NewReplacer("DIR", p.dir, "ADDRESS", p.address, "SECURE", p.secure, "CERT", p.cert, "KEY", p.key, "BOTH", filepath.Join(p.dir, "both.pem"),
		"HOST", host, "PORT_TLS", securePort, "PORT", port, "BODY", string(otherAnswer.Body)).Replace(config)
}

// otherPlace returns a place for a server. Its log, if anything fails, is shown at the end.
func otherPlace(t *testing.T) (p place) {
	t.Helper()
	// Not t.TempDir: a unix socket's path has room for 107 bytes.
	dir, err := os.MkdirTemp("", "others-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log, _ := os.ReadFile(filepath.Join(dir, "log")); t.Failed() {
			t.Logf("log of the server (the last lines):\n%s", service.Tail(string(log), 40))
		}
		os.RemoveAll(dir)
	})
	host := service.Loopback()
	p = place{dir: dir, address: net.JoinHostPort(host, service.FreePort(t, host)), secure: net.JoinHostPort(host, service.FreePort(t, host))}
	p.cert, p.key = certificate.Certificate(t)
	var both []byte
	for _, file := range []string{p.cert, p.key} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, content...)
	}
	files.Put(t, both, filepath.Join(dir, "both.pem"), 0o600)
	return p
}

// runOther starts a program whose output goes to the log in its directory.
func runOther(t *testing.T, dir string, argv ...string) *process.Process {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := mustFollow(t, cmd.Process.Pid)
	cmd.Process.Release()
	return p
}

func mustFollow(t *testing.T, pid int) *process.Process {
	t.Helper()
	p, err := process.Follow(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// endOther ends a server: the processes that lead it, of which the last has to be there, and their workers.
func endOther(t *testing.T, leaders []*process.Process, workers []int) {
	t.Helper()
	all := slices.Clone(leaders)
	for _, pid := range workers {
		if p, err := process.Follow(pid); err == nil {
			all = append(all, p)
		}
	}
	for i, p := range leaders {
		if p.Alive() || i == len(leaders)-1 {
			signalOther(t, p, syscall.SIGTERM)
		}
	}
	for _, p := range all {
		if !p.Within(await.Hang) {
			t.Errorf("at the end: process %d alive 10 s after SIGTERM", p.Pid)
			signalOther(t, p, syscall.SIGKILL)
		}
	}
}

func signalOther(t *testing.T, p *process.Process, sig syscall.Signal) {
	t.Helper()
	if !p.Alive() {
		t.Errorf("signal %v to %d: it has exited before", sig, p.Pid)
	} else if err := syscall.Kill(p.Pid, sig); err != nil {
		t.Errorf("signal %v to %d: %v", sig, p.Pid, err)
	}
}

// awaitPID waits until a PID file names another process than the one given, and returns it.
func awaitPID(t *testing.T, path string, old int) *process.Process {
	t.Helper()
	pid := 0
	await.Until(t, "new process in "+path, func() bool {
		content, _ := os.ReadFile(path)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(content)))
		return pid != 0 && pid != old
	})
	return mustFollow(t, pid)
}

// versionAfter returns the word that follows another in what a program says of its version.
func versionAfter(t *testing.T, path, after string) string {
	t.Helper()
	said, err := exec.Command(path, "-v").CombinedOutput()
	_, rest, found := strings.Cut(string(said), after)
	if err != nil || !found {
		t.Fatalf("%s -v: got %q (%v), want %q in it", path, said, err, after)
	}
	version, _, _ := strings.Cut(strings.Fields(rest)[0], "-") // without the packager's part
	return version
}
