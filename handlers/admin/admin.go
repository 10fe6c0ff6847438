package admin

import (
	"context"
	_ "embed"
	"encoding/json"
	"net/http"

	"example.com/baton/handlers/internal/document"

	"example.com/baton/handlers/internal/host"
	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/metrics"
)

//go:embed status.html
var statusHTML string

// Options configure Admin. All but Healthy, Host and Draining must be set.
type Options struct {
	Metrics *metrics.Metrics
	Ready   func() bool  // whether this service takes requests
	Healthy func() error // what is wrong with this process that a restart might end; nil: nothing is
	Status  func() any   // marshalled to JSON; called several times a second while somebody watches

	// Host is a name by which the admin listener is known, besides those of the machine.
	Host string

	// Draining returns a channel that is closed when the server of the request
	// with that context begins to drain. Nil: it never does.
	Draining func(context.Context) <-chan struct{}
}

// Handler serves /metrics, /healthz, which is ok while the process lives and
// 503 when Healthy returns an error, /readyz, which is 503 when Ready says no, /status as JSON, and at / a page
// that shows what happens, live. It lives on /events: server-sent events with
// the status and the totals of the line of generations, one a second and one at
// once when a generation or an upgrade changes. At most 32 can watch at a time.
// The stream ends with the drain, so that the browser reconnects to the
// successor. Admin answers only GET and HEAD, and 421 to a host name with dots that is
// neither Host nor the machine's, so that no web page can read it by DNS rebinding. Any
// name will do for /healthz and /readyz, and for /metrics except at a loopback address.
func Handler(options Options) http.Handler {
	page := document.Handler(statusHTML)
	metrics, events := options.Metrics.Handler(), &watch{options: options}
	return host.Known(options.Host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "baton")
		if !reply.ReadOnly(w, r) {
			return
		}
		switch r.URL.Path {
		case "/metrics":
			metrics.ServeHTTP(w, r)
		case "/healthz":
			if err := healthy(options); err != nil {
				writeFresh(w, http.StatusServiceUnavailable, "text/plain; charset=utf-8", []byte(err.Error()+"\n"))
				return
			}
			writeFresh(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
		case "/readyz":
			if options.Ready() {
				writeFresh(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ready\n"))
			} else {
				writeFresh(w, http.StatusServiceUnavailable, "text/plain; charset=utf-8", []byte("not ready\n"))
			}
		case "/status":
			status, err := json.Marshal(options.Status())
			if err != nil {
				reply.Error(w, r, http.StatusInternalServerError, "status cannot be marshalled")
				return
			}
			writeFresh(w, http.StatusOK, "application/json", append(status, '\n'))
		case "/events":
			events.ServeHTTP(w, r)
		case "/":
			page(w, r)
		default:
			reply.Error(w, r, http.StatusNotFound, "not found")
		}
	}))
}

func healthy(options Options) error {
	if options.Healthy == nil {
		return nil
	}
	return options.Healthy()
}

// writeFresh answers what is true now and must not be stored.
func writeFresh(w http.ResponseWriter, code int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that went away is not an error
}
