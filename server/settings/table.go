package settings

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/baton/handlers/proxy"
	"example.com/baton/upgrade"
)

// setting is a row of the table.
type setting struct {
	name  string
	kind  kind
	value string // default of one that is given once
	help  string // as package flag takes it: the placeholder of the value is in backquotes
	parse func(string) error
}

// kind is how often a setting may be given, and with what.
type kind int

const (
	once   kind = iota // the last value counts
	each               // all values count, and each may be several, with commas between
	toggle             // true or false; without a value it is true
)

// table returns the settings of a generation, whose parsers set those of r. Those that
// are given once are parsed in this order.
func (r *reader) table() []setting {
	s := &r.settings
	s.Foreground, s.CrashRollback = Automatic, true
	rows := []setting{
		{"listen", each, "", "`address` to serve on: host:port, :port or unix:PATH, with tls: before it for TLS; repeatable (default :8080)", s.addAddress},
		{"tls-cert", each, "", "`file` with a certificate and its chain, for the tls: addresses; repeatable, with a -tls-key for each", file(&r.certificates)},
		{"tls-key", each, "", "`file` with the key of the -tls-cert in the same place; repeatable", file(&r.keys)},
		{"redirect-https", toggle, "", "redirect requests without TLS to the tls: address", boolean(&s.TLS.RedirectHTTPS)},
		{"admin", once, "127.0.0.1:9180", "`address` for metrics, health and status; empty: none", address(&s.Admin, "")},
		{"control", once, r.in.DefaultControl(), "`path` of the unix socket that upgrade and status connect to; empty: none", address(&s.Lifecycle.Control, "unix:")},
		{"pid-file", once, "", "`path` of a file that names the serving generation", s.setPIDFile},
		{"root", once, "", "`directory` whose files are served at /", text(&s.Files.Root)},
		{"listing", toggle, "", "list directories that have no index.html; false: answer them 403", boolean(&s.Files.Listing)},
		{"proxy", each, "", "`PREFIX=URL` to pass requests on to, or PREFIX=unix:PATH; repeatable, also with the same prefix for several backends", s.addProxyRule},
		{"proxy-wait", once, "5s", "`time` that a request waits for a backend that accepts connections", duration(&s.Proxy.Wait, 0)},
		{"proxy-health", once, "", "`path` that each backend is asked for every 2 s; empty: none is", s.setHealthPath},
		{"proxy-timeout", once, "1m0s", "`time` that a backend may take to begin its response", duration(&s.Proxy.HeaderTimeout, time.Millisecond)},
		{"trusted-proxies", each, "", "`CIDR` of proxies whose X-Forwarded-For, -Proto and -Host count, or unix: for the peers of unix sockets; repeatable", s.TrustedProxies.Add},
		{"max-body", once, "1073741824", "`bytes` of a proxied request's body, beyond which it is answered 413", s.setMaxBody},
		{"check", each, "", "`path` that a successor must answer with a status below 400 before it is given anything; repeatable", s.addCheck},
		{"canary", once, "0%", "`share` of the connections that a successor is tried on before it takes over", share(&s.Lifecycle.Trial.Share)},
		{"canary-time", once, defaultTrialTime.String(), "`time` that such a trial takes", duration(&s.Lifecycle.Trial.Time, time.Millisecond)},
		{"canary-latency", toggle, "", "a successor that is much slower fails its trial or watch, too", boolean(&s.Lifecycle.Trial.Latency)},
		{"canary-undecided", once, "promote", "what becomes of a successor that has had too few requests to be judged: `promote` or abort", s.setUndecided},
		{"watch", once, "0s", "`time` after the takeover in which the predecessor can take back", duration(&s.Lifecycle.Trial.Watch, 0)},
		{"upgrade-timeout", once, "1m0s", "`time` that a successor may take to be ready", duration(&s.Lifecycle.UpgradeTimeout, time.Millisecond)},
		{"drain-timeout", once, "30s", "`time` after which a drain closes connections forcibly", duration(&s.Lifecycle.DrainTimeout, time.Millisecond)},
		{"idle-grace", once, "1s", "`time` that an idle connection that cannot migrate stays open in a drain", s.setIdleGrace},
		{"websocket-grace", once, "0s", "`time` that WebSockets and other upgraded connections stay in a drain; 0: the drain timeout", duration(&s.Proxy.WebSocketGrace, 0)},
		{"stream-grace", once, "0s", "`time` that event streams through the proxy go on in a drain; 0: the drain timeout", duration(&s.Proxy.StreamGrace, 0)},
		{"migrate", toggle, "", "in a drain, migrate keep-alive connections to the successor; false: close them (default true)", s.setMigrate},
		{"max-draining", once, "4", "`number` of predecessors that may still drain when an upgrade begins", s.setMaxDraining},
		{"shutdown-delay", once, "0s", "`time` for which a server that stops still serves, while /readyz fails", duration(&s.Lifecycle.ShutdownDelay, 0)},
		{"idle-timeout", once, "1m15s", "`time` that a connection may stay idle between requests", duration(&s.Connections.IdleTimeout, time.Millisecond)},
		{"read-header-timeout", once, "10s", "`time` that a request's header may take", duration(&s.Connections.ReadHeaderTimeout, time.Millisecond)},
		{"crash-rollback", toggle, "", "under systemd, a new release that crashes three times within a minute is replaced by the previous one (default true)", boolean(&s.CrashRollback)},
		{"foreground", toggle, "", "the first process stays until the last generation has exited (default: where its exit would be taken for that of the service)", s.setForeground},
		{"log-format", once, "auto", "`format` of the log: text, json, or auto (text on a terminal and in the journal)", s.setLogFormat},
		{"log-level", once, "info", "least `level` that is logged: debug, info, warn or error", s.setLogLevel},
	}
	if r.in.Become != nil { // first, since it decides which files can be read
		rows = append([]setting{{"user", once, r.in.serviceUser(), "`name` of the user that the service runs as, whose rights root checks with", r.in.Become}}, rows...)
	}
	return rows
}

func text(into *string) func(string) error {
	return func(s string) error { *into = s; return nil }
}

// address returns a parser of addresses that may be missing, which are for package
// upgrade with a prefix.
func address(into *string, prefix string) func(string) error {
	return func(s string) error {
		if *into = s; s == "" {
			return nil
		}
		return upgrade.CheckAddress(prefix + s)
	}
}

func file(into *[]string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("want the path of a file")
		}
		*into = append(*into, s)
		return nil
	}
}

func boolean(into *bool) func(string) error {
	return func(s string) error {
		on, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is not one of true, false", s)
		}
		*into = on
		return nil
	}
}

func duration(into *time.Duration, least time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 1.5s or 2m", s)
		}
		if d < least {
			return fmt.Errorf("%v is too short; want %v or more", d, least)
		}
		*into = d
		return nil
	}
}

// share returns a parser of shares, which are from 0 to 1.
func share(into *float64) func(string) error {
	return func(s string) (err error) {
		*into, err = ParseShare(s)
		return err
	}
}

// ParseShare returns a share as settings have it: "10%" or "0.1", of 1 at most.
func ParseShare(s string) (float64, error) {
	number, isPercent := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if isPercent {
		n /= 100
	}
	if err != nil || !(n >= 0 && n <= 1) {
		return 0, fmt.Errorf("%q is not a share such as 10%% or 0.1, of 100%% at most", s)
	}
	return n, nil
}

func (s *Settings) setUndecided(verdict string) error {
	if s.Lifecycle.Trial.AbortUndecided = verdict == "abort"; !slices.Contains([]string{"promote", "abort"}, verdict) {
		return fmt.Errorf("%q is not one of promote, abort", verdict)
	}
	return nil
}

func (s *Settings) addAddress(text string) error {
	a := parseAddress(text)
	s.Listen = append(s.Listen, a)
	return upgrade.CheckAddress(a.Address)
}

func (s *Settings) setPIDFile(path string) error {
	if s.Lifecycle.PIDFile = path; path == "" {
		return nil
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err == nil && !dir.IsDir() {
		err = fmt.Errorf("%s is not a directory", filepath.Dir(path))
	}
	return err
}

func (s *Settings) addProxyRule(text string) error {
	rule, err := proxy.ParseRule(text)
	if err == nil {
		err = proxy.CheckRules(append(s.Proxy.Rules, rule))
	}
	if err == nil {
		s.Proxy.Rules = append(s.Proxy.Rules, rule)
	}
	return err
}

func (s *Settings) setHealthPath(path string) error {
	if s.Proxy.HealthPath = path; path == "" {
		return nil
	}
	return checkPath(path)
}

func (s *Settings) setMaxBody(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number of bytes of 1 or more", text)
	}
	s.Proxy.MaxBody = n
	return nil
}

// none turns a 0 into what means none where 0 means the default.
func none[T int | time.Duration](n T) T { return cmp.Or(n, -1) }

func (s *Settings) setIdleGrace(text string) error {
	err := duration(&s.Connections.IdleGrace, 0)(text)
	s.Connections.IdleGrace = none(s.Connections.IdleGrace)
	return err
}

func (s *Settings) setMigrate(text string) error {
	migrate := true
	err := boolean(&migrate)(text)
	s.Connections.DisableMigration = !migrate
	return err
}

func (s *Settings) setMaxDraining(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a number of 0 or more", text)
	}
	s.Lifecycle.MaxDraining = none(n)
	return nil
}

func (s *Settings) setForeground(text string) error {
	var on bool
	if err := boolean(&on)(text); err != nil {
		return err
	}
	s.Foreground = Foreground(strconv.FormatBool(on))
	return nil
}

func (s *Settings) setLogFormat(format string) error {
	if s.Log.Format = format; !slices.Contains([]string{"auto", "text", "json"}, format) {
		return fmt.Errorf("%q is not one of auto, text, json", format)
	}
	return nil
}

func (s *Settings) setLogLevel(level string) error {
	if s.Log.Level.UnmarshalText([]byte(level)) != nil {
		return fmt.Errorf("%q is not one of debug, info, warn, error", level)
	}
	return nil
}
