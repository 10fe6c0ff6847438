package tls13

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// smallLen is the length of the buffer that a connection always has, for a record that comes in
// one segment of TCP. A pooled one is taken for the rest of a larger record.
const smallLen = 1536

// largeLen is room for two records of full length.
const largeLen = 2 * (headerLen + maxCiphertext)

var largeBuffers = sync.Pool{New: func() any { return new([largeLen]byte) }}

// reader is what belongs to Read.
type reader struct {
	mu sync.Mutex // held by a Read, also while it is blocked
	inbound
	err error // that of all following Reads

	small    [smallLen]byte
	large    *[largeLen]byte // nil: small is used
	from, to int             // what has come of records that were not opened, in the buffer
	data     []byte          // application data not yet delivered, in the buffer before from

	held atomic.Int64 // bytes that have come and were not delivered
}

// Read reads application data, of one record at a time. After a close_notify, and where the
// layer below ends between two records, it returns io.EOF.
//
// A Read that has failed because of its deadline can be repeated: nothing that has come is
// lost.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	in := &c.in
	in.mu.Lock()
	defer in.mu.Unlock()
	defer in.rest()
	for len(in.data) == 0 {
		if in.err != nil {
			return 0, in.err
		}
		if err := c.readRecord(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.data)
	in.data = in.data[n:]
	return n, nil
}

// readRecord reads a record and does what it says.
func (c *Conn) readRecord() error {
	in := &c.in
	if err := in.fill(c.Conn, headerLen); err != nil {
		return in.fail(err)
	}
	n, err := recordLen(in.buffer()[in.from:in.to])
	if err != nil {
		return c.abort(err)
	}
	if err := in.fill(c.Conn, n); err != nil {
		return in.fail(err)
	}
	data, requested, err := in.receive(in.buffer()[in.from : in.from+n])
	if err != nil {
		return c.abort(err)
	}
	in.from += n
	in.data = data
	in.count() // the next Read of the layer below may block
	if requested {
		c.requested.Store(true)
	}
	return nil
}

// abort ends the connection because of an error that recordLen or receive has returned.
func (c *Conn) abort(err error) error {
	alert, violated := err.(tls.AlertError) //nolint:errorlint // a remote error wraps one
	if violated {
		err = localError(alert)
	}
	c.in.end(err)
	switch {
	case violated:
		c.refuse(refusal{err: err, alert: alert, send: true})
	case !errors.Is(err, io.EOF):
		c.refuse(refusal{err: err})
	}
	return err
}

// fail returns an error of the layer below. Unless it is about a deadline, it is that of all
// following Reads.
func (in *reader) fail(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if errors.Is(err, io.EOF) && in.from < in.to {
		err = io.ErrUnexpectedEOF
	}
	in.end(err)
	return err
}

// end has all following Reads return an error.
func (in *reader) end(err error) {
	in.err = err
	in.from, in.to, in.have, in.data = 0, 0, 0, nil
}

func (in *reader) buffer() []byte {
	if in.large != nil {
		return in.large[:]
	}
	return in.small[:]
}

// fill reads until n bytes of records have come, or more.
func (in *reader) fill(r io.Reader, n int) error {
	if in.from == in.to {
		in.release()
	}
	for in.to-in.from < n {
		if in.from+n > len(in.buffer()) {
			in.makeRoom(n)
		}
		got, err := r.Read(in.buffer()[in.to:])
		in.to += got
		in.count()
		if got == 0 && err != nil {
			return err
		}
	}
	return nil
}

// makeRoom moves what has come to the beginning of a buffer that has room for n bytes.
func (in *reader) makeRoom(n int) {
	have := in.buffer()[in.from:in.to]
	if n > len(in.buffer()) {
		in.large = largeBuffers.Get().(*[largeLen]byte)
	}
	in.from, in.to = 0, copy(in.buffer(), have)
}

// release returns the pooled buffer, in which nothing is left.
func (in *reader) release() {
	in.from, in.to, in.data = 0, 0, nil
	if in.large != nil {
		largeBuffers.Put(in.large)
		in.large = nil
	}
}

// count makes known what is held.
func (in *reader) count() { in.held.Store(int64(in.to - in.from + len(in.data) + in.have)) }

// rest is called when a Read returns.
func (in *reader) rest() {
	in.count()
	if in.from == in.to && len(in.data) == 0 {
		in.release()
	}
}

// Holds reports whether something has been read that was not delivered: application data, or
// a part of a record or of a post-handshake message.
func (c *Conn) Holds() bool { return c.in.held.Load() > 0 }

// Pending returns an upper bound of the bytes that were read but not delivered.
func (c *Conn) Pending() int { return int(c.in.held.Load()) }
