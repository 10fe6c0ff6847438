package transport

import "errors"

// Progress is how far a request that failed has got.
type Progress int

const (
	// Aborted is the progress of a request that has failed by itself, not by the backend: it is
	// invalid, its body could not be read, or its context is done. No other backend will do better.
	Aborted Progress = iota
	// Unreached means that there was no connection: it was refused, the socket is missing, or the
	// dial timed out.
	Unreached
	// Unsent means that there was a connection, but it was lost before a byte of the request was
	// written to it. A TLS handshake that fails is among these.
	Unsent
	// Sent means that at least one byte of the request was written, and no byte of a response came.
	Sent
	// Answered means that at least one byte of a response came, of an interim one perhaps.
	Answered
)

// progressError is an error of RoundTrip.
type progressError struct {
	progress Progress
	err      error
}

func (e *progressError) Error() string { return e.err.Error() }
func (e *progressError) Unwrap() error { return e.err }

// ProgressOf returns how far the request had got when RoundTrip returned the error. For errors that
// are not from RoundTrip or Probe it is Aborted.
func ProgressOf(err error) Progress {
	var e *progressError
	if errors.As(err, &e) {
		return e.progress
	}
	return Aborted
}
