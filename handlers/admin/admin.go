package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"example.com/baton/handlers/internal/document"
	"example.com/baton/handlers/internal/host"
	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/metrics"
	"example.com/baton/upgrade"
)

// Options configure [Handler]. All but Healthy, Host and Draining must be set.
type Options struct {
	Metrics *metrics.Metrics
	Ready   func() bool           // whether this service takes requests
	Healthy func() error          // what a restart of this process might repair; nil: nothing
	Status  func() upgrade.Status // called up to twenty times a second while clients watch

	// Host is a name by which the admin listener is known, besides those of the machine.
	Host string

	// Draining returns a channel that is closed when the server of the request
	// with that context begins to drain. Nil means never.
	Draining func(context.Context) <-chan struct{}
}

// Handler serves the paths of the package comment. It answers only GET and HEAD, and 421
// if the host name has dots and is neither Host nor the machine's, so that no web page
// can read it by DNS rebinding. /healthz and /readyz accept any host name, and so does
// /metrics except at a loopback address.
func Handler(options Options) http.Handler {
	metrics, events := options.Metrics.Handler(), &watch{options: options}
	return host.Known(options.Host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "baton")
		if !reply.ReadOnly(w, r) {
			return
		}
		const text = "text/plain; charset=utf-8"
		switch r.URL.Path {
		case "/metrics":
			metrics.ServeHTTP(w, r)
		case "/healthz":
			if err := options.health(); err != nil {
				writeFresh(w, http.StatusServiceUnavailable, text, err.Error())
			} else {
				writeFresh(w, http.StatusOK, text, "ok")
			}
		case "/readyz":
			if options.Ready() {
				writeFresh(w, http.StatusOK, text, "ready")
			} else {
				writeFresh(w, http.StatusServiceUnavailable, text, "not ready")
			}
		case "/status":
			status, _ := json.Marshal(options.Status()) // strings, finite numbers and times always marshal
			writeFresh(w, http.StatusOK, "application/json", string(status))
		case "/events":
			events.ServeHTTP(w, r)
		case "/":
			document.Write(w, options.view(r.Context()).render())
		default:
			reply.Error(w, r, http.StatusNotFound, "not found")
		}
	}))
}

func (o Options) health() error {
	if o.Healthy == nil {
		return nil
	}
	return o.Healthy()
}

func (o Options) view(ctx context.Context) view {
	v := view{Status: o.Status(), now: time.Now()}
	v.Load = v.Status.Load()
	for _, n := range o.Metrics.Totals(ctx).Requests {
		v.Requests += int(n)
	}
	return v
}

// writeFresh answers with a line that holds now and must not be stored.
func writeFresh(w http.ResponseWriter, code int, contentType, line string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(line + "\n")) // a client that went away is not an error
}
