package settings

import (
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"example.com/baton/handlers/backends"
	"example.com/baton/handlers/files"
	"example.com/baton/handlers/middleware"
	"example.com/baton/handlers/page"
	"example.com/baton/handlers/proxy"
	"example.com/baton/server"
)

// StopTime returns how long a stop may take at most, but for predecessors that drain, and for a
// successor on trial, which returns its connections first: its hooks have ten seconds, a predecessor
// that still drains five more, and five are to spare.
func (s Settings) StopTime() time.Duration {
	return s.Lifecycle.ShutdownDelay + s.Lifecycle.DrainTimeout + 20*time.Second
}

// UpgradeTime returns how long an upgrade may take at most, from a predecessor that still drains
// to the last drain: that of the predecessor or, if it takes back, of the successor. Each has
// five seconds more, until it is killed.
func (s Settings) UpgradeTime() time.Duration {
	const overstay = 5 * time.Second
	drain, trial := s.Lifecycle.DrainTimeout+overstay, s.Lifecycle.Trial.Watch
	if s.Lifecycle.Trial.Share > 0 {
		trial += s.Lifecycle.Trial.Time
	}
	return drain + s.Lifecycle.UpgradeTimeout + trial + drain
}

// Handler returns what the public server serves on its listeners, which are in the
// order of s.Listen: files, applications, or else a page that shows which generation
// answers. The proxy is nil if there are no applications, and must be closed.
func (s Settings) Handler(builtin page.Options, public []net.Listener, logger *slog.Logger) (handler http.Handler, applications *proxy.Proxy, err error) {
	if s.Files.Root != "" {
		s.Files.Logger = logger
		if handler, err = files.New(s.Files); err != nil {
			return nil, nil, err
		}
	}
	if len(s.Proxy.Rules) > 0 {
		s.Proxy.Next = handler
		applications = proxy.New(s.proxy(logger))
		handler = applications
	}
	if handler == nil {
		builtin.Draining = server.Draining
		handler = page.New(builtin)
	}
	if s.TLS.RedirectHTTPS {
		at := slices.IndexFunc(s.Listen, Address.isHTTPS)
		handler = middleware.RedirectHTTPS(public[at].Addr().(*net.TCPAddr).Port, handler)
	}
	return handler, applications, nil
}

// Backends returns the names of the applications that requests are passed on to.
func (s Settings) Backends() (all []backends.Backend) {
	for _, rule := range s.Proxy.Rules {
		b := backends.Backend{Name: rule.Name()}
		if !slices.ContainsFunc(all, func(known backends.Backend) bool { return known.Name == b.Name }) {
			all = append(all, b)
		}
	}
	return all
}

// proxied are the tunnels of the proxy.
const proxied = server.Tunnels("proxy")

func (s Settings) proxy(logger *slog.Logger) proxy.Options {
	options := s.Proxy
	options.Logger, options.OnDrain, options.Tunnels = logger, server.OnDrain, proxied
	return options
}

// Resume returns what gives handlers, each wrapped, for the hijacked connections of a
// predecessor: Options.Resume of a server. They are those of its proxy, whatever this one is
// configured for.
func (s Settings) Resume(wrap func(http.Handler) http.Handler, logger *slog.Logger) func(server.Tunnels, []byte) http.Handler {
	resume := proxy.Resume(s.proxy(logger))
	return func(kind server.Tunnels, state []byte) http.Handler {
		if kind != proxied {
			return nil
		}
		if h := resume(state); h != nil {
			return wrap(h)
		}
		return nil
	}
}
