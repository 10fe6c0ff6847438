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
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// Identity is what a generation says about itself.
type Identity struct {
	Generation int    `json:"generation"`
	PID        int    `json:"pid"`
	Version    string `json:"version"`
}

const (
	pingEvery   = 5 * time.Second
	pageClients = 100 // of /events, at a time
)

// New serves at / a page that shows id, also to who runs no scripts, and stays current while generations
// change, and at /events what it lives on: server-sent events, the first with
// id as JSON unless the browser has had that already, then pings. The stream ends when the channel that draining
// returns for the request's context is closed, so that the browser reconnects
// to the successor; a nil draining never does. At most 100 clients follow it at a time.
func New(id Identity, draining func(context.Context) <-chan struct{}) http.Handler {
	identity, _ := json.Marshal(id) // numbers and a string always marshal
	eventID := fmt.Sprintf("%d-%d", id.Generation, id.PID)
	identityEvent := fmt.Sprintf("id: %s\nevent: identity\ndata: %s\n\n", eventID, identity)
	var html strings.Builder
	_ = pageTemplate.Execute(&html, id) // fails only where a test would have
	page := document.Handler(html.String())
	var followers live.Audience
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			if reply.ReadOnly(w, r) {
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
				if draining != nil {
					drain = draining(r.Context())
				}
				first := identityEvent
				if r.Header.Get("Last-Event-ID") == eventID {
					first = "event: ping\ndata:\n\n" // a stream that broke off; its reader knows
				}
				live.Stream(w, r, drain, first, pingEvery, func() string { return "event: ping\ndata:\n\n" })
			}
		default:
			reply.Error(w, r, http.StatusNotFound, "not found")
		}
	})
}
