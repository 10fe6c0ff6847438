package live

import (
	"net/http"
	"sync/atomic"
	"time"

	"example.com/baton/handlers/internal/reply"
)

// EventTimeout bounds the writing of one event to a client that has long not read.
// The end of a drain waits for it.
const EventTimeout = 3 * time.Second

// Audience counts the clients that follow a stream of events. Each is a goroutine and a
// connection for as long as it likes.
type Audience struct{ now atomic.Int32 }

// Admit takes one more client, until leave, or answers 503 if there are that many already.
func (a *Audience) Admit(w http.ResponseWriter, r *http.Request, most int32) (leave func(), ok bool) {
	leave = func() { a.now.Add(-1) }
	if a.now.Add(1) > most {
		leave()
		w.Header().Set("Retry-After", "5") // the page says why, and waits for so long
		reply.Error(w, r, http.StatusServiceUnavailable, "too many clients receive these events")
		return nil, false
	}
	return leave, true
}

// Stream sends first at once, and then what next returns for each interval;
// "" is not sent. The stream ends when drain is closed, and the browser then
// reconnects to the successor. It lives in the request's own goroutine, so that
// a client that reads slowly keeps only itself waiting.
func Stream(w http.ResponseWriter, r *http.Request, drain <-chan struct{}, first string, every time.Duration, next func() string) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx in between passes events on at once
	if r.Method == http.MethodHead {
		return
	}
	select {
	case <-drain:
		first = "" // who is about to go does not introduce himself
	default:
	}

	control := http.NewResponseController(w)
	send := func(event string) bool {
		// Not every ResponseWriter has deadlines. Then only the drain deadline bounds the write.
		_ = control.SetWriteDeadline(time.Now().Add(EventTimeout))
		if _, err := w.Write([]byte(event)); err != nil || control.Flush() != nil {
			return false
		}
		// It would end a stream of HTTP/2 that waits for its next event.
		_ = control.SetWriteDeadline(time.Time{})
		return true
	}
	if first == "" {
		send("retry: 200\n\n")
		return
	}
	if !send("retry: 200\n" + first) {
		return
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-drain:
			return
		case <-r.Context().Done():
			return
		case <-ticker.C:
			if event := next(); event != "" && !send(event) {
				return
			}
		}
	}
}
