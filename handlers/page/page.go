package page

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"example.com/baton/handlers/internal/document"
	"example.com/baton/handlers/internal/live"
	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/internal/trial"
	"example.com/baton/upgrade"
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// Identity identifies a generation.
type Identity struct {
	Generation int    `json:"generation"`
	PID        int    `json:"pid"`
	Version    string `json:"version"`
}

// Options configure [New].
type Options struct {
	Identity
	// Trial returns the trial that runs, or the last one that is known. Nil means that there
	// is none.
	Trial func() *upgrade.TrialStatus
	// Draining returns a channel that is closed when the server of the request with that
	// context begins to drain. Nil means never.
	Draining func(context.Context) <-chan struct{}
}

const (
	checkEvery  = time.Second // between looks for news of a trial
	pingEvery   = 5 * time.Second
	pageClients = 100 // of /events, at a time
)

// ping shows that the stream lives.
const ping = "event: ping\ndata:\n\n"

// New serves the page at /, and what keeps it current at /events: server-sent events, the first
// with the identity as JSON unless the browser has had that already, then what becomes of a
// trial, and pings. The stream ends with the drain, so that the browser reconnects to the
// successor. At most 100 clients may follow at a time.
func New(options Options) http.Handler {
	identity, _ := json.Marshal(options.Identity) // numbers and a string always marshal
	eventID := fmt.Sprintf("%d-%d", options.Generation, options.PID)
	identityEvent := fmt.Sprintf("id: %s\nevent: identity\ndata: %s\n\n", eventID, identity)
	page := document.Handler(options.render(nil))
	var followers live.Audience
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			if !reply.ReadOnly(w, r) {
				return
			}
			if t := options.trial(); t != nil {
				document.Write(w, options.render(t))
			} else {
				page(w, r)
			}
		case "/events":
			if reply.ReadOnly(w, r) {
				leave, ok := followers.Admit(w, r, pageClients)
				if !ok {
					return
				}
				defer leave()
				var drain <-chan struct{}
				if options.Draining != nil {
					drain = options.Draining(r.Context())
				}
				first := identityEvent
				if r.Header.Get("Last-Event-ID") == eventID {
					first = ping // a stream that broke off; its reader knows
				}
				sent, quiet := options.trialEvent(), time.Duration(0)
				live.Stream(w, r, drain, first+sent, checkEvery, func() (event string) {
					if event = options.trialEvent(); event == sent {
						if quiet += checkEvery; quiet < pingEvery {
							return ""
						}
						event = ping
					} else {
						sent = event
					}
					quiet = 0
					return event
				})
			}
		default:
			reply.Error(w, r, http.StatusNotFound, "not found")
		}
	})
}

// trial returns what is to be shown of a trial, nil if there is none.
func (o Options) trial() *trial.View {
	if o.Trial == nil {
		return nil
	}
	t := o.Trial()
	if t == nil {
		return nil
	}
	v := trial.Show(*t, time.Now())
	return &v
}

// trialEvent returns the event that shows the trial, or that there is none.
func (o Options) trialEvent() string {
	if o.Trial == nil {
		return ""
	}
	data, _ := json.Marshal(o.trial()) // strings always marshal
	return fmt.Sprintf("event: trial\ndata: %s\n\n", data)
}

// render returns the page.
func (o Options) render(t *trial.View) string {
	var html strings.Builder
	_ = pageTemplate.Execute(&html, struct { // fails only where a test would have
		Identity
		Trial *trial.View
	}{o.Identity, t})
	return html.String()
}
