package pool

import (
	"errors"
	"net"
	"slices"
	"syscall"
)

// Error says why a request has got no response.
type Error struct {
	Backend string // its name; empty if no attempt was made, as too many requests wait already
	Absent  bool   // nobody is there who could answer: trying again later is of use
	Err     error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

var (
	errQueueFull = errors.New("too many requests wait for a backend")
	errClosed    = errors.New("backend is not asked any more")
	errLeaving   = errors.New("503 with Connection: close")
)

// presence says how much there is of the backend: nobody, somebody who does not accept in time,
// somebody.
func (e *Error) presence() int {
	switch {
	case e.Absent:
		return 0
	case isTimeout(e.Err):
		return 1
	}
	return 2
}

// newError returns the error of an attempt to get at b.
func newError(b *backend, err error) *Error {
	return &Error{Backend: b.Name, Absent: isAbsent(err), Err: err}
}

// isAbsent reports whether a connect has failed since nobody is there.
func isAbsent(err error) bool {
	return isOneOf(err, syscall.ECONNREFUSED, syscall.ENOENT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN)
}

// isLocal reports whether a connect has failed for lack of something here, or of room in
// the queue of a unix socket. That says nothing about the backend.
func isLocal(err error) bool {
	return isOneOf(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN)
}

func isOneOf(err error, errnos ...syscall.Errno) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains(errnos, errno)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
