// Baton is an HTTP server that is replaced while it runs: on SIGHUP it hands
// its listening sockets to a new version of itself, and loses no request.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"example.com/baton/handlers/admin"
	"example.com/baton/handlers/files"
	"example.com/baton/handlers/metrics"
	"example.com/baton/handlers/middleware"
	"example.com/baton/handlers/page"
	"example.com/baton/handlers/proxy"
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

// Variables that a generation has from the first one, or from the process in the
// foreground.
const (
	stderrVariable   = "BATON_STDERR" // what standard error leads to: a successor's is a pipe at first
	attendedVariable = "BATON_ATTENDED"
)

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

// serve configures a generation, and lets it live unless this process is to wait for
// others in the foreground.
func serve(signals <-chan os.Signal, call *command.Call, stderr settings.Destination) (exitCode int) {
	config, err := settings.Read(call.Input)
	if err != nil {
		return call.Fail(command.BadUsage, err)
	}
	foreground := upgrade.Foreground{Variable: attendedVariable, Always: config.Lifecycle.Foreground == settings.Always}
	if config.Lifecycle.Foreground != settings.Never {
		if code, waited := foreground.Wait(signals); waited {
			return code
		}
	}
	if err := call.Input.MakeControlDirectory(config.Lifecycle.Control); err != nil {
		return call.Fail(command.Failed, err)
	}
	output := logging.NewOutput(2)
	os.Setenv(stderrVariable, string(stderr))
	logger := config.Log.Logger(output, stderr)
	// net/http, for one, reports through package log what no other logger was given for.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	slog.SetDefault(logger)
	if name := foreground.Supervisor(); name != "" {
		logger.Warn("this process ends with the first upgrade, which its parent would take for the end of the service; start it with -foreground",
			"parent", name)
	}
	code, err := live(signals, config, call.Build, logger, output)
	output.Flush()
	if err != nil {
		return call.Fail(code, err) // last of all, so that it is the reason that a predecessor reports
	}
	return command.Done
}

// live is the life of one generation. The exit code is that for an error.
func live(signals <-chan os.Signal, config settings.Settings, build command.Build, logger *slog.Logger, output *logging.Output) (exitCode int, err error) {
	// Inherit.
	manager := systemd.New()
	gen, err := upgrade.New(upgrade.Options{
		Version:        build.Version,
		Control:        config.Lifecycle.Control,
		PIDFile:        config.Lifecycle.PIDFile,
		UpgradeTimeout: config.Lifecycle.UpgradeTimeout,
		DrainTimeout:   config.Lifecycle.DrainTimeout,
		MaxDraining:    cmp.Or(config.Lifecycle.MaxDraining, -1), // 0 would be the default
		ShutdownDelay:  config.Lifecycle.ShutdownDelay,
		Store:          manager,
		Logger:         logger,
		Output:         output,
	})
	if err != nil {
		return command.Failed, err
	}
	tickets, err := server.NewTicketKeys(gen.Secret())
	if err != nil {
		logger.Warn("TLS sessions that began at the predecessor cannot be resumed", "error", err)
	}
	certificates, err := config.TLS.LoadCertificates(logger)
	if err != nil {
		return command.Failed, err
	}
	if err := gen.CheckContinuity(config.Listen.Plain()...); err != nil {
		return command.BadUsage, err
	}

	// Serve.
	pair := new(server.Pair)
	metrics := metrics.New(metrics.Options{
		Version: build.Version, Revision: build.Revision,
		Source: source{gen, pair, certificates, output}.snapshot,
		Others: func(ctx context.Context) map[string]float64 { return gen.Others(ctx) },
	})
	listeners, err := listen(gen, config, logger)
	if err != nil {
		return command.Failed, err
	}
	if err := newServers(pair, gen, config, build, metrics, listeners, logger); err != nil {
		return command.Failed, err
	}
	secured := &tls.Config{GetCertificate: certificates.Get}
	tickets.Use(secured)
	for i, ln := range listeners.public {
		if config.Listen[i].TLS {
			pair.Public.AddTLS(ln, secured)
		} else {
			pair.Public.Add(ln)
		}
	}
	if listeners.admin != nil {
		pair.Admin.Add(listeners.admin)
	}
	defer every(5*time.Second, func() {
		certificates.Refresh()
		tickets.Rotate()
	})()

	// Be ready, wait, and drain.
	notifier := manager.NewNotifier(systemd.NotifierOptions{
		Generation: gen,
		Service:    pair,
		// The hooks of a stop have ten seconds, and a predecessor that still drains five more.
		StopTime: config.Lifecycle.ShutdownDelay + config.Lifecycle.DrainTimeout + 20*time.Second,
		Logger:   logger,
	})
	gen.Observe(notifier)
	gen.Observe(observer{metrics: metrics})
	if err := gen.Run(service{pair, metrics, tickets}, signals); err != nil {
		return command.Failed, err
	}
	notifier.Close()
	return command.Done, nil
}

// listeners are those that a generation has claimed.
type listeners struct {
	public []net.Listener // in the order of the settings
	admin  net.Listener   // nil: none
}

func listen(gen *upgrade.Generation, config settings.Settings, logger *slog.Logger) (l listeners, err error) {
	for _, addr := range config.Listen {
		ln, err := gen.Listen(addr.Address)
		if err != nil {
			return l, err
		}
		l.public = append(l.public, ln)
		attrs := []any{"address", ln.Addr().String()}
		if addr.TLS {
			attrs = append(attrs, "tls", true)
		}
		logger.Info("listens", attrs...)
	}
	if config.Admin == "" {
		return l, nil
	}
	if l.admin, err = gen.Listen(config.Admin); err != nil {
		return l, fmt.Errorf("%w (the admin listener; -admin names another)", err)
	}
	logger.Info("listens", "address", l.admin.Addr().String(), "for", "admin")
	return l, nil
}

// newServers sets both servers of a pair.
func newServers(pair *server.Pair, gen *upgrade.Generation, config settings.Settings, build command.Build,
	metrics *metrics.Metrics, ln listeners, logger *slog.Logger) error {
	handler, err := newHandler(gen, config, build, logger)
	if err != nil {
		return err
	}
	if config.TLS.RedirectHTTPS {
		handler = middleware.RedirectHTTPS(config.Listen.HTTPSPort(ln.public), handler)
	}
	options := server.Options{
		Handler:           middleware.Log(metrics.Count(middleware.Resources(handler)), logger),
		IdleGrace:         cmp.Or(config.Connections.IdleGrace, -1), // 0 would be the default
		DisableMigration:  !config.Connections.Migrate,
		IdleTimeout:       config.Connections.IdleTimeout,
		ReadHeaderTimeout: config.Connections.ReadHeaderTimeout,
		Logger:            logger,
	}
	pair.Public = server.New(options)
	options.Handler = admin.Handler(admin.Options{
		Metrics:  metrics,
		Ready:    gen.TakesRequests,
		Healthy:  pair.Accepting,
		Status:   func() any { return gen.Status() },
		Host:     config.AdminHost(),
		Draining: server.Draining,
	})
	options.MaxConnections = 16
	pair.Admin = server.New(options)
	return nil
}

// newHandler returns what the public server serves: files, applications, or else a page
// about itself.
func newHandler(gen *upgrade.Generation, config settings.Settings, build command.Build, logger *slog.Logger) (handler http.Handler, err error) {
	if config.Files.Root != "" {
		if handler, err = files.New(files.Options{Root: config.Files.Root, Listing: config.Files.Listing, Logger: logger}); err != nil {
			return nil, err
		}
	}
	if len(config.Proxy.Rules) > 0 {
		handler = proxy.New(proxy.Options{
			Rules: config.Proxy.Rules, HeaderTimeout: config.Proxy.Timeout, MaxBody: config.Proxy.MaxBody, Logger: logger, Next: handler,
			Farewell: server.Farewell, WebSocketGrace: config.Proxy.WebSocketGrace, StreamGrace: config.Proxy.StreamGrace,
		})
	}
	if handler == nil {
		handler = page.New(page.Identity{Generation: gen.Number(), PID: os.Getpid(), Version: build.Version}, server.Draining)
	}
	return handler, nil
}

// every calls do at intervals, until stop is called, which waits for it.
func every(interval time.Duration, do func()) (stop func()) {
	tick, end, ended := time.NewTicker(interval), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-tick.C:
				do()
			case <-end:
				return
			}
		}
	}()
	return func() { tick.Stop(); close(end); <-ended }
}

// service is what a generation runs, with what it hands on.
type service struct {
	*server.Pair
	metrics *metrics.Metrics
	tickets *server.TicketKeys
}

// Counts returns what this generation has counted, for its neighbours.
func (s service) Counts() upgrade.Counts { return s.metrics.Own() }

// Secret returns the keys of session tickets.
func (s service) Secret() []byte { return s.tickets.Secret() }

// observer shows upgrades and drains in the metrics.
type observer struct {
	upgrade.NopObserver
	metrics *metrics.Metrics
}

func (o observer) Ready(took time.Duration) { o.metrics.ObserveUpgrade(took) }

func (o observer) PredecessorDrained(d upgrade.Drained) {
	o.metrics.ObserveDrain(time.Duration(d.Seconds * float64(time.Second)))
}

// source is where metrics come from.
type source struct {
	gen          *upgrade.Generation
	pair         *server.Pair
	certificates *server.Certificates
	output       *logging.Output
}

func (s source) snapshot() metrics.Snapshot {
	status := s.gen.Status()
	load := status.Load() // of all generations that live
	now := metrics.Snapshot{
		Generation: s.gen.Number(),
		State:      status.State,
		Upgrades:   make(map[string]uint64),
		Connections: map[string]int{
			"new": load.Connections.New, "active": load.Connections.Active, "idle": load.Connections.Idle,
			"hijacked": load.Connections.Hijacked,
		},
		Accepted:         s.pair.Public.Accepted(),
		AcceptErrors:     s.pair.AcceptErrors(),
		Closed:           make(map[string]uint64),
		Migrated:         make(map[string]uint64),
		RequestsInFlight: load.Requests,
		LogDropped:       s.output.Dropped(),
		Certificates:     make(map[string]metrics.Validity),
		LastUpgrade:      make(map[string]time.Time),
	}
	for name, valid := range s.certificates.Validity() {
		now.Certificates[name] = metrics.Validity(valid)
	}
	for _, u := range status.Upgrades { // oldest first
		now.LastUpgrade[string(u.Result)] = u.Time
	}
	now.Predecessors = s.gen.Predecessors()
	for result, n := range s.gen.Results() {
		now.Upgrades[string(result)] = n
	}
	for why, n := range s.pair.Public.Closed() {
		now.Closed[why.String()] = n
	}
	now.Migrated["in"], now.Migrated["out"] = s.pair.Public.Migrated()
	return now
}
