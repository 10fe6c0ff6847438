package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"example.com/baton/handlers/internal/live"
	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/metrics"
)

const (
	watchers  = 32                     // at most, at a time
	lookEvery = 100 * time.Millisecond // for a change
	tellEvery = time.Second            // if there is none
)

// watch makes the events. However many watch, the status is asked for twenty times
// a second at most, and not at all if nobody does.
type watch struct {
	options  Options
	audience live.Audience

	mu     sync.Mutex
	seen   sight
	told   string // the event
	toldAt time.Time
}

// sight is the status at one moment.
type sight struct {
	at     time.Time
	status []byte // as JSON
	shape  []byte // what does not change from moment to moment
}

// shape is that of a status whose changes are told at once.
type shape struct {
	PID         int
	State       string
	Generations []struct {
		PID   int
		State string
	}
	Upgrades []struct {
		Time   any
		Result string
	}
}

func (l *watch) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	leave, ok := l.audience.Admit(w, r, watchers)
	if !ok {
		return
	}
	defer leave()
	var drain <-chan struct{}
	if l.options.Draining != nil {
		drain = l.options.Draining(r.Context())
	}
	first, err := l.look()
	if err != nil {
		reply.Error(w, r, http.StatusInternalServerError, "status cannot be marshalled")
		return
	}
	known, ticks := first.shape, 0
	live.Stream(w, r, drain, l.tell(r.Context(), first), lookEvery, func() string {
		now, err := l.look()
		if ticks++; err != nil || ticks < int(tellEvery/lookEvery) && bytes.Equal(now.shape, known) {
			return ""
		}
		known, ticks = now.shape, 0
		return l.tell(r.Context(), now)
	})
}

// look returns the status as it is, or was a moment ago for somebody else.
func (l *watch) look() (sight, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.seen.at) < lookEvery/2 {
		return l.seen, nil
	}
	var (
		now sight
		err error
	)
	if now.status, err = json.Marshal(l.options.Status()); err != nil {
		return sight{}, err
	}
	var s shape
	if err := json.Unmarshal(now.status, &s); err != nil {
		return sight{}, fmt.Errorf("read the status: %w", err)
	}
	now.shape, _ = json.Marshal(s) // of numbers and strings
	now.at = time.Now()            // not before: one that takes long must not be made for each watcher anew
	l.seen = now
	return now, nil
}

// tell returns the event for a sight.
func (l *watch) tell(ctx context.Context, now sight) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.toldAt.Equal(now.at) {
		return l.told
	}
	data, _ := json.Marshal(struct { // of numbers, strings and what was marshalled before
		Time   float64         `json:"time"` // seconds since 1970, so that a rate is right whatever the network does
		Status json.RawMessage `json:"status"`
		metrics.Totals
	}{float64(time.Now().UnixMicro()) / 1e6, now.status, l.options.Metrics.Totals(ctx)})
	l.told, l.toldAt = fmt.Sprintf("event: now\ndata: %s\n\n", data), now.at
	return l.told
}
