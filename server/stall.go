package server

import (
	"net/http"
	"sync"
	"time"
)

// stallStep is the time between two looks at a write that blocks.
const stallStep = 2 * time.Second

// drainPart is the part of a drain's length that a client may take nothing for: one
// that has stopped reading must not hold the drain until its deadline.
const drainPart = 3

// stallTime returns for how long a client may take nothing of a response.
func (s *Server) stallTime() time.Duration {
	limit := s.opts.WriteTimeout
	if d := s.drain.Load(); d != nil {
		if length, bounded := d.length(); bounded {
			limit = min(limit, length/drainPart)
		}
	}
	return limit
}

// streamWriter bounds the writes of one response in HTTP/2. Its connection may be busy with
// others while the client gives it no window.
type streamWriter struct {
	control *http.ResponseController
	conn    *http2Conn

	mu    sync.Mutex
	timer *time.Timer
	begin time.Time // of the write under way; the zero time: none is
	own   bool      // the handler has set a deadline
	over  bool      // the handler has returned
}

// streamPart is how much is written at once: so much a client has to take in the time.
const streamPart = 16 << 10

// write calls f, which blocks while the client gives no window.
func (w *streamWriter) write(f func() error) error {
	if w == nil {
		return f()
	}
	w.mu.Lock()
	w.begin = time.Now()
	if w.timer == nil {
		w.timer = time.AfterFunc(w.step(), w.check)
	} else {
		w.timer.Reset(w.step())
	}
	w.mu.Unlock()
	err := f()
	w.mu.Lock()
	w.begin = time.Time{}
	w.timer.Stop()
	w.mu.Unlock()
	return err
}

func (w *streamWriter) step() time.Duration {
	return min(stallStep, w.conn.conn.server.stallTime()/4)
}

// check resets the stream when the client has given no window for too long.
func (w *streamWriter) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begin.IsZero() || w.over {
		return
	}
	if time.Since(w.begin) < w.conn.conn.server.stallTime() {
		w.timer.Reset(w.step())
		return
	}
	w.control.SetWriteDeadline(time.Unix(1, 0))
}

// end is called when the handler returns: net/http then writes what it has buffered.
func (w *streamWriter) end() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil && !w.own { // something was written
		w.control.SetWriteDeadline(time.Now().Add(w.conn.conn.server.stallTime()))
	}
}

// setOwn notes whether the handler has set a deadline.
func (w *streamWriter) setOwn(own bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own = own
}
