// The built-in page: which generation answers, live.

package handlers

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

//go:embed page.html
var pageHTML string

// Identity is what a generation says about itself.
type Identity struct {
	Generation int    `json:"generation"`
	PID        int    `json:"pid"`
	Version    string `json:"version"`
}

const pingEvery = 5 * time.Second

// Page serves at / a page that shows id and stays current while generations
// change, and at /events what it lives on: server-sent events, the first with
// id as JSON, then pings. The stream ends when the channel that draining
// returns for the request's context is closed, so that the browser reconnects
// to the successor; a nil draining never does.
func Page(id Identity, draining func(context.Context) <-chan struct{}) http.Handler {
	identity, _ := json.Marshal(id) // numbers and a string always marshal
	first := fmt.Sprintf("event: identity\ndata: %s\n\n", identity)
	page := document(pageHTML)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			if readOnly(w, r) {
				page(w, r)
			}
		case "/events":
			if readOnly(w, r) {
				var drain <-chan struct{}
				if draining != nil {
					drain = draining(r.Context())
				}
				streamEvents(w, r, drain, first, pingEvery, func() string { return "event: ping\ndata:\n\n" })
			}
		default:
			WriteError(w, r, http.StatusNotFound, "not found")
		}
	})
}
