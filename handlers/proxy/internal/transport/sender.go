package transport

import (
	"errors"
	"net/http"
	"net/textproto"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// finishTimeout is how long a response that is complete waits for its request to be so, too.
const finishTimeout = 50 * time.Millisecond

// sender sends the body of a request in a goroutine of its own.
type sender struct {
	conn    *conn
	request *http.Request
	proceed chan bool     // of a request that expects a 100: whether the body is to be sent
	decided atomic.Bool   // that it is, or is not, by the first of the backend and the timeout
	done    chan struct{} // closed when nothing more is sent

	mu       sync.Mutex
	answered bool  // the final response header has come
	complete bool  // all was sent
	err      error // why not
}

func send(c *conn, r *http.Request, expectsContinue bool) *sender {
	s := &sender{conn: c, request: r, done: make(chan struct{})}
	if expectsContinue {
		s.proceed = make(chan bool, 1)
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
	case ok := <-s.proceed:
		return ok
	case <-timeout.C:
	}
	if s.decided.Swap(true) {
		return <-s.proceed
	}
	return s.callHook(nil) == nil
}

// decide lets a body that waits for a 100 be sent or not, unless that is decided.
func (s *sender) decide(ok bool) {
	if s.proceed != nil && !s.decided.Swap(true) {
		s.proceed <- ok
	}
}

// passContinue passes a 100 on to the caller, and lets the body be sent. The caller gets one 100, and gets
// it before the body is read: net/http would write another when that begins.
func (s *sender) passContinue(header textproto.MIMEHeader) error {
	if s.decided.Swap(true) {
		return nil
	}
	err := s.callHook(header)
	s.proceed <- err == nil
	return err
}

func (s *sender) callHook(header textproto.MIMEHeader) error {
	if hook := interimHook(s.request); hook != nil {
		return hook(http.StatusContinue, header)
	}
	return nil
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
