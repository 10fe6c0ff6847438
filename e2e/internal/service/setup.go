package service

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/backend"
)

// Setup is what the options of start make of the defaults.
type Setup struct {
	Listen []string
	Args   []string
	Env    []string
	Config string
	// listenInFile leaves the addresses to the configuration file.
	listenInFile bool
	adminInFile  bool
	Dir          string
	Path         string
	Argv0        string
	Descriptors  int      // 0: as many as the test has
	Stderr       *os.File // nil: the file of Log
	manager      *manager
	bindFirst    []string            // addresses of socket units
	Sockets      map[string]*os.File // bound there
}

type Option func(*Setup)

// Listen sets the public listeners. In an address HOST stands for the service's own loopback
// address, PORT for a free port on it, DIR for the service's directory. The default is HOST:PORT.
func Listen(addresses ...string) Option {
	return func(s *Setup) { s.Listen = addresses }
}

// Args adds flags; HOST and DIR stand for the service's own as with listen.
func Args(flags ...string) Option {
	return func(s *Setup) { s.Args = append(s.Args, flags...) }
}

// Env adds to the environment.
func Env(pairs ...string) Option {
	return func(s *Setup) { s.Env = append(s.Env, pairs...) }
}

// Config gives the service a configuration file of this content; the same words are replaced.
func Config(lines ...string) Option {
	return func(s *Setup) { s.Config = strings.Join(lines, "\n") + "\n" }
}

// ListenInFile leaves the listeners to the configuration file; ADDRESS in it stands for the first one.
func ListenInFile() Option {
	return func(s *Setup) { s.listenInFile = true }
}

// AdminInFile leaves the admin listener to the configuration file.
func AdminInFile() Option {
	return func(s *Setup) { s.adminInFile = true }
}

// Launched sets the working directory, and path and argv[0] as execve gets them. DIR stands for the directory of the service.
func Launched(dir, path, argv0 string) Option {
	return func(s *Setup) { s.Dir, s.Path, s.Argv0 = dir, path, argv0 }
}

// Files serves a directory of known files.
func Files(t testing.TB) Option { return Args("-root", backend.Directory(t)) }

// Proxied forwards everything to an echo backend in the test process.
func Proxied(t testing.TB) Option {
	return Args("-proxy", "/="+backend.Start(t, http.HandlerFunc(backend.Echo)))
}

// Patient lets idle connections live longer than any test.
func Patient() Option { return Args("-idle-timeout", "1h", "-read-header-timeout", "1h") }
