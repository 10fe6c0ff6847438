// Baton is an HTTP server that is replaced while it runs: on SIGHUP it hands
// its listening sockets to a new version of itself, and loses no request.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"example.com/baton/handlers"
	"example.com/baton/server"
	"example.com/baton/server/command"
	"example.com/baton/server/settings"
	"example.com/baton/systemd"
	"example.com/baton/upgrade"
	"example.com/baton/upgrade/logging"
	"golang.org/x/term"
)

// version is set by the linker: -ldflags "-X main.version=1.4.0".
var version string

// stderrVariable tells a successor, whose standard error is its predecessor's pipe at
// first, where that of the first generation leads to.
const stderrVariable = "BATON_STDERR"

func main() { os.Exit(run(os.Args[1:])) }

// run runs a command, or serves if the arguments name none.
func run(args []string) (exitCode int) {
	name := command.Name(args)
	stderr := settings.DestinationOf(2)
	if inherited, ok := os.LookupEnv(stderrVariable); ok && name == "" {
		stderr = settings.Destination(inherited)
	}
	call := &command.Call{
		Input: settings.Input{Args: args, Environ: os.Environ(), UID: os.Getuid()},
		Build: command.ReadBuild(version), Stdout: os.Stdout, Stderr: os.Stderr,
	}
	if stderr == settings.Journal {
		call.Prefix = systemd.Priority(slog.LevelError)
	}
	if width, _, err := term.GetSize(2); err == nil {
		call.Width = max(width, 1)
	}
	if name == "" {
		return serve(upgrade.Signals(), call, stderr)
	}
	call.Input.Args = args[1:]
	return call.Run(name)
}

// serve is the life of one generation.
func serve(signals <-chan os.Signal, call *command.Call, stderr settings.Destination) int {
	cfg, err := settings.Read(call.Input)
	if err != nil {
		return call.Fail(command.BadUsage, err)
	}
	foreground := upgrade.Foreground{Variable: "BATON_ATTENDED", Always: cfg.Lifecycle.Foreground == settings.Always}
	if cfg.Lifecycle.Foreground != settings.Never {
		if code, waited := foreground.Wait(signals); waited {
			return code
		}
	}
	if err := call.Input.MakeControlDirectory(cfg.Lifecycle.Control); err != nil {
		return call.Fail(command.Failed, err)
	}
	output := logging.NewOutput(2)
	defer output.Flush()
	complain := func(code int, err error) int {
		output.Flush() // the reason comes last
		return call.Fail(code, err)
	}
	os.Setenv(stderrVariable, string(stderr))
	logger := cfg.Log.Logger(output, stderr)
	// net/http, for one, reports through package log what no other logger was given for.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	slog.SetDefault(logger)
	if name := foreground.Supervisor(); name != "" {
		logger.Warn("this process ends with the first upgrade, which its parent would take for the end of the service; start it with -foreground",
			"parent", name)
	}

	var (
		public, admin *server.Server
		both          service
	)
	// The hooks of a stop have ten seconds, and a predecessor that still drains five more.
	tell := newAttendance(systemd.New(), logger, cfg.Lifecycle.ShutdownDelay+cfg.Lifecycle.DrainTimeout+20*time.Second)
	gen, err := upgrade.New(upgrade.Options{
		Version:        call.Build.Version,
		Control:        cfg.Lifecycle.Control,
		PIDFile:        cfg.Lifecycle.PIDFile,
		UpgradeTimeout: cfg.Lifecycle.UpgradeTimeout,
		DrainTimeout:   cfg.Lifecycle.DrainTimeout,
		MaxDraining:    cmp.Or(cfg.Lifecycle.MaxDraining, -1),
		ShutdownDelay:  cfg.Lifecycle.ShutdownDelay,
		Logger:         logger,
		Output:         output,
		Store:          tell.manager,
	})
	if err != nil {
		return complain(command.Failed, err)
	}
	tickets, err := server.NewTicketKeys(gen.Secret())
	if err != nil {
		logger.Warn("TLS sessions that began at the predecessor cannot be resumed", "error", err)
	}
	certificates, err := cfg.TLS.LoadCertificates(logger)
	if err != nil {
		return complain(command.Failed, err)
	}
	metrics := handlers.NewMetrics(handlers.MetricsOptions{
		Version: call.Build.Version, Revision: call.Build.Revision,
		Source: func() handlers.Snapshot { return snapshot(gen, public, admin, certificates, output) },
		Others: func(ctx context.Context) map[string]float64 { return gen.Others(ctx) },
	})
	if err := gen.CheckContinuity(cfg.Listen.Plain()...); err != nil {
		return complain(command.BadUsage, err)
	}
	var listeners []net.Listener
	for _, addr := range cfg.Listen {
		ln, err := gen.Listen(addr.Address)
		if err != nil {
			return complain(command.Failed, err)
		}
		listeners = append(listeners, ln)
		about := []any{"address", ln.Addr().String()}
		if addr.TLS {
			about = append(about, "tls", true)
		}
		logger.Info("listens", about...)
	}
	served, err := handler(cfg, gen, call.Build.Version, logger)
	if err != nil {
		return complain(command.Failed, err)
	}
	if cfg.TLS.RedirectHTTPS {
		served = handlers.RedirectHTTPS(cfg.Listen.HTTPSPort(listeners), served)
	}
	options := server.Options{
		Handler:           handlers.Log(metrics.Count(handlers.Resources(served)), logger),
		IdleGrace:         cmp.Or(cfg.Connections.IdleGrace, -1),
		DisableMigration:  !cfg.Connections.Migrate,
		IdleTimeout:       cfg.Connections.IdleTimeout,
		ReadHeaderTimeout: cfg.Connections.ReadHeaderTimeout,
		Logger:            logger,
	}
	public = server.New(options)
	options.Handler = handlers.Admin(handlers.AdminOptions{
		Metrics:  metrics,
		Ready:    gen.TakesRequests,
		Healthy:  func() error { return both.Accepting() },
		Status:   func() any { return gen.Status() },
		Host:     cfg.AdminHost(),
		Draining: server.Draining,
	})
	options.MaxConnections = 16
	admin = server.New(options)

	both = service{public: public, admin: admin, metrics: metrics, tickets: tickets}
	encrypted := &tls.Config{GetCertificate: certificates.Get}
	tickets.Use(encrypted)
	for i, ln := range listeners {
		if cfg.Listen[i].TLS {
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
	if cfg.Admin != "" {
		if both.adminListener, err = gen.Listen(cfg.Admin); err != nil {
			return complain(command.Failed, fmt.Errorf("%w (the admin listener; -admin names another)", err))
		}
		admin.Add(both.adminListener)
		logger.Info("listens", "address", both.adminListener.Addr().String(), "for", "admin")
	}
	gen.Observe(observer{tell: tell, gen: gen, service: both})
	if err := gen.Run(both, signals); err != nil {
		return complain(command.Failed, err)
	}
	tell.leave()
	return command.Done
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

// handler is what the public listeners serve.
func handler(cfg settings.Settings, gen *upgrade.Generation, version string, logger *slog.Logger) (http.Handler, error) {
	var next http.Handler
	if cfg.Files.Root != "" {
		files, err := handlers.Files(handlers.FilesOptions{Root: cfg.Files.Root, Listing: cfg.Files.Listing, Logger: logger})
		if err != nil {
			return nil, err
		}
		next = files
	} else if len(cfg.Proxy.Rules) == 0 {
		id := handlers.Identity{Generation: gen.Number(), PID: os.Getpid(), Version: version}
		return handlers.Page(id, server.Draining), nil
	}
	if len(cfg.Proxy.Rules) == 0 {
		return next, nil
	}
	return handlers.Proxy(handlers.ProxyOptions{
		Rules: cfg.Proxy.Rules, HeaderTimeout: cfg.Proxy.Timeout, MaxBody: cfg.Proxy.MaxBody, Logger: logger, Next: next,
		Farewell: server.Farewell, WebSocketGrace: cfg.Proxy.WebSocketGrace, StreamGrace: cfg.Proxy.StreamGrace,
	}), nil
}
