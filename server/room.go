package server

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/upgrade"
)

const (
	// roomInterval is the time between two looks for descriptors while something waits for them.
	roomInterval = 20 * time.Millisecond
	// roomPatience is how long a request waits for descriptors.
	roomPatience = 5 * time.Second
	// few is how many connections and requests there may be however low the limit is.
	few = 8
	// reclaimAge is how long a connection must have been idle before it is closed to
	// make room for another one.
	reclaimAge = time.Second
)

// room keeps descriptors back when they run short. What it leaves is enough for an
// upgrade, the control socket and the admin listener, whatever clients hold; and
// connections leave some to requests, which open files and connections to backends.
type room struct {
	connections, requests allowance
	reported              atomic.Int64 // when a shortage was, in Unix seconds
}

// allowance is how often something may happen before the descriptors are counted again.
type allowance struct{ left atomic.Int64 }

// take reports whether there is room, of which count returns how much.
func (a *allowance) take(count func() int) bool {
	if a.left.Add(-1) >= 0 {
		return true
	}
	spare := count()
	a.left.Store(int64(max(spare/8, 0))) // each may take several
	return spare > 0
}

func (r *room) forConnection() bool {
	return r.connections.take(func() int { connections, _ := upgrade.Room(); return connections })
}

func (r *room) forRequest() bool {
	return r.requests.take(func() int { _, requests := upgrade.Room(); return requests })
}

// awaitRoom waits until a connection may be accepted. While clients wait for that, the
// connections that have been idle for longest are closed. The admin server, which has no
// more clients than the reserve is for, does not wait.
func (l *listener) awaitRoom() {
	s := l.server
	for !l.emptying.Load() && !l.paused.Load() {
		if s.room.forConnection() || s.count() < max(s.opts.MaxConnections, few) {
			return
		}
		if now := time.Now().Unix(); now-s.room.reported.Load() >= 60 {
			s.room.reported.Store(now)
			s.opts.Logger.Warn("file descriptors are short: connections wait until others end; raise the limit (LimitNOFILE=, ulimit -n)",
				"address", l.Addr().String())
		}
		if readable(l.Listener) {
			s.makeRoom()
		}
		select {
		case <-l.closed:
			return
		case <-time.After(roomInterval):
		}
	}
}

// makeRoom closes the connection that has been idle for longest.
func (s *Server) makeRoom() {
	var oldest *conn
	since := time.Now().Add(-reclaimAge)
	for _, c := range s.open() {
		if at := c.waitingSince(); !at.IsZero() && at.Before(since) {
			oldest, since = c, at
		}
	}
	if oldest != nil {
		oldest.wakeToReclaim()
	}
}

// waitingSince returns since when the connection is blocked at rest, or the zero time.
func (c *conn) waitingSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundary.WaitingSince()
}

func (c *conn) wakeToReclaim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake(boundary.ToReclaim)
}

// withRoom calls next when there is room for what it may open, or answers 503.
func (s *Server) withRoom(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.opts.MaxConnections > 0 || s.room.forRequest() || s.requests.Load() <= few || s.waitForRoom(r.Context()) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, "503 Service Unavailable: the server is short of file descriptors; try again", http.StatusServiceUnavailable)
	})
}

func (s *Server) waitForRoom(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(roomInterval):
			if s.room.forRequest() {
				return true
			}
		}
	}
}
