package settings

import (
	"cmp"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"example.com/baton/handlers/files"
	"example.com/baton/handlers/middleware"
	"example.com/baton/handlers/page"
	"example.com/baton/handlers/proxy"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// none turns a 0 into what means none where 0 means the default.
func none[T int | time.Duration](n T) T { return cmp.Or(n, -1) }

// Options returns the options of a generation that are settings.
func (l Lifecycle) Options() upgrade.Options {
	return upgrade.Options{
		Control:        l.Control,
		PIDFile:        l.PIDFile,
		UpgradeTimeout: l.UpgradeTimeout,
		DrainTimeout:   l.DrainTimeout,
		MaxDraining:    none(l.MaxDraining),
		ShutdownDelay:  l.ShutdownDelay,
	}
}

// StopTime returns how long a stop may take at most, but for predecessors that drain:
// its hooks have ten seconds, and a predecessor that still drains five more.
func (l Lifecycle) StopTime() time.Duration { return l.ShutdownDelay + l.DrainTimeout + 20*time.Second }

// Options returns the options of a server that are settings.
func (c Connections) Options() server.Options {
	return server.Options{
		IdleGrace:         none(c.IdleGrace),
		DisableMigration:  !c.Migrate,
		IdleTimeout:       c.IdleTimeout,
		ReadHeaderTimeout: c.ReadHeaderTimeout,
	}
}

// Handler returns what the public server serves on its listeners, which are in the
// order of s.Listen: files, applications, or else a page that shows which generation
// answers.
func (s Settings) Handler(identity page.Identity, public []net.Listener, logger *slog.Logger) (handler http.Handler, err error) {
	if s.Files.Root != "" {
		if handler, err = files.New(files.Options{Root: s.Files.Root, Listing: s.Files.Listing, Logger: logger}); err != nil {
			return nil, err
		}
	}
	if len(s.Proxy.Rules) > 0 {
		handler = proxy.New(proxy.Options{
			Rules: s.Proxy.Rules, HeaderTimeout: s.Proxy.Timeout, MaxBody: s.Proxy.MaxBody, Logger: logger, Next: handler,
			OnDrain: server.OnDrain, WebSocketGrace: s.Proxy.WebSocketGrace, StreamGrace: s.Proxy.StreamGrace,
		})
	}
	if handler == nil {
		handler = page.New(identity, server.Draining)
	}
	if s.TLS.RedirectHTTPS {
		at := slices.IndexFunc(s.Listen, Address.isHTTPS)
		handler = middleware.RedirectHTTPS(public[at].Addr().(*net.TCPAddr).Port, handler)
	}
	return handler, nil
}
