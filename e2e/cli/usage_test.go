package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// A second server in the place of the first, and a server with invalid settings: one clear error,
// an exit code, and nothing disturbed.

func TestSecondServer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		share func(first, second *service.Baton)
		names func(first *service.Baton) string // what the error has to name
	}{
		{"public address", func(a, b *service.Baton) { b.Setup.Listen = a.Setup.Listen }, func(a *service.Baton) string { return a.Address }},
		{"admin address", func(a, b *service.Baton) { b.Admin = a.Admin }, func(a *service.Baton) string { return a.Admin }},
		{"control socket", func(a, b *service.Baton) { b.Control = a.Control }, func(a *service.Baton) string { return a.Control }},
		{"PID file", func(a, b *service.Baton) { b.PIDFile = a.PIDFile }, func(a *service.Baton) string { return a.PIDFile }},
		{"everything", func(a, b *service.Baton) {
			b.Setup.Listen, b.Admin, b.Control, b.PIDFile = a.Setup.Listen, a.Admin, a.Control, a.PIDFile
		}, func(*service.Baton) string { return "" }},
		{"unix socket", func(a, b *service.Baton) { b.Setup.Listen = a.Setup.Listen[1:] }, func(a *service.Baton) string { return a.Dir + "/public.sock" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			first := service.Start(t, service.Listen("HOST:PORT", "unix:DIR/public.sock"), service.Files(t), service.Args("-idle-grace", "100ms"))
			// The first may be a successor by now.
			first.Upgrade()
			pid := first.PID()
			second := service.Prepare(t, service.Files(t))
			tt.share(first, second)

			began := time.Now()
			code, _, stderr := second.Run(second.Flags()...)
			if code != 1 {
				t.Errorf("exit code: got %d, want 1", code)
			}
			if !strings.Contains(stderr, tt.names(first)) {
				t.Errorf("stderr: got %q, want it to name %s", stderr, tt.names(first))
			}
			if n := errorLines(stderr); n != 1 {
				t.Errorf("errors: got %d, want one: %s", n, stderr)
			}
			if took := time.Since(began); took > await.Hang {
				t.Errorf("took %v", took)
			}
			service.CheckServes(t, first, 2, pid)
			if !http1.Answers("unix", first.Dir+"/public.sock") {
				t.Error("unix socket of the first: does not answer")
			}
			if code, out, stderr := first.Run("status", "-control", first.Control); code != 0 {
				t.Errorf("status of the first: got exit code %d, %s %s", code, out, stderr)
			}
			first.Upgrade()
			service.CheckServes(t, first, 3, first.PID())
		})
	}
}

// errorLines counts the lines on stderr that speak of an error: log lines of that level, and plain lines.
func errorLines(stderr string) (n int) {
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "{") || strings.Contains(line, `"level":"ERROR"`) {
			n++
		}
	}
	return n
}

func TestBadUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte("idle-grace never\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	free := net.JoinHostPort("127.0.0.1", service.FreePort(t, "127.0.0.1"))
	tests := []struct {
		name string
		args []string
		env  []string
		want []string // each has to be named
	}{
		{name: "every problem at once", args: []string{"-root", dir + "/none", "-proxy", "/a=ftp://x", "-log-level", "loud", "-listen", "nonsense"},
			want: []string{dir + "/none", "none of http, https and unix", "loud", "nonsense"}},
		{name: "unknown flag", args: []string{"-frobnicate"}, want: []string{"frobnicate"}},
		{name: "value that is no duration", args: []string{"-drain-timeout", "soon"}, want: []string{"soon", "drain-timeout"}},
		{name: "negative duration", args: []string{"-drain-timeout", "-3s"}, want: []string{"drain-timeout"}},
		{name: "unknown command", args: []string{"upgarde"}, want: []string{"upgarde"}},
		{name: "switch, and what follows it", args: []string{"-migrate=maybe", "-log-level", "loud"}, want: []string{`-migrate: "maybe" is not one of true, false`, "loud"}},
		{name: "switch in the environment", env: []string{"BATON_REDIRECT_HTTPS=si"}, want: []string{`-redirect-https: "si" is not`}},
		{name: "environment", env: []string{"BATON_DRAIN_TIMEOUT=soon"}, want: []string{"soon"}},
		{name: "configuration file", args: []string{"-config", conf}, want: []string{"never"}},
		{name: "missing configuration file", args: []string{"-config", conf + "x"}, want: []string{conf + "x"}},
		{name: "port out of range", args: []string{"-listen", "127.0.0.1:99999"}, want: []string{"99999"}},
		{name: "unix socket without a path", args: []string{"-listen", "unix:"}, want: []string{"unix:"}},
		{name: "root that is a file", args: []string{"-root", conf}, want: []string{conf}},
		{name: "share above 100 %", args: []string{"-canary", "110%"}, want: []string{`-canary: "110%" is not a share such as 10% or 0.1, of 100% at most`}},
		{name: "trial that takes no time", args: []string{"-canary-time", "0s"}, want: []string{"-canary-time: 0s is too short"}},
		{name: "verdict in the environment", env: []string{"BATON_CANARY_UNDECIDED=maybe"}, want: []string{`-canary-undecided: "maybe" is not one of promote, abort`}},
		{name: "proxy without a target", args: []string{"-proxy", "/a"}, want: []string{"/a"}},
	}
	for _, tt := range tests {
		for _, command := range []string{"", "check"} {
			name := tt.name
			if command != "" {
				if tt.name == "unknown command" {
					continue
				}
				name += ", " + command
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := service.Prepare(t)
				args := tt.args
				if command != "" {
					args = append([]string{command}, args...)
				}
				env := append(os.Environ(), b.Mark, "RUNTIME_DIRECTORY="+b.Dir, "BATON_ADMIN=")
				if command == "" && tt.name != "unknown command" {
					args = append(args[:len(args):len(args)], "-listen", free)
				}
				code, stdout, stderr := process.Run(t, build.Version(t, "v1"), append(env, tt.env...), args...)
				if code != 2 {
					t.Errorf("exit code: got %d, want 2; %s", code, stdout)
				}
				for _, want := range tt.want {
					if !strings.Contains(stderr, want) {
						t.Errorf("stderr: got %q, want it to name %q", stderr, want)
					}
				}
				if c, err := http1.Dial("tcp", free, time.Second); err == nil {
					c.Close()
					t.Error("the good address: got a connection, want nothing bound")
				}
			})
		}
	}
}

func TestCheckOfAGoodConfiguration(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t))
	// The very configuration of a service that runs: a check binds nothing.
	code, _, stderr := b.Run(append([]string{"check"}, b.Flags()...)...)
	if code != 0 {
		t.Errorf("check: got exit code %d, want 0; %s", code, stderr)
	}
	service.CheckServes(t, b, 1, b.PID())
}

func TestCommandsWithoutAServer(t *testing.T) {
	b := service.Prepare(t)
	for _, command := range []string{"upgrade", "status"} {
		for _, flags := range [][]string{nil, {"-json"}} {
			code, _, stderr := b.Run(append([]string{command, "-control", b.Control}, flags...)...)
			if code != 3 || !strings.Contains(stderr, b.Control) {
				t.Errorf("%s %v: got exit code %d, stderr %q, want 3 and the path of the socket", command, flags, code, stderr)
			}
		}
	}
	for _, command := range []string{"promote", "abort"} {
		if code, _, stderr := b.Run(command, "-control", b.Control); code != 3 || !strings.Contains(stderr, b.Control) {
			t.Errorf("%s: got exit code %d, stderr %q, want 3 and the path of the socket", command, code, stderr)
		}
	}
	code, stdout, _ := b.Run("version")
	if code != 0 || !strings.HasPrefix(stdout, "baton v1 (commit ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("version: got exit code %d, %q, want one line with v1", code, stdout)
	}
}

// A trial that is not under way cannot be ended, and nothing is disturbed.
func TestVerdictsWithoutATrial(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t))
	for _, args := range [][]string{{"promote"}, {"abort"}, {"abort", "-reason", "half of the logins fail"}} {
		code, stdout, stderr := b.Run(append(args, "-control", b.Control)...)
		if code != 4 || stdout != "" || !strings.HasPrefix(stderr, "baton: the server refuses: no trial ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: got exit code %d, %q, %q, want 4 and one line", args, code, stdout, stderr)
		}
	}
	if code, _, stderr := b.Run("upgrade", "-canary", "110%", "-control", b.Control); code != 2 || strings.Count(stderr, "\n") != 1 {
		t.Errorf("upgrade with too large a share: got exit code %d, %q, want 2 and one line", code, stderr)
	}
	service.CheckServes(t, b, 1, b.PID())
}
