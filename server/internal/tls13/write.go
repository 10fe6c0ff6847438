package tls13

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// batchLen is how much application data is written at a time.
	batchLen = 2 * maxPlaintext
	// updateLen is the length of a record with a KeyUpdate.
	updateLen = keyUpdateLen + overhead

	oneRecord  = updateLen + maxPlaintext + overhead
	allRecords = updateLen + batchLen/maxPlaintext*(maxPlaintext+overhead)
)

var (
	recordBuffers = sync.Pool{New: func() any { return new([oneRecord]byte) }}
	batchBuffers  = sync.Pool{New: func() any { return new([allRecords]byte) }}
)

// writer is what belongs to Write.
type writer struct {
	mu sync.Mutex // held by a Write, also while it is blocked, and while the state is exported
	outbound
	err   error // that of all following Writes
	ended bool  // an alert was sent, close_notify included

	// refused is set by the reader, who must not wait for mu.
	refused atomic.Pointer[refusal]
}

// refusal is why nothing more may be written.
type refusal struct {
	err   error
	alert tls.AlertError // to be sent first
	send  bool           // it is
}

// Write writes application data: in one record if it fits, and of more than that in records of
// full length, several of them at a time. A Write that has failed, also because of its
// deadline, ends writing.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.out.mu.Lock()
	defer c.unlockWriter()
	for len(p) > 0 && err == nil {
		batch := p[:min(len(p), batchLen)]
		if err = c.writeBatch(batch); err == nil {
			n += len(batch)
			p = p[len(batch):]
		}
	}
	return n, err
}

func (c *Conn) writeBatch(p []byte) error {
	out := &c.out
	if err := out.failed(); err != nil {
		return err
	}
	if len(p) <= maxPlaintext {
		buffer := recordBuffers.Get().(*[oneRecord]byte)
		defer recordBuffers.Put(buffer)
		return c.writeRecords(buffer[:0], p)
	}
	buffer := batchBuffers.Get().(*[allRecords]byte)
	defer batchBuffers.Put(buffer)
	return c.writeRecords(buffer[:0], p)
}

func (c *Conn) writeRecords(buffer, p []byte) (err error) {
	out := &c.out
	if c.requested.Swap(false) || out.isWorn() {
		if buffer, err = out.sealUpdate(buffer); err != nil {
			out.err = err
			return err
		}
	}
	_, out.err = c.Conn.Write(out.sealData(buffer, p))
	return out.err
}

// failed returns why nothing may be written.
func (w *writer) failed() error {
	if r := w.refused.Load(); r != nil {
		return r.err
	}
	if w.err == nil && w.ended {
		return net.ErrClosed
	}
	return w.err
}

// isEnded reports whether nothing can be sent any more, not even an alert.
func (w *writer) isEnded() bool { return w.ended || w.err != nil }

// refuse ends writing from the side of the reader. A Write that is under way sends the alert
// when the layer below has taken what it is being given.
func (c *Conn) refuse(r refusal) {
	c.out.refused.Store(&r)
	if c.out.mu.TryLock() {
		c.unlockWriter()
	}
}

// unlockWriter sends the alert that the reader wants to be sent, if any, and releases the lock
// of the writer.
func (c *Conn) unlockWriter() {
	out := &c.out
	for {
		if r := out.refused.Load(); r != nil && r.send {
			c.sendAlert(levelFatal, r.alert)
		}
		ended := out.isEnded()
		out.mu.Unlock()
		// The reader may have found the lock taken in the meantime.
		if r := out.refused.Load(); ended || r == nil || !r.send || !out.mu.TryLock() {
			return
		}
	}
}

// closeNotify sends a close_notify, with the lock held.
func (c *Conn) closeNotify() error {
	if r := c.out.refused.Load(); r != nil {
		return r.err
	}
	return c.sendAlert(levelWarning, alertCloseNotify)
}

// sendAlert sends an alert as the last record, with the lock held.
func (c *Conn) sendAlert(level byte, alert tls.AlertError) error {
	out := &c.out
	if out.isEnded() {
		return out.err
	}
	out.ended = true
	var buffer [overhead + 2]byte
	c.Conn.SetWriteDeadline(time.Now().Add(finalWrite))
	_, out.err = c.Conn.Write(out.seal(buffer[:0], typeAlert, []byte{level, byte(alert)}))
	return out.err
}
