package transport

import (
	"errors"
	"net/http"
	"os"
	"sync"
	"time"
)

// finishTimeout is how long a response that is complete waits for its request to be so, too.
const finishTimeout = 50 * time.Millisecond

// sender sends the body of a request in a goroutine of its own.
type sender struct {
	conn    *conn
	request *http.Request
	proceed chan struct{} // of a request that expects a 100: has a value when the body is to be sent; closed: it is not
	decided bool          // which of both; the caller's
	done    chan struct{} // closed when nothing more is sent

	mu       sync.Mutex
	answered bool  // the final response header has come
	complete bool  // all was sent
	err      error // why not
}

func send(c *conn, r *http.Request, expectsContinue bool) *sender {
	s := &sender{conn: c, request: r, done: make(chan struct{}), decided: !expectsContinue}
	if expectsContinue {
		s.proceed = make(chan struct{}, 1)
	}
	go s.run()
	return s
}

var bodyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (s *sender) run() {
	defer close(s.done)
	defer closeBody(s.request)
	if !s.maySend() {
		return
	}
	buffer := bodyBuffers.Get().(*[32 << 10]byte)
	err := writeBody(s.conn.stream, s.request, buffer[:])
	bodyBuffers.Put(buffer)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete, s.err = err == nil, err
	var failed bodyError
	if errors.As(err, &failed) || errors.Is(err, os.ErrDeadlineExceeded) {
		s.conn.abort() // no response will come
	} else if !s.answered {
		// A write may fail because the backend has answered, and reads no more.
		_ = s.conn.patient.SetReadDeadline(time.Now().Add(s.conn.patient.timeout))
	}
}

// maySend waits for a 100 if the request expects one.
func (s *sender) maySend() bool {
	if s.proceed == nil {
		return true
	}
	timeout := time.NewTimer(continueTimeout)
	defer timeout.Stop()
	select {
	case _, ok := <-s.proceed:
		return ok
	case <-timeout.C:
		return true
	}
}

// decide lets a body that waits for a 100 be sent or not.
func (s *sender) decide(ok bool) {
	if s.decided {
		return
	}
	s.decided = true
	if ok {
		s.proceed <- struct{}{}
	} else {
		close(s.proceed)
	}
}

// setAnswered keeps the header timeout from the response's body.
func (s *sender) setAnswered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = true
}

// failure returns why sending has failed, nil if it has not.
func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// finish reports whether all was sent. It waits a moment for that.
func (s *sender) finish() bool {
	select {
	case <-s.done:
		return s.complete
	default:
	}
	timeout := time.NewTimer(finishTimeout)
	defer timeout.Stop()
	select {
	case <-s.done:
		return s.complete
	case <-timeout.C:
		return false
	}
}
