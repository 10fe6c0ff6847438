package link

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/descriptors"
	"golang.org/x/sys/unix"
)

// ErrNoSocket is the error of a socket that was to be sent, or of the link's own, which is closed.
// Nothing was sent.
var ErrNoSocket = errors.New("a socket is closed")

// Send sends a message, with the descriptors of sockets. It gives up soon when the peer
// does not read, but never without having tried: a deadline would pass on a busy machine
// before the first attempt. Several goroutines may send at once.
func (l *Link) Send(m Message, with ...syscall.Conn) error {
	packet, err := m.stamp().encode()
	if err != nil {
		return err
	}
	if len(m.States) > 0 {
		defer clear(packet)
	}
	if len(packet) > MaxMessage {
		return fmt.Errorf("message of %d bytes is too long for the link", len(packet))
	}
	for patience := time.Now().Add(SendTimeout); ; time.Sleep(SendTimeout / 10) {
		err = l.trySend(packet, with)
		// Too many references: too many descriptors are under way, of all links of this user.
		if again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ETOOMANYREFS) || isTransient(err); !again || time.Now().After(patience) {
			return err
		}
	}
}

// SendOrdered sends the message that make returns. No other message of SendOrdered is made
// or sent meanwhile, so that none overtakes another on its way.
func (l *Link) SendOrdered(make func() Message, with ...syscall.Conn) error {
	l.order.Lock()
	defer l.order.Unlock()
	return l.Send(make(), with...)
}

func (l *Link) trySend(packet []byte, with []syscall.Conn) (err error) {
	failed := withDescriptors(append([]syscall.Conn{l.conn}, with...), nil, func(fds []int) {
		var rights []byte
		if len(fds) > 1 {
			rights = unix.UnixRights(fds[1:]...)
		}
		err = unix.Sendmsg(fds[0], packet, rights, nil, unix.MSG_NOSIGNAL)
	})
	if failed != nil {
		return fmt.Errorf("%w: %w", ErrNoSocket, failed)
	}
	return err
}

// withDescriptors calls f with the descriptors of sockets, which stay open until
// it returns.
func withDescriptors(sockets []syscall.Conn, fds []int, f func(fds []int)) error {
	if len(sockets) == 0 {
		f(fds)
		return nil
	}
	raw, err := sockets[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withDescriptors(sockets[1:], append(fds, int(fd)), f) })
	return cmp.Or(err, inner)
}

// acceptedDescriptors are left to connections that this process accepts itself.
const acceptedDescriptors = 8

// receive returns the next message, for which it uses buf. A malformed one is an
// error like any other: the link is of no more use then. Descriptors for which
// this process has no room are missing from the end.
func (l *Link) receive(buf *receiveBuffer) (Message, error) {
	var n, flags, spare int
	var rights []byte
	receive := func(socket uintptr) (done bool, err error) {
		// The kernel makes no descriptors beyond this, and so never takes the last ones,
		// which this process accepts with. There is always room for a control connection.
		spare, _ = descriptors.Room()
		spare -= acceptedDescriptors
		rights = buf.rights[:credentials+unix.CmsgSpace(4*min(max(spare, 1), maxFiles))]
		var rn int
		n, rn, flags, _, err = unix.Recvmsg(int(socket), buf.packet[:], rights, unix.MSG_CMSG_CLOEXEC)
		rights = rights[:max(rn, 0)]
		return !errors.Is(err, unix.EAGAIN), err
	}
	err := l.read(receive)
	if errors.Is(err, unix.ECONNRESET) {
		// The peer has closed with something unread, which the kernel reports
		// first, and once. What the peer had sent is still there.
		err = l.read(receive)
	}
	for patience := time.Now().Add(time.Second); isTransient(err) && time.Now().Before(patience); {
		time.Sleep(10 * time.Millisecond)
		err = l.read(receive)
	}
	if err != nil {
		return Message{}, err
	}
	if n == 0 {
		return Message{}, io.EOF
	}
	var m Message
	fds, sender := receivedControl(rights)
	if err = json.Unmarshal(buf.packet[:n], &m); err == nil && flags&unix.MSG_TRUNC != 0 {
		err = errors.New("it is too long")
	}
	clear(buf.packet[:n]) // it may have had secrets
	m.unstamp()
	m.received = received{fds, spare, sender}
	if err != nil {
		m.Close()
		return Message{}, fmt.Errorf("read message of the link: %w", err)
	}
	return m, nil
}

// isTransient reports whether a message was not received or sent for lack of memory,
// which is no fault of the link, and has left the message where it was.
func isTransient(err error) bool {
	return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR)
}

// read calls receive when there may be something to read, until it is done.
func (l *Link) read(receive func(socket uintptr) (done bool, err error)) error {
	socket, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	var received error
	err = socket.Read(func(fd uintptr) (done bool) {
		done, received = receive(fd)
		return done
	})
	return cmp.Or(err, received)
}

// receiveBuffer is where a message is received.
type receiveBuffer struct {
	packet [MaxMessage]byte
	rights [unix.SizeofCmsghdr + unix.SizeofUcred + 4 + unix.SizeofCmsghdr + 4*maxFiles + 4]byte // and padding
}

// credentials is the room that the sender's take.
var credentials = unix.CmsgSpace(unix.SizeofUcred)

func receivedControl(rights []byte) (fds []int, sender int) {
	controls, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, 0
	}
	for _, control := range controls {
		if some, err := unix.ParseUnixRights(&control); err == nil {
			fds = append(fds, some...)
		} else if who, err := unix.ParseUnixCredentials(&control); err == nil {
			sender = int(who.Pid)
		}
	}
	return fds, sender
}
