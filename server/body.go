package server

import (
	"io"
	"os"
	"sync"
	"time"
)

// streamBody is the body of a request in HTTP/2, and bounds the time that the client has for
// it: on its connection others may be busy, so that the connection's deadline does not tell.
// It breaks off if the client sends nothing of it for the timeout, while somebody waits for it. net/http passes on
// whole frames only: while one comes slowly, it is not known that nothing comes.
type streamBody struct {
	io.ReadCloser
	conn    *http2Conn
	timeout time.Duration

	mu        sync.Mutex
	timer     *time.Timer
	until     time.Time // when the Read that is under way must have something; zero: none is
	spared    bool      // a DATA was under way when the time was over, maybe of it
	unlimited bool      // the handler has set a deadline
	late      bool
}

// Read is not called concurrently.
func (b *streamBody) Read(p []byte) (int, error) {
	b.start()
	n, err := b.ReadCloser.Read(p)
	if b.stop() && err != nil && err != io.EOF {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

func (b *streamBody) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unlimited || b.late {
		return
	}
	b.until, b.spared = time.Now().Add(b.timeout), false
	if b.timer == nil {
		b.timer = time.AfterFunc(b.timeout, b.breakOff)
	} else {
		b.timer.Reset(b.timeout)
	}
}

// stop returns whether the body was broken off.
func (b *streamBody) stop() (late bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest()
	return b.late
}

func (b *streamBody) rest() {
	b.until = time.Time{}
	if b.timer != nil {
		b.timer.Stop()
	}
}

// breakOff wakes Read. A deadline of the stream in the past would do so as well, but
// net/http allows nobody to set one when the handler has returned.
func (b *streamBody) breakOff() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.until.IsZero() || now.Before(b.until) { // the Read has just ended
		return
	}
	again, since := b.timeout/8, b.conn.slowSince()
	if !since.IsZero() && (!b.spared || now.Sub(since) >= again) {
		b.until, b.spared = now.Add(again), true
		b.timer.Reset(again)
		return
	}
	b.late = true
	b.ReadCloser.Close()
}

// unlimit leaves the time to the handler.
func (b *streamBody) unlimit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unlimited = true
	b.rest()
}
