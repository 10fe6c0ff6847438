package settings_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"example.com/baton/server/settings"
)

// machine is a directory with what commands look for on a machine.
type machine struct {
	t         *testing.T
	root, tmp string
	in        settings.Input
}

func newMachine(t *testing.T, uid int, environ ...string) *machine {
	m := &machine{t: t, root: t.TempDir(), tmp: t.TempDir()}
	m.in = settings.Input{Environ: append(environ, "TMPDIR="+m.tmp), UID: uid, Root: m.root}
	return m
}

// own is the path of the default control socket.
func (m *machine) own() string {
	return filepath.Join(m.tmp, fmt.Sprintf("baton-%d", m.in.UID), "control.sock")
}

// service is the path of the control socket of the installed service.
func (m *machine) service() string { return filepath.Join(m.root, "run/baton/control.sock") }

// put makes an empty file, and its directory with a mode.
func (m *machine) put(path string, mode os.FileMode) {
	m.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Chmod(filepath.Dir(path), mode)); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func TestServerControl(t *testing.T) {
	user := os.Getuid()
	other := user + 1
	unit := func(m *machine) { m.put(filepath.Join(m.root, "etc/systemd/system/baton.service"), 0o755) }
	for _, tt := range []struct {
		name  string
		uid   int
		setup func(*machine)
		want  func(*machine) string
	}{
		{"nothing runs", other, func(m *machine) {}, (*machine).own},
		{"a server of this user", user, func(m *machine) { m.put(m.own(), 0o700); m.put(m.service(), 0o755) }, (*machine).own},
		{"the service", other, func(m *machine) { m.put(m.service(), 0o755) }, (*machine).service},
		{"a socket of somebody else where this user's would be", other, func(m *machine) { m.put(m.own(), 0o700); m.put(m.service(), 0o755) }, (*machine).service},
		{"a directory that others can write to", user, func(m *machine) { m.put(m.own(), 0o755); m.put(m.service(), 0o755) }, (*machine).service},
		{"a stopped service, asked by root", 0, unit, (*machine).service},
		{"a stopped service, asked by another user", other, unit, (*machine).own},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, tt.uid)
			tt.setup(m)
			if got, want := m.in.ServerControl(), tt.want(m); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestDefaultControl(t *testing.T) {
	m := newMachine(t, 7, "RUNTIME_DIRECTORY=/run/a:/run/b")
	if got, want := m.in.DefaultControl(), "/run/a/control.sock"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := (settings.Input{UID: 7}).DefaultControl(), "/tmp/baton-7/control.sock"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMakeControlDirectory(t *testing.T) {
	user := os.Getuid()
	for _, tt := range []struct {
		name    string
		uid     int
		setup   func(*machine)
		control func(*machine) string
		made    bool
		fails   bool
	}{
		{"made", user, func(m *machine) {}, (*machine).own, true, false},
		{"there", user, func(m *machine) { m.put(m.own(), 0o700) }, (*machine).own, true, false},
		{"of somebody else", user + 1, func(m *machine) { m.put(m.own(), 0o700) }, (*machine).own, true, true},
		{"open to others", user, func(m *machine) { m.put(m.own(), 0o755) }, (*machine).own, true, true},
		{"a file", user, func(m *machine) { m.put(filepath.Dir(m.own()), 0o755) }, (*machine).own, true, true},
		{"another socket", user, func(m *machine) {}, (*machine).service, false, false},
		{"none", user, func(m *machine) {}, func(*machine) string { return "" }, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, tt.uid)
			tt.setup(m)
			err := m.in.MakeControlDirectory(tt.control(m))
			if (err != nil) != tt.fails {
				t.Errorf("got error %v, want one: %t", err, tt.fails)
			}
			if _, err := os.Stat(filepath.Dir(m.own())); (err == nil) != tt.made {
				t.Errorf("directory: got %v, want it there: %t", err, tt.made)
			}
		})
	}
}
