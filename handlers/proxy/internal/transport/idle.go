package transport

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// idle are the connections that wait for a request.
type idle struct {
	mu     sync.Mutex
	conns  []*conn     // the one that was used last is the last
	refuse bool        // none is kept
	timer  *time.Timer // closes those that have waited for too long
	armed  bool

	unsolicited func(bytes []byte) // is called with what has come on one of them
}

// take returns the connection that was used last and is still good for a request, nil if there is
// none.
func (i *idle) take(now time.Time) *conn {
	for {
		i.mu.Lock()
		if len(i.conns) == 0 {
			i.mu.Unlock()
			return nil
		}
		last := len(i.conns) - 1
		c := i.conns[last]
		i.conns[last] = nil
		i.conns = i.conns[:last]
		i.mu.Unlock()
		if now.Before(c.expires) {
			quiet, more := c.isQuiet()
			if quiet {
				return c
			}
			i.unsolicited(more)
		}
		c.stream.Close()
	}
}

// keep keeps the connection, or closes it if there are enough.
func (i *idle) keep(c *conn, now time.Time) {
	c.expires = now.Add(c.idleTimeout)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.refuse || c.idleTimeout <= 0 || len(i.conns) >= maxIdle {
		_ = c.patient.Close()
		return
	}
	i.conns = append(i.conns, c)
	if i.armed {
		return
	}
	i.armed = true
	if i.timer == nil {
		i.timer = time.AfterFunc(idleTimeout, i.expire)
	} else {
		i.timer.Reset(idleTimeout)
	}
}

// expire closes the connections that have waited for too long.
func (i *idle) expire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	now, next := time.Now(), idleTimeout
	i.conns = slices.DeleteFunc(i.conns, func(c *conn) bool {
		left := c.expires.Sub(now)
		if left <= 0 {
			_ = c.patient.Close()
			return true
		}
		next = min(next, left)
		return false
	})
	if i.armed = len(i.conns) > 0; i.armed {
		i.timer.Reset(next)
	}
}

// accept says whether connections are kept from now on; those that are kept are closed if not.
func (i *idle) accept(keep bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.refuse = !keep
	if keep {
		return
	}
	for _, c := range i.conns {
		_ = c.patient.Close()
	}
	i.conns, i.armed = nil, false
	if i.timer != nil {
		i.timer.Stop()
	}
}

// idleTimeoutOf returns how long a connection may be idle after a response with that header: four
// seconds, or four fifths of what the backend promises. The request needs some time to get there.
func idleTimeoutOf(header http.Header) time.Duration {
	for _, value := range header["Keep-Alive"] {
		for parameter := range strings.SplitSeq(value, ",") {
			name, seconds, _ := strings.Cut(parameter, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "timeout") {
				continue
			}
			if n, err := strconv.ParseUint(strings.TrimSpace(seconds), 10, 16); err == nil {
				return min(idleTimeout, time.Duration(n)*time.Second*4/5)
			}
		}
	}
	return idleTimeout
}
