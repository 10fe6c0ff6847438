package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stallStep is how often a write that blocks is looked at.
const stallStep = 2 * time.Second

// drainPart is the part of a drain's length that a client may take nothing for: one
// that has stopped reading must not hold the drain until its deadline.
const drainPart = 3

// unsentBytes is how much the kernel takes of what a client does not read. Without a
// bound that is some megabytes for each client.
const unsentBytes = 128 << 10

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

// writer is what a connection writes to its socket with. Each write may take as long
// as the client takes something of it.
type writer struct {
	mu       sync.Mutex
	deadline time.Time // of the handler or of net/http; the zero time: none
	until    time.Time // when the write that is under way is looked at
}

// SetWriteDeadline bounds all writes in addition to the time without progress.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.deadline = t
	return c.Conn.SetWriteDeadline(earlier(t, c.out.until))
}

// SetDeadline is for connections that a handler has hijacked.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// writeSocket writes to the socket what the client sees.
func (c *conn) writeSocket(p []byte) (int, error) {
	n, err := c.progress(func(done int64) (int64, error) {
		n, err := c.Conn.Write(p[done:])
		return int64(n), err
	})
	return int(n), err
}

// sendFile writes a file.
func (c *conn) sendFile(to io.ReaderFrom, file *fileReader) (int64, error) {
	interrupted := false
	return c.progress(func(done int64) (int64, error) {
		if interrupted {
			if err := file.goOn(done); err != nil {
				return 0, err
			}
		}
		interrupted = true
		return to.ReadFrom(file.Reader)
	})
}

// fileReader reads a file, or a part of it, and can go on where a write was interrupted:
// where the kernel does not send the file by itself, more has been read of it by then than
// was written.
type fileReader struct {
	io.Reader
	file    *os.File
	limited *io.LimitedReader // the Reader, if it is one
	begin   int64             // where in the file
	length  int64             // of what is limited
}

// asFile returns nil if r is no file or, like a pipe, one that cannot be read again.
func asFile(r io.Reader) *fileReader {
	f := &fileReader{Reader: r}
	if limited, ok := r.(*io.LimitedReader); ok {
		f.limited, f.length = limited, limited.N
		r = limited.R
	}
	var ok bool
	if f.file, ok = r.(*os.File); !ok {
		return nil
	}
	var err error
	if f.begin, err = f.file.Seek(0, io.SeekCurrent); err != nil {
		return nil
	}
	return f
}

func (f *fileReader) goOn(done int64) error {
	if f.limited != nil {
		f.limited.N = f.length - done
	}
	_, err := f.file.Seek(f.begin+done, io.SeekStart)
	return err
}

// progress calls write, which returns what it has written, until that is all or the
// client has taken nothing for too long. What the client's kernel has confirmed counts
// as taken: the socket accepts more only when much of its buffer is free.
func (c *conn) progress(write func(done int64) (int64, error)) (done int64, err error) {
	if c.server == nil || c.server.opts.WriteTimeout < 0 {
		return write(0)
	}
	begin, queued := time.Time{}, -1
	for {
		now := time.Now()
		if begin.IsZero() {
			begin = now
		}
		if err := c.look(now.Add(min(stallStep, c.server.stallTime()/4))); err != nil {
			return done, err
		}
		n, err := write(done)
		done += n
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.isLate() {
			c.look(time.Time{})
			return done, err
		}
		now = time.Now()
		left := queue(c.Conn)
		if n > 0 || left < queued {
			begin = now
		}
		queued = left
		if now.Sub(begin) >= c.server.stallTime() {
			c.setReason(TimedOut)
			// The kernel would keep what nobody reads for minutes after the close.
			control(c.Conn, func(fd int) {
				unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			})
			return done, err
		}
	}
}

// look sets when the write that begins is looked at; the zero time ends that.
func (c *conn) look(until time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if until.IsZero() && c.out.deadline.IsZero() {
		c.out.until = until
		return nil // the next write sets it anew
	}
	c.out.until = until
	return c.Conn.SetWriteDeadline(earlier(c.out.deadline, until))
}

// isLate tells whether the deadline of the handler has passed.
func (c *conn) isLate() bool {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return !c.out.deadline.IsZero() && !time.Now().Before(c.out.deadline)
}

// queue returns how many bytes a client has not confirmed.
func queue(nc net.Conn) (n int) {
	control(nc, func(fd int) { n, _ = unix.IoctlGetInt(fd, unix.SIOCOUTQ) })
	return n
}

// limitUnsent bounds what the kernel takes for a client beyond what is on its way.
func limitUnsent(nc net.Conn) {
	if _, ok := nc.(*net.TCPConn); ok {
		control(nc, func(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes) })
	}
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
