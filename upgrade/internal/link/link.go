// Package link is the link between a generation and its successor: a socketpair of
// SOCK_SEQPACKET on which each message is one packet of JSON, possibly with descriptors
// (SCM_RIGHTS) and always with the sender's pid (SO_PASSCRED). PROTOCOL.md, in this
// directory, describes the messages, and testdata has one of each type and version.
//
// A generation makes a link with [New] and passes the other end to its successor, which
// opens it with [Open]. One goroutine of each side reads it: [Link.Follow]. A request that
// has a response is a [Link.Call]. Nothing here blocks for long: a peer that does not read
// costs the sender a moment, one that sends garbage costs the link.
package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/descriptors"
	"example.com/baton/upgrade/internal/process"
	"golang.org/x/sys/unix"
)

const (
	// MaxMessage is how many bytes a message may have; the kernel takes some 200 KiB.
	MaxMessage = 160 << 10

	// SendTimeout is how long Send waits for a peer that does not read: it may be stopped.
	SendTimeout = 50 * time.Millisecond

	// maxFiles is how many descriptors the kernel passes with one message (SCM_MAX_FD).
	maxFiles = 253
)

// Link is one end of a link.
type Link struct {
	conn     *net.UnixConn
	calls    calls
	order    sync.Mutex    // held by SendOrdered
	released chan struct{} // closed when another process goes on reading
	left     []Message     // read before that, and not delivered; to be read when ended is closed
	ended    chan struct{} // closed when nothing more is read
	broken   atomic.Bool   // the reading ended although the peer may still send
}

// Event is what happens to a link that is followed.
type Event struct {
	From *Link
	Kind Kind
	Message
}

// Kind is the kind of an event.
type Kind int

const (
	Received Kind = iota // a message
	Ended                // nothing more is read from the link
	Exited               // the peer has exited, after the link has ended
	Lost                 // or it has not, so that something is wrong; Exited may follow
)

// New returns one end as a link, and the other for the successor.
func New() (*Link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the link: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "link")
	l, err := Open(os.NewFile(uintptr(fds[0]), "link"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return l, theirs, nil
}

// Open makes a link of a descriptor, which it takes over.
func Open(f *os.File) (*Link, error) {
	defer f.Close()
	// Each message comes with its sender's pid then, which is not the sender's to choose.
	if err := unix.SetsockoptInt(descriptors.Number(f), unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	// The kernel allows less, but more than the default: room for transfers.
	unix.SetsockoptInt(descriptors.Number(f), unix.SOL_SOCKET, unix.SO_SNDBUF, 4*MaxMessage)
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	conn, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, errors.New("open the link: not a unix socket")
	}
	return on(conn), nil
}

// on makes a link that nobody reads yet.
func on(conn *net.UnixConn) *Link {
	return &Link{conn: conn, released: make(chan struct{}), ended: make(chan struct{})}
}

// Receive returns the next message of a link that is not followed. It waits no longer
// than patience, but returns a message that is there even if that is over before this
// process has come to look.
func (l *Link) Receive(patience time.Duration) (Message, error) {
	buf := new(receiveBuffer)
	l.conn.SetReadDeadline(time.Now().Add(patience))
	m, err := l.receive(buf)
	l.conn.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) && l.isReadable() {
		return l.receive(buf)
	}
	return m, err
}

// isReadable reports whether a message or the link's end is there.
func (l *Link) isReadable() bool {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	err = raw.Control(func(fd uintptr) {
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	return err == nil && n > 0
}

// Follow reads the link in a goroutine, which ends when the link does, when stop is
// closed, or with Release. It sends what it receives, and the end at last, except for
// those messages for which handle returns true. After handle it ends the [Link.Call] that
// a message responds to.
func (l *Link) Follow(to chan<- Event, stop <-chan struct{}, handle func(*Message) bool) {
	go func() {
		err := l.follow(to, stop, handle)
		isReleased := false
		select {
		case <-l.released:
			isReleased = true
		default:
		}
		if err != nil && !isReleased {
			l.broken.Store(!errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, net.ErrClosed))
			l.Close() // or the peer would believe that this side still reads
		}
		l.calls.end()
		close(l.ended)
		if err != nil && !isReleased {
			select {
			case to <- Event{From: l, Kind: Ended}:
			case <-l.released:
			case <-stop:
			}
		}
	}()
}

// follow returns why nothing more can be read, or nil if nothing more shall.
func (l *Link) follow(to chan<- Event, stop <-chan struct{}, handle func(*Message) bool) error {
	buf := new(receiveBuffer)
	for {
		m, err := l.receive(buf)
		if err != nil {
			return err
		}
		handled := handle(&m)
		l.calls.received(&m)
		if handled {
			continue
		}
		select {
		case to <- Event{From: l, Message: m}:
		case <-l.released:
			l.left = append(l.left, m)
			return nil
		case <-stop:
			m.Close()
			return nil
		}
	}
}

// FollowPeer sends, when the link has ended, whether the process at the other end has
// exited and, if it has not, when it does. Its goroutine ends then, or when stop is closed.
func (l *Link) FollowPeer(p process.Process, to chan<- Event, stop <-chan struct{}) {
	send := func(kind Kind) {
		select {
		case to <- Event{From: l, Kind: kind}:
		case <-stop:
		}
	}
	go func() {
		if !p.EndsWithin(PeerExit) {
			send(Lost)
			if !p.AwaitEnd(stop) {
				return
			}
		}
		send(Exited)
	}()
}

// PeerExit bounds the time between the end of a process's links and its own.
const PeerExit = 2 * time.Second

// Release ends the reading, so that another process can go on with it, and returns what
// was read and not delivered.
func (l *Link) Release() []Message {
	close(l.released)
	l.conn.SetReadDeadline(time.Unix(1, 0))
	<-l.ended
	return l.left
}

// Resume returns a link that can be followed in place of one that was released.
func (l *Link) Resume() *Link {
	l.conn.SetReadDeadline(time.Time{})
	return on(l.conn)
}

// Close ends the link.
func (l *Link) Close() { l.conn.Close() }

// SyscallConn returns the socket, to be passed on with a message.
func (l *Link) SyscallConn() (syscall.RawConn, error) { return l.conn.SyscallConn() }

// Ended returns a channel that is closed when nothing more is read from the link.
func (l *Link) Ended() <-chan struct{} { return l.ended }

// Broken reports whether the link has ended although the peer may still send: it sent
// something that is no message.
func (l *Link) Broken() bool { return l.broken.Load() }
