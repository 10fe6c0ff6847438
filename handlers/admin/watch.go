package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"example.com/baton/handlers/internal/live"
	"example.com/baton/handlers/internal/trial"
	"example.com/baton/handlers/metrics"
	"example.com/baton/upgrade"
)

const (
	maxWatchers   = 32                     // at a time
	checkInterval = 100 * time.Millisecond // between looks for a change
	eventInterval = time.Second            // between events without one
)

// watch serves the events. However many clients watch, the status is read twenty times a
// second at most, and not at all without any.
type watch struct {
	options  Options
	audience live.Audience

	// mu is held while the status or the totals are read, so that one client reads
	// them for all.
	mu      sync.Mutex
	latest  sight
	event   string // the last event
	eventOf time.Time
}

// sight is the status at one moment.
type sight struct {
	at     time.Time
	status upgrade.Status
}

func (w *watch) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	leave, ok := w.audience.Admit(rw, r, maxWatchers)
	if !ok {
		return
	}
	defer leave()
	var drain <-chan struct{}
	if w.options.Draining != nil {
		drain = w.options.Draining(r.Context())
	}
	sent, ticks := w.look(), 0
	live.Stream(rw, r, drain, w.eventFor(r.Context(), sent), checkInterval, func() string {
		now := w.look()
		if ticks++; ticks < int(eventInterval/checkInterval) && sameShape(sent.status, now.status) {
			return ""
		}
		sent, ticks = now, 0
		return w.eventFor(r.Context(), now)
	})
}

// sameShape reports whether two statuses differ in nothing but figures that change all
// the time.
func sameShape(a, b upgrade.Status) bool {
	return a.PID == b.PID && a.State == b.State && sameStage(a.Trial, b.Trial) &&
		slices.EqualFunc(a.Generations, b.Generations, func(a, b upgrade.Member) bool { return a.PID == b.PID && a.State == b.State }) &&
		slices.EqualFunc(a.Upgrades, b.Upgrades, func(a, b upgrade.Upgrade) bool {
			return a.Time.Equal(b.Time) && a.Result == b.Result && (a.Drained == nil) == (b.Drained == nil)
		})
}

// sameStage reports whether two trials are the same one, as far as it has come.
func sameStage(a, b *upgrade.TrialStatus) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Began.Equal(b.Began) && a.Stage == b.Stage && a.Verdict == b.Verdict && a.Reason == b.Reason
}

// look returns the status as it is, or was a moment ago for another client.
func (w *watch) look() sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.latest.at) >= checkInterval/2 {
		w.latest.status = w.options.Status()
		w.latest.at = time.Now() // not before: a slow read must not be repeated for each client
	}
	return w.latest
}

// eventFor returns the event that shows a sight.
func (w *watch) eventFor(ctx context.Context, now sight) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.eventOf.Equal(now.at) {
		return w.event
	}
	var tried *trial.View
	if t := now.status.Trial; t != nil {
		v := trial.Show(*t, now.at)
		tried = &v
	}
	data, _ := json.Marshal(struct { // strings, finite numbers and times always marshal
		Time   float64        `json:"time"` // seconds since 1970, so that a rate is right whatever the network does
		Status upgrade.Status `json:"status"`
		Trial  *trial.View    `json:"trial,omitempty"` // that of the status, in words
		metrics.Totals
	}{float64(time.Now().UnixMicro()) / 1e6, now.status, tried, w.options.Metrics.Totals(ctx)})
	w.event, w.eventOf = fmt.Sprintf("event: now\ndata: %s\n\n", data), now.at
	return w.event
}
