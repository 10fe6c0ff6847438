// Baton is an HTTP server that is replaced while it runs: on SIGHUP it hands
// its listening sockets to a new version of itself, and loses no request.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"example.com/baton/handlers/admin"
	"example.com/baton/handlers/metrics"
	"example.com/baton/handlers/middleware"
	"example.com/baton/handlers/page"
	"example.com/baton/handlers/proxy"
	"example.com/baton/server"
	"example.com/baton/server/command"
	"example.com/baton/server/deploy"
	"example.com/baton/server/settings"
	"example.com/baton/server/tlskeys"
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
	if deploy.Asks(args) {
		return deploy.Answer(os.Stdout, args)
	}
	name := command.Name(args)
	call := &command.Call{
		Input: settings.Input{Args: args, Environ: os.Environ(), UID: os.Getuid()},
		Build: command.ReadBuild(version), Stdout: os.Stdout, Stderr: os.Stderr, Destination: settings.DestinationOf(2),
	}
	if width, _, err := term.GetSize(2); err == nil {
		call.Width = max(width, 1)
	}
	if name != "" {
		call.Input.Args = args[1:]
		return call.Run(name)
	}
	if inherited, ok := os.LookupEnv(stderrVariable); ok {
		call.Destination = settings.Destination(inherited)
	}
	return serve(upgrade.Signals(), call)
}

// serve configures a generation, and lets it live unless this process is to wait for
// others in the foreground.
func serve(signals <-chan os.Signal, call *command.Call) (exitCode int) {
	config, err := settings.Read(call.Input)
	if err != nil {
		return call.Fail(command.BadUsage, err)
	}
	foreground := upgrade.Foreground{Variable: attendedVariable, Always: config.Foreground == settings.Always}
	if config.Foreground != settings.Never {
		if code, waited := foreground.Wait(signals); waited {
			return code
		}
	}
	if err := call.Input.MakeControlDirectory(config.Lifecycle.Control); err != nil {
		return call.Fail(command.Failed, err)
	}
	output := logging.NewOutput(2)
	os.Setenv(stderrVariable, string(call.Destination))
	logger := config.Log.Logger(output, call.Destination)
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
	options := config.Lifecycle
	options.Version, options.Store, options.Logger, options.Output = build.Version, manager, logger, output
	options.KeepCount = metrics.KeepBackends(config.Backends())
	replacement := deploy.Replaced()
	options.Notice = replacement.String()
	gen, err := upgrade.New(options)
	if err != nil {
		return command.Failed, err
	}
	tickets, err := tlskeys.NewTicketKeys(gen.Secret())
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
	public, admin, err := listen(gen, config, logger)
	if err != nil {
		return command.Failed, err
	}
	builtin := page.Options{Identity: page.Identity{Generation: gen.Number(), PID: os.Getpid(), Version: build.Version}, Trial: gen.Trial}
	handler, applications, err := config.Handler(builtin, public, logger)
	if err != nil {
		return command.Failed, err
	}
	defer applications.Close()
	pair := new(server.Pair)
	metrics := metrics.New(metrics.Options{
		Version: build.Version, Revision: build.Revision,
		Source: metrics.Source{Generation: gen, Servers: pair, Certificates: certificates, Output: output, CrashRollback: replacement.Time, Proxy: applications}.Snapshot,
		Others: func(ctx context.Context) map[string]float64 { return gen.Others(ctx) },
	})
	newServers(pair, gen, config, handler, metrics, logger)
	secured := &tls.Config{GetCertificate: certificates.Get}
	tickets.Use(secured)
	addListeners(pair, config, public, admin, secured)
	defer tlskeys.Keep(certificates, tickets)()

	// Be ready, wait, and drain.
	notifier := manager.NewNotifier(systemd.NotifierOptions{Generation: gen, Service: pair, StopTime: config.StopTime(), Logger: logger})
	gen.Observe(notifier)
	gen.Observe(metrics)
	service := service{Pair: pair, metrics: metrics, tickets: tickets, applications: applications}
	if gen.Predecessors() > 0 {
		service.check = func(ctx context.Context) error { return config.Check(ctx, handler) }
	}
	if err := gen.Run(service, signals); err != nil {
		return command.Failed, err
	}
	notifier.Close()
	return command.Done, nil
}

// listen claims the listeners, in the order of the settings. Without an admin server
// admin is nil.
func listen(gen *upgrade.Generation, config settings.Settings, logger *slog.Logger) (public []net.Listener, admin net.Listener, err error) {
	for _, addr := range config.Listen {
		ln, err := gen.Listen(addr.Address)
		if err != nil {
			return nil, nil, err
		}
		public = append(public, ln)
		attrs := []any{"address", ln.Addr().String()}
		if addr.TLS {
			attrs = append(attrs, "tls", true)
		}
		logger.Info("listening", attrs...)
	}
	if config.Admin == "" {
		return public, nil, nil
	}
	if admin, err = gen.Listen(config.Admin); err != nil {
		return nil, nil, fmt.Errorf("%w (the admin listener; -admin names another)", err)
	}
	logger.Info("listening", "address", admin.Addr().String(), "for", "admin")
	return public, admin, nil
}

// newServers sets both servers of a pair, which listen nowhere yet.
func newServers(pair *server.Pair, gen *upgrade.Generation, config settings.Settings, handler http.Handler,
	metrics *metrics.Metrics, logger *slog.Logger) {
	counted := func(h http.Handler) http.Handler {
		return config.TrustedProxies.Handler(middleware.Log(metrics.Count(h), logger))
	}
	options := config.Connections
	options.Handler, options.Logger = counted(middleware.Resources(handler)), logger
	options.Resume = config.Resume(counted, logger)
	pair.Public = server.New(options)
	options.Handler = admin.Handler(admin.Options{
		Metrics:  metrics,
		Ready:    gen.TakesRequests,
		Healthy:  pair.Accepting,
		Status:   gen.Status,
		Host:     config.AdminHost(),
		Draining: server.Draining,
	})
	options.MaxConnections, options.Resume = 16, nil
	pair.Admin = server.New(options)
}

// addListeners gives the servers of a pair their listeners.
func addListeners(pair *server.Pair, config settings.Settings, public []net.Listener, admin net.Listener, secured *tls.Config) {
	for i, ln := range public {
		if config.Listen[i].TLS {
			pair.Public.AddTLS(ln, secured)
		} else {
			pair.Public.Add(ln)
		}
	}
	if admin != nil {
		pair.Admin.Add(admin)
	}
}

// service is what a generation runs, hands on, and shows in its metrics.
type service struct {
	*server.Pair
	metrics      *metrics.Metrics
	tickets      *tlskeys.TicketKeys
	applications *proxy.Proxy                // nil: none
	check        func(context.Context) error // of a successor; nil: none
}

// Check checks the servers and, in a successor, what the settings name.
func (s service) Check(ctx context.Context) error {
	if err := s.Pair.Check(ctx); err != nil || s.check == nil {
		return err
	}
	return s.check(ctx)
}

// Counts returns what this generation has counted, for its neighbors.
func (s service) Counts() upgrade.Counts { return s.metrics.Own() }

// Describe returns what the status shows of the applications.
func (s service) Describe() json.RawMessage { return s.applications.Report().JSON() }

// Secret returns the keys of session tickets.
func (s service) Secret() []byte { return s.tickets.Secret() }
