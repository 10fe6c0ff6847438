package settings_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/files"
	"example.com/baton/handlers/forwarded"
	"example.com/baton/handlers/proxy"
	"example.com/baton/server"
	"example.com/baton/server/settings"
	"example.com/baton/upgrade"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// write returns the path of a new file with a content.
func write(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// defaults are the settings without any input, in a directory for temporary files.
func defaults(tmp string) settings.Settings {
	return settings.Settings{
		Listen: settings.Addresses{{Address: ":8080"}},
		Admin:  "127.0.0.1:9180",
		Proxy:  proxy.Options{HeaderTimeout: time.Minute, Wait: 5 * time.Second, MaxBody: 1 << 30},
		Connections: server.Options{
			IdleGrace: time.Second, IdleTimeout: 75 * time.Second, ReadHeaderTimeout: 10 * time.Second,
		},
		Lifecycle: upgrade.Options{
			Control: filepath.Join(tmp, "baton-7", "control.sock"), UpgradeTimeout: time.Minute, DrainTimeout: 30 * time.Second,
			MaxDraining: 4, Trial: upgrade.Trial{Time: 30 * time.Second},
		},
		Foreground: settings.Automatic,
		Log:        settings.Log{Format: "auto"},

		CrashRollback: true,
	}
}

func TestRead(t *testing.T) {
	dir, rule := t.TempDir(), "/a=http://127.0.0.1:1"
	parsed, err := proxy.ParseRule(rule)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		args    []string
		environ []string
		file    string
		want    func(*settings.Settings)
	}{
		{name: "nothing", want: func(s *settings.Settings) {}},
		{
			name: "several in one", args: []string{"-listen", "127.0.0.1:81, unix:/x", "-listen", ":82"},
			want: func(s *settings.Settings) {
				s.Listen = settings.Addresses{{Address: "127.0.0.1:81"}, {Address: "unix:/x"}, {Address: ":82"}}
			},
		},
		{
			name: "all of the rest", args: []string{
				"-admin", "", "-control", "/c", "-pid-file", dir + "/pid", "-root", dir, "-listing", "-proxy", rule,
				"-proxy-timeout", "1ms", "-proxy-wait", "0s", "-proxy-health", "/health?deep=1", "-trusted-proxies", "10.0.0.0/8, unix:", "-max-body", "1",
				"-canary", "2.5%", "-canary-time", "1m", "-canary-latency", "-canary-undecided", "abort", "-watch", "9s", "-upgrade-timeout", "2s", "-drain-timeout", "3s", "-idle-grace", "0",
				"-websocket-grace", "4s", "-stream-grace", "5s", "-migrate=false", "-max-draining", "0", "-shutdown-delay", "6s",
				"-idle-timeout", "7s", "-read-header-timeout", "8s", "-foreground", "-log-format", "json", "-log-level", "warn",
			},
			want: func(s *settings.Settings) {
				s.Admin = ""
				s.Files = files.Options{Root: dir, Listing: true}
				s.Proxy = proxy.Options{Rules: []proxy.Rule{parsed}, HeaderTimeout: time.Millisecond, HealthPath: "/health?deep=1", MaxBody: 1,
					WebSocketGrace: 4 * time.Second, StreamGrace: 5 * time.Second}
				s.TrustedProxies.Add("10.0.0.0/8")
				s.TrustedProxies.Add("unix:")
				s.Connections = server.Options{IdleGrace: -1, DisableMigration: true, IdleTimeout: 7 * time.Second, ReadHeaderTimeout: 8 * time.Second}
				s.Lifecycle = upgrade.Options{Control: "/c", PIDFile: dir + "/pid", UpgradeTimeout: 2 * time.Second,
					DrainTimeout: 3 * time.Second, ShutdownDelay: 6 * time.Second, MaxDraining: -1,
					Trial: upgrade.Trial{Share: .025, Time: time.Minute, Latency: true, AbortUndecided: true, Watch: 9 * time.Second}}
				s.Foreground = settings.Always
				s.Log = settings.Log{Format: "json", Level: slog.LevelWarn}
			},
		},
		{
			name: "several backends", file: "proxy /=http://127.0.0.1:1\nproxy /=unix:/run/a\n",
			want: func(s *settings.Settings) {
				s.Proxy.Rules = []proxy.Rule{{Prefix: "/", Target: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}},
					{Prefix: "/", Target: &url.URL{Scheme: "unix", Path: "/run/a"}}}
			},
		},
		{
			name: "the first source counts", args: []string{"-max-draining", "1"},
			environ: []string{"BATON_MAX_DRAINING=2", "BATON_IDLE_GRACE=2s", "BATON_LISTEN=:82", "BATON_CANARY=0.2", "BATON_CANARY_LATENCY=true"},
			file:    "max-draining 3\nidle-grace 3s\nlisten :83\nlisten :84\ndrain-timeout 9s\ncanary 3%\nwatch 10s\n",
			want: func(s *settings.Settings) {
				s.Listen = settings.Addresses{{Address: ":82"}}
				s.Lifecycle.MaxDraining, s.Connections.IdleGrace, s.Lifecycle.DrainTimeout = 1, 2*time.Second, 9*time.Second
				s.Lifecycle.Trial = upgrade.Trial{Share: .2, Time: 30 * time.Second, Latency: true, Watch: 10 * time.Second}
			},
		},
		{
			name: "a variable that is empty counts if the default is not", environ: []string{"BATON_ADMIN=", "BATON_LISTEN="},
			file: "admin :1\nlisten :83\n",
			want: func(s *settings.Settings) { s.Admin, s.Listen = "", settings.Addresses{{Address: ":83"}} },
		},
		{
			name: "of two variables the first counts, as in os.Getenv", environ: []string{"BATON_ADMIN=:1", "BATON_ADMIN=:2"},
			want: func(s *settings.Settings) { s.Admin = ":1" },
		},
		{
			name: "the text of a file",
			file: "\ufeff# comment\r\n--admin\t:1\t# x\n\nlisting\nmigrate false\ncontrol \"\"\nlisten unix:/a#b\npid-file\u00a0" + dir + "/é",
			want: func(s *settings.Settings) {
				s.Admin, s.Files.Listing, s.Connections.DisableMigration, s.Lifecycle.Control = ":1", true, true, ""
				s.Listen, s.Lifecycle.PIDFile = settings.Addresses{{Address: "unix:/a#b"}}, dir+"/é"
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tmp := t.TempDir()
			in := settings.Input{Args: tt.args, Environ: append(tt.environ, "TMPDIR="+tmp), UID: 7}
			if tt.file != "" {
				in.Args = append([]string{"-config", write(t, tt.file)}, in.Args...)
			}
			want := defaults(tmp)
			tt.want(&want)
			got, err := settings.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(proxy.Options{}),
				cmp.AllowUnexported(forwarded.Trusted{}), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestReadProblems(t *testing.T) {
	for _, tt := range []struct {
		name string
		args string // with blanks between
		file string
		want []string
	}{
		{"all at once", "-nosuch 1 -listen x -listing=y -admin z -idle-grace 1 -max-body 0 -config FILE", "unknown\n\x00\n", []string{
			`-listen: `, `-listing: "y" is not one of true, false`, `unknown flag -nosuch; baton -h lists them`,
			`configuration file, line 1: unknown setting "unknown"; baton -h lists them`, `configuration file, line 2: "\x00" is not text`,
			`-admin: `, `-max-body: "0" is not a number of bytes of 1 or more`, `-idle-grace: "1" is not a duration such as 1.5s or 2m`,
		}},
		{"a file without settings", "-config FILE", "# nothing\n", []string{"sets nothing; restore it, or leave -config out"}},
		{"a file that is too large", "-config FILE", strings.Repeat("#", 1<<20), []string{"configuration file is larger than 1048576 bytes"}},
		{"settings that are for the command line", "-config FILE", "user x\nconfig x\n", []string{`line 1: unknown setting "user"`, `line 2: unknown setting "config"`}},
		{"no such file", "-config /nosuch", "", []string{"open /nosuch: no such file"}},
		{"a value is missing", "-admin", "", []string{"error parsing commandline arguments: flag needs an argument: -admin"}},
		{"too short", "-idle-timeout 0 -shutdown-delay -1s", "", []string{"-shutdown-delay: -1s is too short; want 0s or more", "-idle-timeout: 0s is too short; want 1ms or more"}},
		{"what may be a password is left out", "scheme:secret", "", []string{`unexpected argument "scheme…"`}},
		{"the same backend twice", "-proxy /a=http://x -proxy /a=http://x", "", []string{`-proxy: prefix "/a" has the backend http://x twice`}},
		{"backends with other paths", "-proxy /a=http://x/b -proxy /a=http://y", "", []string{`-proxy: prefix "/a" has backends with different paths`}},
		{"a health path that is none", "-proxy-health health", "", []string{`-proxy-health: "health" is not a path`}},
		{"a proxy that is no address", "-trusted-proxies 10.0.0.0/8,lb.example", "", []string{`-trusted-proxies: "lb.example" is neither`}},
		{"a key is missing", "-tls-cert x -listen tls::1", "", []string{"got 1 -tls-cert and 0 -tls-key; want them in pairs"}},
		{"no certificate", "-listen :1 -listen tls::2", "", []string{"-listen tls::2: want -tls-cert and -tls-key"}},
		{"no address for TLS", "-tls-cert /x -tls-key /y", "", []string{"-tls-cert is given, but no address for TLS", "certificate /x with key /y: "}},
		{"no address to redirect to", "-redirect-https -listen unix:/x", "", []string{"-redirect-https: want -listen tls:HOST:PORT"}},
		{"one address twice", "-listen :1 -admin :1", "", []string{":1"}},
		{"no such directories", "-root /nosuch -pid-file /nosuch/pid", "", []string{"-pid-file: ", "-root: "}},
		{"no shares and times of a trial", "-canary 101% -canary-time 0 -canary-undecided maybe -watch 10", "", []string{
			`-canary: "101%" is not a share such as 10% or 0.1, of 100% at most`, `-canary-time: 0s is too short; want 1ms or more`,
			`-canary-undecided: "maybe" is not one of promote, abort`, `-watch: "10" is not a duration such as 1.5s or 2m`,
		}},
		{"not one of a few", "-log-format x -log-level y -max-draining -1 -foreground=z", "", []string{
			`-foreground: "z" is not one of true, false`, `-max-draining: "-1" is not a number of 0 or more`,
			`-log-format: "x" is not one of auto, text, json`, `-log-level: "y" is not one of debug, info, warn, error`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(tt.args, "FILE", write(t, tt.file)))
			_, err := settings.Read(settings.Input{Args: args})
			if err == nil {
				t.Fatal("got no error")
			}
			got := strings.Split(err.Error(), "\n")
			if !slices.EqualFunc(got, tt.want, strings.Contains) {
				t.Errorf("got\n%s\nwant\n%s", err, strings.Join(tt.want, "\n"))
			}
		})
	}
}

// -user decides which files can be read, and so comes before all others.
func TestReadAsAnotherUser(t *testing.T) {
	failure := errors.New("no such user")
	root := t.TempDir()
	var got string
	in := settings.Input{Args: []string{"-pid-file", root + "/pid", "-user", "shop", "-config", write(t, "user x\n")}, UID: 7, Become: func(user string) error {
		got = user
		os.Remove(root)
		return failure
	}}
	_, err := settings.Read(in)
	if got != "shop" || !errors.Is(err, failure) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("became %q, and got error %v, want shop, %v and that of a directory which it may not read", got, err, failure)
	}
	if !strings.Contains(err.Error(), `unknown setting "user"`) {
		t.Errorf("got %v, want a complaint about -user in a file", err)
	}
	in.Become = nil
	if _, err := settings.Read(in); err == nil || !strings.Contains(err.Error(), "unknown flag -user") {
		t.Errorf("got %v where nobody can become another user, want an unknown flag", err)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"-nosuch", "--help"}} {
		_, err := settings.Read(settings.Input{Args: args})
		help, ok := errors.AsType[settings.Help](err)
		if !ok || !strings.Contains(help.Flags, "  -admin address\n    \taddress for metrics, health and status; empty: none (default \"127.0.0.1:9180\")\n") {
			t.Errorf("%v: got %v %q, want help", args, err, help.Flags)
		}
	}
}
