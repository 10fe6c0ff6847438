// Baton is an HTTP server that is replaced while it runs: on SIGHUP it hands
// its listening sockets to a new version of itself, and loses no request.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"example.com/baton/handlers"
	"example.com/baton/server"
	"example.com/baton/systemd"
	"example.com/baton/upgrade"
	"example.com/baton/upgrade/logging"
	"github.com/peterbourgon/ff/v3"
	"golang.org/x/term"
)

// Exit codes.
const (
	done        = 0
	failed      = 1
	badUsage    = 2
	noServer    = 3
	notPossible = 4 // refused, or the wait ran out
)

// version is set by the linker: -ldflags "-X main.version=1.4.0".
var version string

func main() { os.Exit(command(os.Args[1:])) }

func command(args []string) int {
	name := ""
	if len(args) > 0 && (!strings.HasPrefix(args[0], "-") || slices.Contains([]string{"-version", "--version"}, args[0])) {
		name, args = args[0], args[1:]
		os.Unsetenv(stderrVariable) // is for generations
	}
	switch name {
	case "help":
		return serve(nil, []string{"-h"})
	case "":
		return serve(upgrade.Signals(), args)
	case "upgrade":
		return askUpgrade(args)
	case "status":
		return askStatus(args)
	case "check":
		return check(args)
	case "version", "-version", "--version":
		v, revision := build()
		fmt.Printf("baton %s (commit %s, %s)\n", v, revision, runtime.Version())
		return done
	}
	return complain(badUsage, fmt.Errorf("unknown command %q; want upgrade, status, check, version, or flags to serve", name))
}

// serve is the life of one generation.
func serve(signals <-chan os.Signal, args []string) int {
	cfg, err := configure(args, nil)
	if err != nil {
		return complain(badUsage, err)
	}
	foreground := upgrade.Foreground{Variable: "BATON_ATTENDED", Always: cfg.foreground == "true"}
	if cfg.foreground != "false" {
		if code, waited := foreground.Wait(signals); waited {
			return code
		}
	}
	if cfg.control != "" && cfg.control == temporaryControl() {
		if err := ownFolder(filepath.Dir(cfg.control)); err != nil {
			return complain(failed, err)
		}
	}
	output := logging.NewOutput(2)
	defer output.Flush()
	complain := func(code int, err error) int {
		output.Flush() // the reason comes last
		return complain(code, err)
	}
	logger := cfg.logger(output)
	// net/http, for one, reports through package log what no other logger was given for.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	slog.SetDefault(logger)
	v, revision := build()
	if name := foreground.Supervisor(); name != "" {
		logger.Warn("this process ends with the first upgrade, which its parent would take for the end of the service; start it with -foreground",
			"parent", name)
	}

	var (
		public, admin *server.Server
		both          service
	)
	// The hooks of a stop have ten seconds, and a predecessor that still drains five more.
	tell := newAttendance(systemd.New(), logger, cfg.shutdownDelay+cfg.drainTimeout+20*time.Second)
	gen, err := upgrade.New(upgrade.Options{
		Version:        v,
		Control:        cfg.control,
		PIDFile:        cfg.pidFile,
		UpgradeTimeout: cfg.upgradeTimeout,
		DrainTimeout:   cfg.drainTimeout,
		MaxDraining:    cfg.maxDraining,
		ShutdownDelay:  cfg.shutdownDelay,
		Logger:         logger,
		Output:         output,
		Store:          tell.manager,
	})
	if err != nil {
		return complain(failed, withHint(err))
	}
	tickets, err := server.NewTicketKeys(gen.Secret())
	if err != nil {
		logger.Warn("TLS sessions that began at the predecessor cannot be resumed", "error", err)
	}
	certificates, err := cfg.loadCertificates(logger)
	if err != nil {
		return complain(failed, err)
	}
	metrics := handlers.NewMetrics(handlers.MetricsOptions{
		Version: v, Revision: revision,
		Source: func() handlers.Snapshot { return snapshot(gen, public, admin, certificates, output) },
		Others: func(ctx context.Context) map[string]float64 { return gen.Others(ctx) },
	})
	if err := gen.CheckContinuity(cfg.addresses()...); err != nil {
		return complain(badUsage, err)
	}
	var listeners []net.Listener
	for _, addr := range cfg.listen {
		ln, err := gen.Listen(addr.address)
		if err != nil {
			return complain(failed, err)
		}
		listeners = append(listeners, ln)
		about := []any{"address", ln.Addr().String()}
		if addr.tls {
			about = append(about, "tls", true)
		}
		logger.Info("listens", about...)
	}
	handler, err := cfg.handler(gen, v, logger)
	if err != nil {
		return complain(failed, err)
	}
	if cfg.redirectHTTPS {
		handler = handlers.RedirectHTTPS(cfg.httpsPort(listeners), handler)
	}
	options := server.Options{
		Handler:           handlers.Log(metrics.Count(handlers.Resources(handler)), logger),
		IdleGrace:         cfg.idleGrace,
		DisableMigration:  !cfg.migrate,
		IdleTimeout:       cfg.idleTimeout,
		ReadHeaderTimeout: cfg.readHeaderTimeout,
		Logger:            logger,
	}
	public = server.New(options)
	options.Handler = handlers.Admin(handlers.AdminOptions{
		Metrics:  metrics,
		Ready:    gen.TakesRequests,
		Healthy:  func() error { return both.Accepting() },
		Status:   func() any { return gen.Status() },
		Host:     cfg.adminHost(),
		Draining: server.Draining,
	})
	options.MaxConnections = 16
	admin = server.New(options)

	both = service{public: public, admin: admin, metrics: metrics, tickets: tickets}
	encrypted := &tls.Config{GetCertificate: certificates.Get}
	tickets.Use(encrypted)
	for i, ln := range listeners {
		if cfg.listen[i].tls {
			public.AddTLS(ln, encrypted)
		} else {
			public.Add(ln)
		}
	}
	go func() {
		for range time.Tick(5 * time.Second) {
			certificates.Refresh()
			tickets.Rotate()
		}
	}()
	if cfg.admin != "" {
		if both.adminListener, err = gen.Listen(cfg.admin); err != nil {
			return complain(failed, fmt.Errorf("%w (the admin listener; -admin names another)", err))
		}
		admin.Add(both.adminListener)
		logger.Info("listens", "address", both.adminListener.Addr().String(), "for", "admin")
	}
	gen.Observe(observer{tell: tell, gen: gen, service: both})
	if err := gen.Run(both, signals); err != nil {
		return complain(failed, err)
	}
	tell.leave()
	return done
}

// observer passes what happens to a generation on to the service manager and the metrics.
type observer struct {
	tell    *attendance
	gen     *upgrade.Generation
	service service
}

func (o observer) StateChanged(from, to upgrade.State) { o.tell.state(o.gen, o.service, from, to) }

func (o observer) Ready(took time.Duration) { o.service.metrics.ObserveUpgrade(took) }

func (o observer) PredecessorDrained(d upgrade.Drained) {
	o.service.metrics.ObserveDrain(time.Duration(d.Seconds * float64(time.Second)))
}

func (o observer) Orphaned() { o.tell.orphaned() }

// attendance is what the service manager hears of this generation.
type attendance struct {
	manager  *systemd.Manager
	log      *slog.Logger
	stopTime time.Duration // that a stop may take

	serving context.Context // until a successor serves, or the process ends
	end     context.CancelFunc
	running sync.WaitGroup
}

func newAttendance(manager *systemd.Manager, log *slog.Logger, stopTime time.Duration) *attendance {
	a := &attendance{manager: manager, log: log, stopTime: stopTime}
	a.serving, a.end = context.WithCancel(context.Background())
	return a
}

// state tells of a change of state.
func (a *attendance) state(gen *upgrade.Generation, s service, from, to upgrade.State) {
	status := func() string { return gen.Status().String() }
	switch {
	case to == upgrade.Serving:
		err := a.manager.Ready()
		a.warn(err)
		if errors.Is(err, syscall.EAGAIN) { // or the predecessor's end would be taken for that of the service
			a.running.Go(func() {
				for a.serving.Err() == nil && errors.Is(err, syscall.EAGAIN) {
					err = a.manager.Ready()
				}
			})
		}
	case to == upgrade.Upgrading:
		a.warn(a.manager.Reloading())
	case to == upgrade.Draining && gen.TakesRequests(): // the successor does, and tells the rest
		a.end()
		return
	case to == upgrade.Exited:
		return
	case to == upgrade.Draining:
		a.warn(a.manager.Stopping(a.stopTime + gen.PredecessorDrain()))
	}
	a.warn(a.manager.Status(status()))
	if from == upgrade.Starting {
		a.running.Go(func() { a.manager.Attend(a.serving, a.log, alive(gen, s), status) })
	}
}

// orphaned tells of a successor that died after it had taken over: systemd did not
// notice, because it was not its child yet.
func (a *attendance) orphaned() { a.warn(a.manager.Fail()) }

// leave returns when the manager may see this process exit: it must know of the
// successor before.
func (a *attendance) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	a.warn(a.manager.Barrier(ctx))
	a.end()
	a.running.Wait()
}

func (a *attendance) warn(err error) {
	if err != nil {
		a.log.Warn("service manager not told", "error", err)
	}
}

// alive returns what the watchdog asks: whether this generation answers.
func alive(gen *upgrade.Generation, s service) func(context.Context) error {
	return func(ctx context.Context) error {
		err := gen.Alive(ctx)
		if err == nil && gen.TakesRequests() { // else the servers may be closed
			err = s.Check(ctx)
		}
		return err
	}
}

// service is the public and the admin server as one.
type service struct {
	public, admin *server.Server
	adminListener net.Listener
	metrics       *handlers.Metrics
	tickets       *server.TicketKeys
}

// Counts returns what this generation has counted, for its neighbours.
func (s service) Counts() upgrade.Counts { return s.metrics.Own() }

// Secret returns the keys of session tickets.
func (s service) Secret() []byte { return s.tickets.Secret() }

func (s service) Check(ctx context.Context) error {
	return errors.Join(s.public.Check(ctx), s.admin.Check(ctx))
}

// Accepting returns what keeps listeners from accepting connections.
func (s service) Accepting() error {
	return errors.Join(s.public.Accepting(), s.admin.Accepting())
}

// Adopts asks the server of the listener.
func (s service) Adopts(ln net.Listener) bool {
	return s.public.Adopts(ln) && s.admin.Adopts(ln)
}

// Adopt gives a connection to the server of its listener.
func (s service) Adopt(c upgrade.Connection) {
	if c.Listener == s.adminListener {
		s.admin.Adopt(c)
	} else {
		s.public.Adopt(c)
	}
}

func (s service) Serve() {
	s.public.Serve()
	s.admin.Serve()
}

// Load is that of the public listeners: scrapes and probes are no work.
func (s service) Load() upgrade.Load { return s.public.Load() }

// Drain drains both. Unless a successor answers on the admin listener, that one
// goes on until the public ones are drained, so that a stop can be watched.
func (s service) Drain(ctx context.Context, h upgrade.Handoff) upgrade.Drained {
	if s.adminListener == nil || h.Kept(s.adminListener) {
		drained := make(chan upgrade.Drained, 1)
		go func() { drained <- s.admin.Drain(ctx, h) }()
		d := s.public.Drain(ctx, h)
		<-drained
		return d
	}
	d := s.public.Drain(ctx, h)
	brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	s.admin.Drain(brief, h)
	return d
}

func snapshot(gen *upgrade.Generation, public, admin *server.Server, certificates *server.Certificates, output *logging.Output) handlers.Snapshot {
	status := gen.Status()
	load := status.Load() // of all generations that live
	s := handlers.Snapshot{
		Generation: gen.Number(),
		State:      status.State,
		Upgrades:   make(map[string]uint64),
		Connections: map[string]int{
			"new": load.Connections.New, "active": load.Connections.Active, "idle": load.Connections.Idle,
			"hijacked": load.Connections.Hijacked,
		},
		Accepted:         public.Accepted(),
		AcceptErrors:     public.AcceptErrors() + admin.AcceptErrors(),
		Closed:           make(map[string]uint64),
		Migrated:         make(map[string]uint64),
		RequestsInFlight: load.Requests,
		LogDropped:       output.Dropped(),
		Certificates:     make(map[string]handlers.Validity),
		LastUpgrade:      make(map[string]time.Time),
	}
	for name, valid := range certificates.Validity() {
		s.Certificates[name] = handlers.Validity(valid)
	}
	for _, u := range status.Upgrades { // oldest first
		s.LastUpgrade[string(u.Result)] = u.Time
	}
	s.Predecessors = gen.Predecessors()
	for result, n := range gen.Results() {
		s.Upgrades[string(result)] = n
	}
	for why, n := range public.Closed() {
		s.Closed[why.String()] = n
	}
	s.Migrated["in"], s.Migrated["out"] = public.Migrated()
	return s
}

func askUpgrade(args []string) int {
	ask := newAsk(3 * time.Minute)
	if err := ask.parse(args); err != nil {
		return complain(badUsage, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), ask.timeout)
	defer cancel()

	var progress func(string)
	clear := func() {}
	if width, _, err := term.GetSize(2); err == nil {
		progress = func(line string) { fmt.Fprintf(os.Stderr, "\r\033[K%.*s", max(width-1, 0), line) }
		clear = func() { fmt.Fprint(os.Stderr, "\r\033[K") }
	}
	outcome, err := upgrade.Ask(ctx, ask.control, progress)
	clear()
	if err != nil {
		err = withHint(err)
		if ask.json {
			printJSON(upgrade.Outcome{Result: upgrade.Unknown, Reason: err.Error()})
		}
		return complain(askFailed(err), err)
	}
	if ask.json {
		printJSON(outcome)
	} else if outcome.Result == upgrade.Succeeded {
		fmt.Println(outcome)
	} else {
		complain(failed, errors.New(outcome.String()))
		for _, line := range outcome.Stderr {
			fmt.Fprintln(os.Stderr, "  | "+line)
		}
		if outcome.Result == upgrade.Failed && outcome.Generation > 0 {
			fmt.Fprintf(os.Stderr, "generation %d (pid %d, version %s) goes on serving\n", outcome.Generation, outcome.PID, outcome.Version)
		}
	}
	switch outcome.Result {
	case upgrade.Succeeded:
		return done
	case upgrade.Refused:
		return notPossible
	}
	return failed
}

func askStatus(args []string) int {
	ask := newAsk(5 * time.Second)
	if err := ask.parse(args); err != nil {
		return complain(badUsage, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), ask.timeout)
	defer cancel()
	status, err := upgrade.AskStatus(ctx, ask.control)
	if err != nil {
		return complain(askFailed(err), withHint(err))
	}
	if ask.json {
		printJSON(status)
	} else {
		status.WriteTo(os.Stdout)
	}
	return done
}

// withHint adds to an error what a user of this program can do about it.
func withHint(err error) error {
	switch {
	case errors.Is(err, upgrade.ErrControl):
		return fmt.Errorf("%w (the control socket; -control names another)", err)
	case errors.Is(err, upgrade.ErrNoServer):
		return fmt.Errorf("%w; is it running, and is this its -control path?", err)
	case errors.Is(err, upgrade.ErrUntrusted):
		return fmt.Errorf("%w, or name the right socket with -control", err)
	case errors.Is(err, upgrade.ErrUnderway):
		return fmt.Errorf("%w; baton status tells how it ends", err)
	}
	return err
}

func askFailed(err error) int {
	switch {
	case errors.Is(err, upgrade.ErrNoServer):
		return noServer
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, upgrade.ErrRefused):
		return notPossible
	}
	return failed
}

// check validates a configuration and binds nothing.
func check(args []string) int {
	own, control := defaultControl(), serverControl()
	cfg, err := configure(args, become)
	if err != nil {
		return complain(badUsage, err)
	}
	certificates, _ := cfg.loadCertificates(slog.New(slog.DiscardHandler)) // has gone well once
	for _, warning := range certificates.Invalid(time.Now()) {
		complain(done, fmt.Errorf("warning: %w", warning))
	}
	var listens []string
	for _, addr := range cfg.listen {
		listens = append(listens, addr.String())
	}
	if cfg.control != own {
		control = cfg.control
	}
	if control != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		status, err := upgrade.AskStatus(ctx, control)
		switch {
		case err == nil && status.DropsAll(cfg.addresses()...):
			return complain(badUsage, fmt.Errorf("an upgrade to this configuration would drop every listener of the running server, %q; keep one of them in this upgrade, or restart the service", status.Listen))
		case err != nil && !errors.Is(err, upgrade.ErrNoServer):
			complain(done, fmt.Errorf("warning: it is unknown whether the running server could be upgraded to it: %w", withHint(err)))
		}
	}
	fmt.Printf("the configuration is good: listens at %s\n", strings.Join(listens, ", "))
	return done
}

// serviceUser returns the user that the service runs as, if this is root, who may read
// what that user may not: the one that owns the control socket of the running service,
// or else the one that systemd/install.sh makes.
func serviceUser() string {
	if os.Geteuid() != 0 {
		return ""
	}
	if info, err := os.Stat(serverControl()); err == nil {
		return fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid)
	}
	if baton, err := user.Lookup("baton"); err == nil {
		return baton.Username
	}
	return ""
}

// become makes this process one of another user.
func become(name string) error {
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if _, isUID := strconv.Atoi(name); err != nil && isUID == nil {
		if u, err = user.LookupId(name); err != nil { // that of a container may have no account
			u, err = &user.User{Uid: name, Gid: name}, nil
		}
	}
	if err != nil {
		return err
	}
	var groups []int
	if u.Username != "" {
		ids, err := u.GroupIds()
		if err != nil {
			return fmt.Errorf("learn the groups of user %s: %w", name, err)
		}
		for _, id := range ids {
			if gid, err := strconv.Atoi(id); err == nil {
				groups = append(groups, gid)
			}
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil || uid == os.Geteuid() {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(groups), syscall.Setgid(gid), syscall.Setuid(uid)); err != nil {
		return fmt.Errorf("check as user %s: %w; run it as root, or as that user", name, err)
	}
	return nil
}

// ask is what `upgrade` and `status` are told.
type ask struct {
	flags   *flag.FlagSet
	control string
	timeout time.Duration
	json    bool
}

func newAsk(timeout time.Duration) *ask {
	a := &ask{flags: newFlags()}
	a.flags.StringVar(&a.control, "control", serverControl(), "`path` of the server's control socket")
	a.flags.DurationVar(&a.timeout, "timeout", timeout, "how long to wait")
	a.flags.BoolVar(&a.json, "json", false, "print JSON")
	a.flags.String("config", "", "`file` to read the control path from")
	return a
}

func (a *ask) parse(args []string) error {
	// The server's file holds settings that mean nothing here.
	if err := parseFlags(a.flags, args, false); err != nil {
		return err
	}
	if a.timeout <= 0 {
		return fmt.Errorf("-timeout %v: want more than 0", a.timeout)
	}
	if a.control == "" {
		return errors.New("-control is empty; want the path of the server's control socket")
	}
	return nil
}

// config is what a generation is told.
type config struct {
	listen            []listen
	certificates      []server.CertificateFiles
	redirectHTTPS     bool
	admin             string
	control           string
	pidFile           string
	root              string
	listing           bool
	proxy             []handlers.ProxyRule
	proxyTimeout      time.Duration
	maxBody           int64
	upgradeTimeout    time.Duration
	drainTimeout      time.Duration
	idleGrace         time.Duration
	migrate           bool
	maxDraining       int
	webSocketGrace    time.Duration
	streamGrace       time.Duration
	shutdownDelay     time.Duration
	idleTimeout       time.Duration
	readHeaderTimeout time.Duration
	foreground        string // true, false, or automatic
	logFormat         string
	logLevel          slog.Level
}

// listen is where the public server does.
type listen struct {
	address string // as package upgrade takes it
	tls     bool
}

const prefixTLS = "tls:"

func parseListen(s string) listen {
	address, isTLS := strings.CutPrefix(s, prefixTLS)
	return listen{address, isTLS}
}

// isHTTPS tells whether a browser could come here.
func (l listen) isHTTPS() bool { return l.tls && !strings.HasPrefix(l.address, "unix:") }

func (l listen) String() string {
	if l.tls {
		return prefixTLS + l.address
	}
	return l.address
}

// configure reads flags, environment and file. With become, it does what else it reads as
// the user that -user names. The error tells all that is wrong.
func configure(args []string, become func(user string) error) (config, error) {
	var (
		cfg      config
		problems []error
	)
	wrong := func(err error) { problems = append(problems, err) }
	flags := newFlags()

	// Each setting is taken as text and read afterwards, so that one that is
	// wrong does not hide the next.
	var read []func()
	setting := func(name, value, help string, set func(string) error) {
		text := flags.String(name, value, help)
		read = append(read, func() {
			if err := set(*text); err != nil {
				wrong(fmt.Errorf("-%s: %w", name, err))
			}
		})
	}
	duration := func(name string, into *time.Duration, value time.Duration, least time.Duration, help string) {
		setting(name, value.String(), help, func(s string) error {
			d, err := time.ParseDuration(s)
			if err != nil {
				return fmt.Errorf("%q is not a duration such as 1.5s or 2m", s)
			}
			if d < least {
				return fmt.Errorf("%v is too short; want %v or more", d, least)
			}
			*into = d
			return nil
		})
	}
	repeated := func(name, help string, set func(string) error) {
		flags.Func(name, help, func(values string) error {
			for value := range strings.SplitSeq(values, ",") {
				if err := set(strings.TrimSpace(value)); err != nil {
					wrong(fmt.Errorf("-%s: %w", name, err))
				}
			}
			return nil
		})
	}

	toggle := func(name string, into *bool, help string) {
		flags.BoolFunc(name, help, func(s string) error {
			on, err := strconv.ParseBool(s)
			if err != nil {
				wrong(fmt.Errorf("-%s: %q is not one of true, false", name, s))
				return nil
			}
			*into = on
			return nil
		})
	}

	flags.String("config", "", "`file` with a setting in each line: name value")
	if become != nil {
		setting("user", serviceUser(), "`name` of the user that the service runs as, for root to check as", become)
	}
	repeated("listen", "`address` to serve on: host:port, :port or unix:PATH, with tls: before it for TLS; repeatable (default :8080)", func(s string) error {
		l := parseListen(s)
		cfg.listen = append(cfg.listen, l)
		return upgrade.CheckAddress(l.address)
	})
	var certificates, keys []string
	file := func(into *[]string) func(string) error {
		return func(s string) error {
			if s == "" {
				return errors.New("want the path of a file")
			}
			*into = append(*into, s)
			return nil
		}
	}
	repeated("tls-cert", "`file` with a certificate and its chain, for the tls: addresses; repeatable, with a -tls-key for each", file(&certificates))
	repeated("tls-key", "`file` with the key of the -tls-cert in the same place; repeatable", file(&keys))
	toggle("redirect-https", &cfg.redirectHTTPS, "redirect requests without TLS to the tls: address")
	setting("admin", "127.0.0.1:9180", "`address` for metrics, health and status; empty: none", func(s string) error {
		if cfg.admin = s; s == "" {
			return nil
		}
		return upgrade.CheckAddress(s)
	})
	setting("control", defaultControl(), "`path` of the unix socket that upgrade and status talk to; empty: none", func(s string) error {
		if cfg.control = s; s == "" {
			return nil
		}
		return upgrade.CheckAddress("unix:" + s)
	})
	setting("pid-file", "", "`path` of a file that names the generation that serves", func(s string) error {
		if cfg.pidFile = s; s == "" {
			return nil
		}
		dir, err := os.Stat(filepath.Dir(s))
		if err == nil && !dir.IsDir() {
			err = fmt.Errorf("%s is not a directory", filepath.Dir(s))
		}
		return err
	})
	setting("root", "", "`folder` whose files are served at /", func(s string) error {
		cfg.root = s
		return nil
	})
	toggle("listing", &cfg.listing, "list directories that have no index.html; false: answer them 403")
	repeated("proxy", "`PREFIX=URL` to pass requests on to; repeatable", func(s string) error {
		rule, err := handlers.ParseProxyRule(s)
		if slices.ContainsFunc(cfg.proxy, func(r handlers.ProxyRule) bool { return err == nil && r.Prefix == rule.Prefix }) {
			err = fmt.Errorf("prefix %s is given twice", rule.Prefix)
		}
		cfg.proxy = append(cfg.proxy, rule)
		return err
	})
	duration("proxy-timeout", &cfg.proxyTimeout, time.Minute, time.Millisecond, "`time` that a backend may take to begin its response")
	setting("max-body", "1073741824", "`bytes` of a proxied request's body, beyond which it is answered 413", func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a number of bytes of 1 or more", s)
		}
		cfg.maxBody = n
		return nil
	})
	duration("upgrade-timeout", &cfg.upgradeTimeout, time.Minute, time.Millisecond, "`time` that a successor may take to be ready")
	duration("drain-timeout", &cfg.drainTimeout, 30*time.Second, time.Millisecond, "`time` after which a drain cuts what still runs")
	duration("idle-grace", &cfg.idleGrace, time.Second, 0, "`time` that a silent connection that does not move stays in a drain")
	duration("websocket-grace", &cfg.webSocketGrace, 0, 0, "`time` that WebSockets and other upgraded connections stay in a drain; 0: the drain timeout")
	duration("stream-grace", &cfg.streamGrace, 0, 0, "`time` that event streams through the proxy go on in a drain; 0: the drain timeout")
	cfg.migrate = true
	toggle("migrate", &cfg.migrate, "in a drain, move keep-alive connections to the successor; false: close them (default true)")
	setting("max-draining", "4", "`number` of predecessors that may still drain when an upgrade begins", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a number of 0 or more", s)
		}
		cfg.maxDraining = n
		return nil
	})
	duration("shutdown-delay", &cfg.shutdownDelay, 0, 0, "`time` for which a stop goes on serving while /readyz fails")
	duration("idle-timeout", &cfg.idleTimeout, 75*time.Second, time.Millisecond, "`time` that a connection may be silent between requests")
	duration("read-header-timeout", &cfg.readHeaderTimeout, 10*time.Second, time.Millisecond, "`time` that a request's header may take")
	cfg.foreground = "automatic"
	flags.BoolFunc("foreground", "the first process stays until the last generation is gone (default: where its end would be taken for the service's)", func(s string) error {
		on, err := strconv.ParseBool(s)
		if err != nil {
			wrong(fmt.Errorf("-foreground: %q is not one of true, false", s))
			return nil
		}
		cfg.foreground = strconv.FormatBool(on)
		return nil
	})
	setting("log-format", "auto", "`format` of the log: text, json, or auto (text on a terminal and in the journal)", func(s string) error {
		if cfg.logFormat = s; !slices.Contains([]string{"auto", "text", "json"}, s) {
			return fmt.Errorf("%q is not one of auto, text, json", s)
		}
		return nil
	})
	setting("log-level", "info", "least `level` that is logged: debug, info, warn or error", func(s string) error {
		if cfg.logLevel.UnmarshalText([]byte(s)) != nil {
			return fmt.Errorf("%q is not one of debug, info, warn, error", s)
		}
		return nil
	})

	if err := parseFlags(flags, args, true); err != nil {
		wrong(err)
	}
	for _, r := range read {
		r()
	}
	if len(cfg.listen) == 0 {
		cfg.listen = []listen{{address: ":8080"}}
	}
	if err := upgrade.CheckDistinct(append(cfg.addresses(), cfg.admin)...); err != nil {
		wrong(err)
	}
	isTLS := func(l listen) bool { return l.tls }
	switch hasTLS := slices.ContainsFunc(cfg.listen, isTLS); {
	case len(certificates) != len(keys):
		wrong(fmt.Errorf("got %d -tls-cert and %d -tls-key; want them in pairs", len(certificates), len(keys)))
	case hasTLS && len(keys) == 0:
		wrong(fmt.Errorf("-listen %s: want -tls-cert and -tls-key", cfg.listen[slices.IndexFunc(cfg.listen, isTLS)]))
	case len(keys) > 0 && !hasTLS:
		wrong(errors.New("-tls-cert is given, but no address for TLS; want -listen tls:ADDRESS"))
	}
	if cfg.redirectHTTPS && !slices.ContainsFunc(cfg.listen, listen.isHTTPS) {
		wrong(errors.New("-redirect-https: want -listen tls:HOST:PORT, to lead there"))
	}
	for i := range min(len(certificates), len(keys)) {
		cfg.certificates = append(cfg.certificates, server.CertificateFiles{Certificate: certificates[i], Key: keys[i]})
	}
	if _, err := server.LoadCertificates(cfg.certificates, nil); err != nil {
		wrong(err)
	}
	if cfg.idleGrace == 0 {
		cfg.idleGrace = -1 // none, where 0 would be the default
	}
	if cfg.maxDraining == 0 {
		cfg.maxDraining = -1
	}
	if cfg.root != "" {
		if _, err := handlers.Files(handlers.FilesOptions{Root: cfg.root}); err != nil {
			wrong(fmt.Errorf("-root: %w", err))
		}
	}
	return cfg, errors.Join(problems...)
}

// loadCertificates reads them, and logs which are not valid now.
func (cfg config) loadCertificates(logger *slog.Logger) (*server.Certificates, error) {
	certificates, err := server.LoadCertificates(cfg.certificates, logger)
	if err != nil {
		return nil, err
	}
	for _, invalid := range certificates.Invalid(time.Now()) {
		logger.Warn("clients will refuse a certificate", "error", invalid)
	}
	return certificates, nil
}

// addresses returns those of the public listeners.
func (cfg config) addresses() (addresses []string) {
	for _, l := range cfg.listen {
		addresses = append(addresses, l.address)
	}
	return addresses
}

// httpsPort returns the port of the first address for TLS that has one.
func (cfg config) httpsPort(listeners []net.Listener) int {
	at := slices.IndexFunc(cfg.listen, listen.isHTTPS)
	return listeners[at].Addr().(*net.TCPAddr).Port
}

// adminHost returns the host that -admin names.
func (cfg config) adminHost() string {
	host, _, _ := net.SplitHostPort(cfg.admin) // fails for a unix socket, which has none
	return host
}

// handler is what the public listeners serve.
func (cfg config) handler(gen *upgrade.Generation, version string, logger *slog.Logger) (http.Handler, error) {
	var next http.Handler
	if cfg.root != "" {
		files, err := handlers.Files(handlers.FilesOptions{Root: cfg.root, Listing: cfg.listing, Logger: logger})
		if err != nil {
			return nil, err
		}
		next = files
	} else if len(cfg.proxy) == 0 {
		id := handlers.Identity{Generation: gen.Number(), PID: os.Getpid(), Version: version}
		return handlers.Page(id, server.Draining), nil
	}
	if len(cfg.proxy) == 0 {
		return next, nil
	}
	return handlers.Proxy(handlers.ProxyOptions{
		Rules: cfg.proxy, HeaderTimeout: cfg.proxyTimeout, MaxBody: cfg.maxBody, Logger: logger, Next: next,
		Farewell: server.Farewell, WebSocketGrace: cfg.webSocketGrace, StreamGrace: cfg.streamGrace,
	}), nil
}

func (cfg config) logger(output *logging.Output) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.logLevel}
	stderr := stderrLeadsTo()
	os.Setenv(stderrVariable, stderr)
	format := func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, options) }
	isBrief := false
	switch {
	case cfg.logFormat == "text" || cfg.logFormat == "auto" && stderr == terminal:
		format = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, options) }
	case cfg.logFormat == "auto" && stderr == journal:
		isBrief = true
		format = func(w io.Writer) slog.Handler { return systemd.NewBriefHandler(w, options.Level) }
	}
	if plain := format; stderr == journal {
		format = func(w io.Writer) slog.Handler { return systemd.WithPriority(w, plain) }
	}
	logger := slog.New(output.Handler(format))
	if isBrief {
		return logger
	}
	return logger.With("pid", os.Getpid())
}

// stderrVariable tells a successor, whose standard error is its predecessor's pipe at
// first, where that of the first generation leads to.
const stderrVariable = "BATON_STDERR"

// Where standard error leads to.
const (
	terminal = "terminal"
	journal  = "journal"
	other    = "other"
)

func stderrLeadsTo() string {
	to, left := os.LookupEnv(stderrVariable)
	switch {
	case left:
		return to
	case term.IsTerminal(2):
		return terminal
	case systemd.IsJournal(2):
		return journal
	}
	return other
}

func newFlags() *flag.FlagSet {
	flags := flag.NewFlagSet("baton", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

// parseFlags reads the command line, then BATON_* variables, then the file that
// -config names; what is set by one is left alone by the next. With strict, the
// file must not have settings that are no flags. The error tells all that is wrong.
func parseFlags(flags *flag.FlagSet, args []string, strict bool) error {
	args, unknown := knownFlags(flags, args)
	// A variable that is set but empty counts as well; ff passes over it.
	flags.VisitAll(func(f *flag.Flag) {
		name := "BATON_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, set := os.LookupEnv(name); set && value == "" && f.DefValue != "" {
			args = append([]string{"-" + f.Name + "="}, args...)
		}
	})
	err := ff.Parse(flags, args, ff.WithEnvVarPrefix("BATON"), ff.WithConfigFileFlag("config"),
		ff.WithConfigFileParser(func(r io.Reader, set func(name, value string) error) error {
			settings := 0
			err := parseFile(r, func(name, value string) error {
				settings++
				f := flags.Lookup(name)
				if value == "" && isBool(f) {
					value = "true" // as on the command line
				}
				switch {
				case f != nil && name != "config" && name != "user":
					return set(name, value)
				case strict:
					return fmt.Errorf("unknown setting %q; baton -h lists them", withoutValue(name))
				}
				return nil
			})
			if err == nil && settings == 0 && strict {
				// It was lost, say on a full disk: the defaults are not what anybody wants then.
				err = fmt.Errorf("configuration file %s sets nothing; restore it, or leave -config out to have the defaults", flags.Lookup("config").Value)
			}
			return err
		}))
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		os.Exit(done)
	}
	if flags.NArg() > 0 {
		unknown = append(unknown, fmt.Errorf("unexpected argument %q", withoutValue(flags.Arg(0))))
	}
	return errors.Join(append(unknown, err)...)
}

// knownFlags returns the arguments without flags that do not exist, so that the
// rest can be read, and an error for each of those.
func knownFlags(flags *flag.FlagSet, args []string) (known []string, unknown []error) {
	for i := 0; i < len(args); i++ {
		dashed, _, hasValue := strings.Cut(args[i], "=")
		name := strings.TrimPrefix(strings.TrimPrefix(dashed, "-"), "-")
		if name == dashed || name == "" { // where flags end
			return append(known, args[i:]...), unknown
		}
		f := flags.Lookup(name)
		takesNext := !hasValue && !isBool(f) && name != "h" && name != "help" && i+1 < len(args)
		if f == nil && name != "h" && name != "help" {
			unknown = append(unknown, fmt.Errorf("unknown flag -%s; baton -h lists them", name))
			if takesNext && !strings.HasPrefix(args[i+1], "-") {
				i++
			}
			continue
		}
		known = append(known, args[i])
		if takesNext {
			i++
			known = append(known, args[i])
		}
	}
	return known, unknown
}

// withoutValue shortens what was not understood to where a value may begin, which
// may hold a password.
func withoutValue(s string) string {
	if end := strings.IndexAny(s, "=:@"); end >= 0 {
		return s[:end] + "…"
	}
	return s
}

func isBool(f *flag.Flag) bool {
	if f == nil {
		return false
	}
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// parseFile reads a configuration file to its end, so that one bad line does
// not hide the next. A name without a value, or with "", sets the empty value.
func parseFile(r io.Reader, set func(name, value string) error) error {
	const limit = 1 << 20
	text, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	if len(text) == limit {
		return fmt.Errorf("configuration file is larger than %d bytes", limit)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // of some editors
	var problems []error
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if i := strings.IndexFunc(line, isNoText); i >= 0 {
			problems = append(problems, fmt.Errorf("configuration file, line %d: %q is not text; want UTF-8 without control characters", number, fmt.Sprintf("%.20s", line[i:])))
			continue
		}
		if i := commentAt(line); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		value := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), fields[0]))
		if value == `""` {
			value = ""
		}
		if err := set(strings.TrimLeft(fields[0], "-"), value); err != nil {
			problems = append(problems, fmt.Errorf("configuration file, line %d: %w", number, err))
		}
	}
	return errors.Join(problems...)
}

// isNoText tells what no line of a configuration file has: bytes of another encoding, or
// of a file that was not written to its end.
func isNoText(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) && r != '\t' }

// commentAt returns where a comment begins: at a # at the beginning or after white space;
// -1 without one.
func commentAt(line string) int {
	space := true
	for i, r := range line {
		if r == '#' && space {
			return i
		}
		space = unicode.IsSpace(r)
	}
	return -1
}

// defaultControl is a path that only this user can write to.
func defaultControl() string {
	if folders := os.Getenv("RUNTIME_DIRECTORY"); folders != "" {
		folder, _, _ := strings.Cut(folders, ":")
		return filepath.Join(folder, "control.sock")
	}
	return temporaryControl()
}

// serverControl is where a server is asked that may run as another user: at the
// path that it would have here or, if nothing is there, at that of the service
// that systemd runs, which has none while it is stopped.
func serverControl() string {
	const service = "/run/baton/control.sock"
	path := defaultControl()
	_, err := os.Lstat(path)
	isOwn := true
	if err == nil && path == temporaryControl() { // where anybody can make the directory
		isOwn = ownFolder(filepath.Dir(path)) == nil
	}
	if isOwn && !errors.Is(err, fs.ErrNotExist) {
		return path
	}
	_, err = os.Stat(service)
	_, noUnit := os.Stat("/etc/systemd/system/baton.service")
	if err == nil || os.Getuid() == 0 && noUnit == nil {
		return service
	}
	return path
}

func temporaryControl() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("baton-%d", os.Getuid()), "control.sock")
}

// ownFolder makes the folder of the default control socket, and fails if it is
// somebody else's.
func ownFolder(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of the control socket: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("make the folder of the control socket: %w", err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; !info.IsDir() || int(owner) != os.Getuid() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("folder of the control socket %s: it is not a folder of mode 0700 that belongs to user %d; remove it, or use -control", path, os.Getuid())
	}
	return nil
}

// build returns the version and the commit that the program was made from.
func build() (v, revision string) {
	v, revision = version, "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v, revision
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	if v == "" {
		v = strings.Trim(info.Main.Version, "()")
	}
	if v == "" {
		v = "devel"
	}
	return v, revision
}

// complain prints what is wrong, a line for each problem.
func complain(code int, err error) int {
	priority := ""
	if stderrLeadsTo() == journal && code != done {
		priority = systemd.Priority(slog.LevelError)
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, priority+"baton: "+strings.TrimRight(line, "\n"))
	}
	return code
}

func printJSON(v any) {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	e.Encode(v)
}

const usage = `baton [flags]     serves until SIGTERM or SIGINT; SIGHUP upgrades
baton upgrade     upgrades to the program that is in place now, and waits
baton status      tells which generations live, and how upgrades went
baton check       validates flags, environment and configuration file
baton version     tells version, commit and Go version

Flags may also be given as BATON_FLAG_NAME in the environment, or as lines
"flag-name value" in the file that -config names; the first of these counts.
`
