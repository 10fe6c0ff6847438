package settings

import (
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
)

// StopTime returns how long a stop may take at most, but for predecessors that drain:
// its hooks have ten seconds, and a predecessor that still drains five more.
func (s Settings) StopTime() time.Duration {
	return s.Lifecycle.ShutdownDelay + s.Lifecycle.DrainTimeout + 20*time.Second
}

// Handler returns what the public server serves on its listeners, which are in the
// order of s.Listen: files, applications, or else a page that shows which generation
// answers.
func (s Settings) Handler(identity page.Identity, public []net.Listener, logger *slog.Logger) (handler http.Handler, err error) {
	if s.Files.Root != "" {
		s.Files.Logger = logger
		if handler, err = files.New(s.Files); err != nil {
			return nil, err
		}
	}
	if len(s.Proxy.Rules) > 0 {
		s.Proxy.Logger, s.Proxy.Next, s.Proxy.OnDrain = logger, handler, server.OnDrain
		handler = proxy.New(s.Proxy)
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
