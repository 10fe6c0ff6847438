package systemd

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/tier"
)

// install.sh: puts everything in place, as often as it is called, and takes away what it put there.

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func TestInstall(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
	installer, binary := m.Installer(), m.Share(build.Version(t, "v1"))
	u := &machine.Unit{Machine: m, Address: m.Host + ":80", Admin: m.Host + ":9180"}
	all := []string{
		"/usr/local/bin/baton", "/etc/systemd/system/baton.service", "/etc/systemd/system/baton.socket",
		"/etc/baton/baton.conf", "/srv/baton/index.html",
	}
	if exists("../../systemd/deploy.sh") {
		all = append(all, "/usr/local/bin/baton-deploy", "/usr/local/bin/baton-deploy-hosts")
	}
	there := func() (paths []string) {
		for _, path := range all {
			if exists(m.Path(path)) {
				paths = append(paths, path)
			}
		}
		return paths
	}

	m.Must(installer, binary)
	if got := there(); !slices.Equal(got, all) {
		t.Fatalf("installed: got %v, want %v", got, all)
	}
	if out := m.Must("getent", "passwd", "baton"); !strings.Contains(out, "nologin") {
		t.Errorf("user: got %s, want one that cannot log in", out)
	}
	out := m.Must(installer, binary)
	if strings.Contains(out, "installed") || strings.Contains(out, "made") {
		t.Errorf("second time: got %s, want nothing to do", out)
	}

	// While it runs: the binary is replaced under it, what was changed stays, and the reload that the
	// script proposes brings the new one.
	m.Put("/srv/files/100.bin", string(exchange.Pattern(100)), 0o644)
	u.Configure("root /srv/files", "idle-timeout 70s")
	u.Start()
	serving := u.MainPID()
	out = m.Must(installer, m.Share(build.Version(t, "v2")))
	if !strings.Contains(out, "systemctl reload baton") {
		t.Errorf("while it runs: got %s, want the reload mentioned", out)
	}
	if u.MainPID() != serving {
		t.Error("installing restarted the service")
	}
	u.Reload()
	u.CheckServes(t, 2, "v2")
	if conf, _ := os.ReadFile(m.Path("/etc/baton/baton.conf")); !strings.Contains(string(conf), "idle-timeout 70s") {
		t.Errorf("configuration: got %q, want it left alone", conf)
	}

	m.Must("systemctl", "enable", "--quiet", "baton.service", "baton.socket")
	m.Put("/srv/baton/own.html", "own", 0o644)
	out = m.Must(installer, "--uninstall")
	if got := u.Show("baton.service", "LoadState"); got != "not-found" {
		t.Errorf("after --uninstall: the service is %s, want not-found", got)
	}
	want := []string{"/etc/baton/baton.conf"}
	if got := there(); !slices.Equal(got, want) {
		t.Errorf("after --uninstall: got %v, want %v, which was changed", got, want)
	}
	for _, kept := range []string{"kept /etc/baton/baton.conf", "kept /srv/baton"} {
		if !strings.Contains(out, kept) {
			t.Errorf("--uninstall says %s, want that it %s", out, kept)
		}
	}
	if !exists(m.Path("/srv/baton/own.html")) {
		t.Error("after --uninstall: content is gone")
	}
	if out, code := m.Run("getent", "passwd", "baton"); code == 0 {
		t.Errorf("after --uninstall: user %s", out)
	}
	if links, _ := filepath.Glob(m.Path("/etc/systemd/system/*.wants/baton*")); len(links) != 0 {
		t.Errorf("after --uninstall: %v are left", links)
	}
	m.Must(installer, "--uninstall") // nothing to do is no failure

	// What was not changed goes without a trace, with another prefix too.
	m.Must("rm", "-r", "/etc/baton", "/srv/baton")
	m.Must(installer, "--prefix", "/opt/baton", binary)
	u.Configure("root /srv/files")
	u.Start()
	u.CheckServes(t, 1, "v1")
	if exe := m.Must("readlink", "/proc/"+u.Show("baton.service", "MainPID")+"/exe"); exe != "/opt/baton/bin/baton\n" {
		t.Errorf("with a prefix: %s runs, want /opt/baton/bin/baton", exe)
	}
	u.Reload()
	u.CheckServes(t, 2, "v1")
	m.Must("rm", "/etc/baton/baton.conf")
	m.Must(installer, "--prefix", "/opt/baton", binary)
	m.Must(installer, "--prefix=/opt/baton", "--uninstall")
	for _, path := range []string{"/etc/baton", "/srv/baton", "/opt/baton/bin/baton", "/etc/systemd/system/baton.service"} {
		if exists(m.Path(path)) {
			t.Errorf("after --uninstall: %s is left", path)
		}
	}
}

// The example works as it is, but for the port that may be another's here.
func TestInstalledExampleIsGood(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
	m.Must(m.Installer(), m.Share(build.Version(t, "v1")))
	// Root finds the socket of a service that is stopped, too: no other is meant.
	if out, code := m.Run("/usr/local/bin/baton", "status"); code != 3 || !strings.Contains(out, "/run/baton/control.sock") {
		t.Errorf("status of the stopped service: got exit code %d, %s, want 3 and the path of its control socket", code, out)
	}
	m.Must("mkdir", "/run/baton") // as systemd makes it for the service
	if out := m.Must("/usr/local/bin/baton", "check", "-config", "/etc/baton/baton.conf"); !strings.Contains(out, "listens on :80") {
		t.Errorf("check: got %s", out)
	}
	// Root may read what the service's user may not.
	m.Put("/etc/baton/root.conf", "root /srv/secret\n", 0o600)
	m.Must("install", "-d", "-m", "700", "/srv/secret")
	if out, code := m.Run("/usr/local/bin/baton", "check", "-config", "/etc/baton/root.conf"); code != 2 || !strings.Contains(out, "permission denied") {
		t.Errorf("check of a root that only root may read: got exit code %d, %s, want 2", code, out)
	}
}

func TestInstallRefuses(t *testing.T) {
	t.Parallel()
	tier.Tool(t, "sh")
	script, err := filepath.Abs("../../systemd/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	files.Put(t, []byte("#!/bin/sh\necho not what you think\n"), bad, 0o755)
	tests := []struct {
		name string
		args []string
		code int
		says string
		nobody,
		inside bool
	}{
		{name: "no root", args: []string{bad}, code: 1, says: "root", nobody: true},
		{name: "unknown option", args: []string{"--force"}, code: 2, says: "--force"},
		{name: "two binaries", args: []string{"a", "b"}, code: 2, says: "one BINARY"},
		{name: "prefix missing", args: []string{"--prefix"}, code: 2, says: "--prefix"},
		{name: "relative prefix", args: []string{"--prefix", "opt"}, code: 2, says: "absolute"},
		{name: "prefix that does not go into a unit", args: []string{"--prefix", "/opt/a b|c"}, code: 2, says: "letters"},
		{name: "prefix that the service cannot see", args: []string{"--prefix", "/home/me"}, code: 2, says: "ProtectHome"},
		{name: "uninstall with a binary", args: []string{"--uninstall", bad}, code: 2, says: "BINARY"},
		{name: "missing binary", args: []string{"/nonexistent/baton"}, code: 1, says: "no such file", inside: true},
		{name: "not baton", args: []string{bad}, code: 1, says: "not baton", inside: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out string
			var code int
			if tt.inside {
				m := machine.Boot(t)
				args := slices.Clone(tt.args)
				for i, arg := range args {
					if arg == bad {
						args[i] = m.Share(bad)
					}
				}
				out, code = m.Run(append([]string{m.Installer()}, args...)...)
				for _, path := range []string{"/usr/local/bin/baton", "/etc/systemd/system/baton.service"} {
					if exists(m.Path(path)) {
						t.Errorf("%s is there", path)
					}
				}
			} else {
				cmd := exec.Command("sh", append([]string{script}, tt.args...)...)
				if tt.nobody {
					if os.Geteuid() != 0 {
						t.Log("as whoever runs the tests, who is not root")
					} else {
						// Only what this user can read: the script comes by standard input.
						file, err := os.Open(script)
						if err != nil {
							t.Fatal(err)
						}
						defer file.Close()
						cmd = exec.Command("sh", append([]string{"-s", "--"}, tt.args...)...)
						cmd.Stdin, cmd.Dir = file, "/"
						cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
					}
				}
				text, _ := cmd.CombinedOutput()
				out, code = string(text), cmd.ProcessState.ExitCode()
			}
			if code != tt.code || !strings.Contains(out, tt.says) {
				t.Errorf("got exit code %d, %s want %d and %q mentioned", code, out, tt.code, tt.says)
			}
			if tt.code == 1 && strings.Count(out, "\n") != 1 {
				t.Errorf("got %s want one line", out)
			}
		})
	}
}

// Packagers install below a directory, built from the sources, without root and without touching this system.
func TestInstallBelowDestdir(t *testing.T) {
	tier.Slow(t, "installs below another root")
	t.Parallel()
	tier.Tool(t, "go")
	dir := t.TempDir()
	cmd := exec.Command("sh", "../../systemd/install.sh", "--prefix", "/usr")
	cmd.Env = append(os.Environ(), "DESTDIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	code, version, _ := process.Run(t, filepath.Join(dir, "usr/bin/baton"), os.Environ(), "version")
	if want, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output(); err == nil {
		if code != 0 || !strings.Contains(version, strings.TrimSpace(string(want))) {
			t.Errorf("version: got %q, want %s", version, want)
		}
	}
	unit, err := os.ReadFile(filepath.Join(dir, "etc/systemd/system/baton.service"))
	if err != nil || !strings.Contains(string(unit), "ExecStart=/usr/bin/baton ") {
		t.Errorf("unit: got %v, want ExecStart=/usr/bin/baton in\n%s", err, unit)
	}
	for _, path := range []string{"etc/baton/baton.conf", "srv/baton/index.html"} {
		if !exists(filepath.Join(dir, path)) {
			t.Errorf("%s is missing", path)
		}
	}
	cmd = exec.Command("sh", "../../systemd/install.sh", "--prefix", "/usr", "--uninstall")
	cmd.Env = append(os.Environ(), "DESTDIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("uninstall: %v\n%s", err, out)
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("after --uninstall: %s is left", path)
		}
		return nil
	})
}

func TestInstallScriptIsSound(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command(tier.Tool(t, "shellcheck"), "--shell=sh", "../../systemd/install.sh").CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}
