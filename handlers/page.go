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

const (
	pingEvery    = 5 * time.Second
	writeTimeout = 10 * time.Second // of one event, to a client that does not read
)

// Page serves at / a page that shows id and stays current while generations
// change, and at /events what it lives on: server-sent events, the first with
// id as JSON, then pings. The stream ends when the channel that draining
// returns for the request's context is closed, so that the browser reconnects
// to the successor; a nil draining never does.
func Page(id Identity, draining func(context.Context) <-chan struct{}) http.Handler {
	identity, _ := json.Marshal(id) // numbers and a string always marshal
	first := fmt.Sprintf("retry: 200\nevent: identity\ndata: %s\n\n", identity)
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
				streamEvents(w, r, first, drain)
			}
		default:
			WriteError(w, r, http.StatusNotFound, "not found")
		}
	})
}

func streamEvents(w http.ResponseWriter, r *http.Request, first string, drain <-chan struct{}) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx in between passes events on at once
	if r.ProtoMajor == 1 {
		// Else the browser would ask again on this connection, which the drain
		// keeps for the idle grace, and would get the predecessor once more.
		h.Set("Connection", "close")
	}
	if r.Method == http.MethodHead {
		return
	}
	select {
	case <-drain:
		first = "retry: 200\n\n" // who is about to go does not introduce himself
	default:
	}

	control := http.NewResponseController(w)
	send := func(event string) bool {
		// Not every ResponseWriter has deadlines. Then only the drain deadline bounds the write.
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := w.Write([]byte(event))
		return err == nil && control.Flush() == nil
	}
	if !send(first) {
		return
	}
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-drain:
			return
		case <-r.Context().Done():
			return
		case <-ping.C:
			if !send("event: ping\ndata:\n\n") {
				return
			}
		}
	}
}
