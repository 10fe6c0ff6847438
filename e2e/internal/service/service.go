// Package service runs a Baton as an operator has it, with a directory of its own, and the commands to run it.
//
// When a test ends, the service has to stop in order and to leave no process behind.
package service

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
)

// Baton is one service through all its generations.
type Baton struct {
	T    testing.TB
	Dir  string // the directory of everything below
	Bin  string // what is run, and replaced by Deploy
	Host string // a loopback address that no other service uses

	Network, Address string // of the first public listener
	Admin            string
	Control          string
	PIDFile          string
	Config           string // the configuration file; given with -config if it was there at the start

	Setup Setup
	Mark  string // in the environment of every process of this service

	mu    sync.Mutex
	Known map[int]*process.Process
	bad   map[int]bool // processes that are not expected to exit with 0
}

// Start starts a service and waits until it is ready. When the test ends, the service has to stop in order.
func Start(t testing.TB, options ...Option) *Baton {
	t.Helper()
	b := Prepare(t, options...)
	b.Launch()
	b.AwaitReady()
	return b
}

// Prepare lays out the directory of a service without starting it.
func Prepare(t testing.TB, options ...Option) *Baton {
	t.Helper()
	var s Setup
	for _, option := range options {
		option(&s)
	}
	// Not t.TempDir: a unix socket's path has room for 107 bytes, and the name of a test may be long.
	dir, err := os.MkdirTemp("", "baton-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host := Loopback()
	b := &Baton{
		T: t, Dir: dir, Host: host, Setup: s, Mark: "E2E_MARK=" + dir,
		Bin:     filepath.Join(dir, "baton"),
		Control: filepath.Join(dir, "control.sock"),
		PIDFile: filepath.Join(dir, "baton.pid"),
		Config:  filepath.Join(dir, "baton.conf"),
		Admin:   net.JoinHostPort(host, FreePort(t, host)),
		Known:   make(map[int]*process.Process),
		bad:     make(map[int]bool),
	}
	if len(s.Listen) == 0 {
		s.Listen = []string{"HOST:PORT"}
	}
	b.Setup.Listen = nil
	for _, address := range s.Listen {
		b.Setup.Listen = append(b.Setup.Listen, strings.Replace(b.Expand(address), "PORT", FreePort(t, host), 1))
	}
	b.Network, b.Address = SplitAddress(b.Setup.Listen[0])
	b.Setup.Sockets = make(map[string]*os.File)
	b.bindSockets()
	if s.Config != "" {
		b.Configure(s.Config)
	}
	b.Deploy("v1")
	t.Cleanup(b.end)
	return b
}

// Grace returns how long the service keeps an idle connection in a drain.
func (b *Baton) Grace() time.Duration {
	b.T.Helper()
	i := slices.Index(b.Setup.Args, "-idle-grace")
	if i < 0 {
		return DefaultGrace
	}
	grace, err := time.ParseDuration(b.Setup.Args[i+1])
	if err != nil {
		b.T.Fatal(err)
	}
	return grace
}

// Flags returns the flags with which the service is started.
func (b *Baton) Flags() []string {
	flags := []string{"-control", b.Control, "-pid-file", b.PIDFile, "-log-format", "json"}
	if !b.Setup.adminInFile {
		flags = append(flags, "-admin", b.Admin)
	}
	if !b.Setup.listenInFile {
		for _, address := range b.Setup.Listen {
			flags = append(flags, "-listen", address)
		}
	}
	if b.Setup.Config != "" {
		flags = append(flags, "-config", b.Config)
	}
	for _, arg := range b.Setup.Args {
		flags = append(flags, b.Expand(arg))
	}
	return flags
}

// Launch starts the first generation.
func (b *Baton) Launch() *process.Process {
	b.T.Helper()
	stderr, err := os.OpenFile(b.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		b.T.Fatal(err)
	}
	defer stderr.Close()
	cmd := exec.Command(b.Bin, b.Flags()...)
	cmd.Dir = b.Dir
	if b.Setup.Path != "" {
		cmd.Dir, cmd.Path, cmd.Args[0] = b.Expand(b.Setup.Dir), b.Expand(b.Setup.Path), b.Expand(b.Setup.Argv0)
	}
	cmd.Env = append(os.Environ(), b.Mark)
	for _, pair := range b.Setup.Env {
		cmd.Env = append(cmd.Env, b.Expand(pair))
	}
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if b.Setup.Stderr != nil {
		cmd.Stdout, cmd.Stderr = b.Setup.Stderr, b.Setup.Stderr
	}
	files, variables := b.Setup.passed()
	for _, f := range files {
		defer f.Close()
	}
	if len(variables) > 0 {
		cmd.ExtraFiles, cmd.Env = files, append(cmd.Env, variables...)
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c",
			`export LISTEN_PID=$$ WATCHDOG_PID=${WATCHDOG_PID-$$}; exec "$0" "$@"`, b.Bin}, cmd.Args[1:]...)
	}
	if n := b.Setup.Descriptors; n > 0 {
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, n), cmd.Path}, cmd.Args[1:]...)
	}
	if err := cmd.Start(); err != nil {
		b.T.Fatal(err)
	}
	p := b.Follow(cmd.Process.Pid)
	cmd.Process.Release()
	return p
}

// Configure replaces the configuration file.
func (b *Baton) Configure(content string) {
	b.T.Helper()
	files.Put(b.T, []byte(b.Expand(content)), b.Config, 0o644)
}

// Run runs a command of the binary, to its end or for a minute.
func (b *Baton) Run(args ...string) (code int, stdout, stderr string) {
	b.T.Helper()
	return process.Run(b.T, build.Version(b.T, "v1"), append(os.Environ(), b.Mark), args...)
}

// Get makes one request of the public listener, on a connection of its own.
func (b *Baton) Get(path string, fields ...string) *http1.Response {
	b.T.Helper()
	resp, err := http1.Fetch(b.Network, b.Address, "GET", path, fields...)
	if err != nil {
		b.T.Fatalf("GET %s: %v", path, err)
	}
	return resp
}

// Dial connects to the public listener.
func (b *Baton) Dial() *http1.Conn {
	b.T.Helper()
	return http1.MustDial(b.T, b.Network, b.Address)
}

// Probe returns the status of a path of the admin listener such as /readyz, 0 if nobody answers.
func (b *Baton) Probe(path string) int {
	resp, err := http1.Fetch("tcp", b.Admin, "GET", path)
	if err != nil {
		return 0
	}
	return resp.Status
}
