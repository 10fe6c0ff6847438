package server

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unsentBytes is how much the kernel takes of what a client does not read. Without a
// bound that is some megabytes for each client.
const unsentBytes = 128 << 10

// layer is a net.Conn over another one. The layers of a connection are, from the bottom: its
// socket; TLS, if it has that; the follower of its protocol; and conn, which net/http has.
type layer interface {
	net.Conn
	// CloseWrite ends what is written, and goes on to read.
	CloseWrite() error
	// holds reports whether the layer has read a part of something that it cannot pass on
	// yet: of a record, say.
	holds() bool
	// pending returns an upper bound of how many bytes have come and were not read, here
	// and below. It is 0 if there are certainly none.
	pending() int64
	// export adds what a successor needs to rebuild this layer and those below. It returns
	// false if it cannot be rebuilt elsewhere, or holds a part of something.
	export(to *transfer) bool
	// settle is called when the successor has answered: what it has taken is nobody else's to
	// read or write any more.
	settle(taken bool)
}

// socket is the bottom layer. A write may take as long as the client takes something of it.
type socket struct {
	net.Conn // as a listener's Accept has returned it, or upgrade.Unopened
	owner    *conn
	writing  struct {
		mu       sync.Mutex
		deadline time.Time // of the handler or of net/http; the zero time: none
		until    time.Time // when the write that is under way is looked at
		set      time.Time // the deadline of Conn
	}
}

var _ layer = (*socket)(nil)

// holds is false: what has come is in the kernel.
func (s *socket) holds() bool { return false }

func (s *socket) pending() (bytes int64) {
	control(s.Conn, func(fd int) {
		if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
			bytes = int64(n)
		}
	})
	return bytes
}

// export adds nothing: the descriptor is all.
func (s *socket) export(*transfer) bool { return true }

// settle does nothing: the copy of the descriptor is closed.
func (s *socket) settle(bool) {}

func (s *socket) CloseWrite() error {
	if cw, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (s *socket) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := s.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// ReadFrom has the kernel send files.
func (s *socket) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := s.Conn.(io.ReaderFrom); ok {
		if file := asFile(r); file != nil {
			return s.sendFile(rf, file)
		}
	}
	return copyTo(s, r)
}

// copyTo copies to w, of which only Write is used.
func copyTo(w io.Writer, r io.Reader) (int64, error) {
	buffer := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{w}, r, buffer[:])
}

const copySize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// SetWriteDeadline bounds all writes in addition to the time without progress.
func (s *socket) SetWriteDeadline(t time.Time) error {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	if t.IsZero() && s.writing.deadline.IsZero() {
		return nil // net/http takes back after each request what nobody has set
	}
	s.writing.deadline = t
	return s.set(earlier(t, s.writing.until))
}

// hijack takes back the deadline that the last write has left: who has taken the connection over may write
// to the descriptor itself.
func (s *socket) hijack() {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	s.set(s.writing.deadline)
}

// set sets the deadline of Conn, with the lock held.
func (s *socket) set(t time.Time) error {
	s.writing.set = t
	return s.Conn.SetWriteDeadline(t)
}

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Write may take as long as the client takes something of it.
func (s *socket) Write(p []byte) (int, error) {
	n, err := s.progress(func(done int64) (int64, error) {
		n, err := s.Conn.Write(p[done:])
		return int64(n), err
	})
	return int(n), err
}

// sendFile writes a file.
func (s *socket) sendFile(to io.ReaderFrom, file *fileReader) (int64, error) {
	interrupted := false
	return s.progress(func(done int64) (int64, error) {
		if interrupted {
			if err := file.resume(done); err != nil {
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

func (f *fileReader) resume(done int64) error {
	if f.limited != nil {
		f.limited.N = f.length - done
	}
	_, err := f.file.Seek(f.begin+done, io.SeekStart)
	return err
}

// progress calls write, which returns what it has written, until that is all or the
// client has taken nothing for too long. What the client's kernel has confirmed counts
// as taken: the socket accepts more only when much of its buffer is free.
func (s *socket) progress(write func(done int64) (int64, error)) (done int64, err error) {
	if s.owner.server.opts.WriteTimeout < 0 {
		return write(0)
	}
	begin, queued := time.Time{}, -1
	for {
		now := time.Now()
		if begin.IsZero() {
			begin = now
		}
		if err := s.look(now, min(stallStep, s.owner.server.stallTime()/4)); err != nil {
			return done, err
		}
		n, err := write(done)
		done += n
		if !errors.Is(err, os.ErrDeadlineExceeded) || s.isLate() {
			s.endLook()
			return done, err
		}
		now = time.Now()
		left := queue(s.Conn)
		if n > 0 || left < queued {
			begin = now
		}
		queued = left
		if now.Sub(begin) >= s.owner.server.stallTime() {
			s.owner.setReason(TimedOut)
			// The kernel would keep what nobody reads for minutes after the close.
			control(s.Conn, func(fd int) {
				unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			})
			return done, err
		}
	}
}

// look has the write that begins now looked at after a step, or after a part of it: the deadline
// of the write before is left where it is for as long as it will do.
func (s *socket) look(now time.Time, step time.Duration) error {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	s.writing.until = now.Add(step)
	if set := s.writing.set; s.writing.deadline.IsZero() && set.Sub(now) > step/2 && set.Sub(now) <= step {
		s.writing.until = set
		return nil
	}
	return s.set(earlier(s.writing.deadline, s.writing.until))
}

// endLook is called when the write has ended.
func (s *socket) endLook() {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	s.writing.until = time.Time{}
	if !s.writing.deadline.IsZero() {
		s.set(s.writing.deadline)
	} // else the next write sets it anew
}

// isLate tells whether the deadline of the handler has passed.
func (s *socket) isLate() bool {
	s.writing.mu.Lock()
	defer s.writing.mu.Unlock()
	return !s.writing.deadline.IsZero() && !time.Now().Before(s.writing.deadline)
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
