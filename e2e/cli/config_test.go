package cli

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The configuration file: what it may look like, and that one which was lost changes nothing.

func TestLostConfiguration(t *testing.T) {
	tier.Slow(t, "loses the configuration in every way")
	t.Parallel()
	b := service.Start(t, service.ListenInFile(), service.Config("listen ADDRESS", "log-level info"), service.Files(t), service.Args("-idle-grace", "100ms"))
	good, err := os.ReadFile(b.Config)
	if err != nil {
		t.Fatal(err)
	}
	other := net.JoinHostPort(b.Host, service.FreePort(t, b.Host))
	const nothing, drops = "sets nothing", "would drop every listener"
	for _, tt := range []struct{ name, content, want string }{
		{"empty", "", nothing},
		{"blank", "\n \t\n\r\n", nothing},
		{"comments", "# listen :80\n\t# root /\n", nothing},
		{"byte order mark", "\ufeff", nothing},
		{"NUL bytes", strings.Repeat("\x00", 4096), "line 1"},
		{"NUL bytes at the end", string(good) + strings.Repeat("\x00", 64), "line 3"},
		{"UTF-16", "\xff\xfel\x00i\x00s\x00t\x00e\x00n\x00", "line 1"},
		{"a program", "\x7fELF\x02\x01\x01\x00", "line 1"},
		{"another encoding", "# caf\xe9\n" + string(good), "line 1"},
		{"old line ends", "listen :80\rroot /", "line 1"},
		{"ends within a name", string(good) + "drain-time", `"drain-time"`},
		{"ends within an address", strings.TrimSpace(string(good))[:len("listen 127")], "missing port"},
		{"without its listeners", "log-level info\n", drops},
		{"only other listeners", "listen " + other + "\n", drops},
	} {
		b.Configure(tt.content)
		flags := append([]string{"check"}, b.Flags()...)
		if code, stdout, stderr := b.Run(flags...); code != 2 || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: check: got exit code %d, %s%s, want 2 and %q", tt.name, code, stdout, stderr, tt.want)
		}
		if u := b.TryUpgrade(); u.Code != 1 || !strings.Contains(strings.Join(u.Stderr, "\n"), tt.want) {
			t.Errorf("%s: upgrade: got exit code %d, %s, want 1 and %q", tt.name, u.Code, u.Stdout, tt.want)
		}
		if s := b.Status(); s.Generation != 1 || !http1.Answers(b.Network, b.Address) {
			t.Fatalf("%s: generation %d serves, or nobody does", tt.name, s.Generation)
		}
	}
	b.Configure(string(good))
	if code, _, stderr := b.Run(append([]string{"check"}, b.Flags()...)...); code != 0 || stderr != "" {
		t.Errorf("check of the good configuration: got exit code %d, %s", code, stderr)
	}
	b.Upgrade()
	if !http1.Answers(b.Network, b.Address) {
		t.Error("the good configuration does not serve")
	}
}

// A first start has nobody to go on in its place.
func TestStartWithALostConfiguration(t *testing.T) {
	t.Parallel()
	b := service.Prepare(t, service.Config("# nothing"), service.Files(t))
	if code, _, stderr := b.Run(b.Flags()...); code != 2 || !strings.Contains(stderr, b.Config+" sets nothing") {
		t.Errorf("got exit code %d, %s, want 2 and what is wrong", code, stderr)
	}
}

func TestConfigurationText(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"tabs and comments": "pid-file\tDIR/x.pid\t# the PID file\nlog-level\t\tinfo\t#\n\t#\n",
		"no blank after #":  "pid-file DIR/x.pid #the PID file\n",
		"byte order mark":   "\ufeffpid-file DIR/x.pid\n",
		"CRLF":              "pid-file DIR/x.pid\r\nlog-level info # a\r\n",
		"no end of line":    "log-level info\npid-file DIR/x.pid",
		"no-break space":    "pid-file DIR/x.pid\u00a0# the PID file",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := service.Prepare(t)
			files.Put(t, []byte(strings.ReplaceAll(text, "DIR", b.Dir)), b.Config, 0o600)
			// A comment that became part of the value would name a directory that is not there.
			code, _, stderr := b.Run("check", "-config", b.Config, "-listen", b.Address, "-admin", "", "-control", "")
			if code != 0 {
				t.Errorf("check: got exit code %d, %s", code, stderr)
			}
			b.Setup.Config, b.PIDFile = text, filepath.Join(b.Dir, "x.pid")
			b.Launch()
			b.AwaitReady()
			if content, err := os.ReadFile(b.PIDFile); err != nil || len(content) == 0 {
				t.Errorf("PID file: got %q, %v", content, err)
			}
		})
	}
}

func TestListing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	files.Put(t, []byte("x"), filepath.Join(dir, "sub", "a.txt"), 0o644)
	for lines, want := range map[string]int{"root DIR": 403, "root DIR\nlisting": 200, "root DIR\nlisting false": 403} {
		b := service.Start(t, service.Config(strings.ReplaceAll(lines, "DIR", dir)))
		if resp := b.Get("/sub/"); resp.Status != want || strings.Contains(string(resp.Body), "a.txt") != (want == 200) {
			t.Errorf("%q: got %d %s, want %d", lines, resp.Status, resp.Body, want)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"version"}, {"-version"}, {"--version"}} {
		code, stdout, stderr := process.Run(t, build.Version(t, "v1"), os.Environ(), args...)
		if code != 0 || !strings.HasPrefix(stdout, "baton v1 (") || stderr != "" {
			t.Errorf("%v: got exit code %d, %s%s", args, code, stdout, stderr)
		}
	}
}

// Root may read what the service's user may not.
func TestCheckAsTheUserOfTheService(t *testing.T) {
	t.Parallel()
	tier.Root(t)
	b := service.Prepare(t)
	cert, key := certificate.Certificate(t, http1.Host)
	for path := filepath.Dir(key); path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		os.Chmod(path, 0o755)
	}
	os.Chmod(b.Dir, 0o755)
	for path := filepath.Dir(cert); path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		os.Chmod(path, 0o755)
	}
	os.Chmod(cert, 0o644)
	root := filepath.Join(b.Dir, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	// What a service leaves that was killed: its control socket has its owner.
	left := filepath.Join(b.Dir, "left")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(left, "control.sock")})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if err := os.Chown(filepath.Join(left, "control.sock"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name             string
		key, root        os.FileMode
		runtimeDirectory string
		flags            []string
		code             int
	}{
		{"as root", 0o600, 0o700, b.Dir, nil, 0},
		{"key for root alone, the user named", 0o600, 0o711, b.Dir, []string{"-user", fmt.Sprint(nobody)}, 2},
		{"root directory for root alone, the user named", 0o644, 0o700, b.Dir, []string{"-user", fmt.Sprint(nobody)}, 2},
		{"key for root alone, the user of the socket", 0o600, 0o711, left, nil, 2},
		{"for all, the user of the socket", 0o644, 0o711, left, nil, 0},
		{"no such user", 0o644, 0o711, b.Dir, []string{"-user", "no-such-user"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.Chmod(key, tt.key)
			os.Chmod(root, tt.root)
			args := append([]string{"check", "-listen", "tls:" + b.Address, "-tls-cert", cert, "-tls-key", key, "-root", root}, tt.flags...)
			cmd := exec.Command(build.Version(t, "v1"), args...)
			cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+tt.runtimeDirectory)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("got exit code %d, want %d:\n%s", code, tt.code, out)
			}
			if tt.code == 2 && !strings.Contains(string(out), "permission denied") && !strings.Contains(string(out), "unknown user") {
				t.Errorf("got %s, want what may not be read", out)
			}
		})
	}
}
