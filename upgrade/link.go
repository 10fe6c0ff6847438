package upgrade

// This file holds the link: a socketpair between a generation and its
// successor, and the messages on it. Each message is one packet of JSON,
// possibly with descriptors. A type that the other side does not know is
// ignored there, so that releases can differ.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// protocol is the newest version of the link that this release speaks. It is a
// variable for the linker, with which the tests make a release of the past.
//
// Version 2 brought connections that move, and a predecessor that drains while
// its successor is upgraded. Both sides use what both know.
var protocol = "2"

func linkProtocol() int {
	n, err := strconv.Atoi(protocol)
	if err != nil {
		panic("upgrade: the version of the link is not a number: " + protocol)
	}
	return n
}

const (
	messageSize = 160 << 10             // bytes of a message at most; the kernel takes some 200 KiB
	sendTimeout = 50 * time.Millisecond // the other side may be stopped
)

// message is what one generation tells the other. Which fields are set follows
// from the type.
type message struct {
	Type string `json:"type"`

	Hello    *hello    `json:"hello,omitempty"`
	Claims   []claim   `json:"claims,omitempty"`
	Adopts   bool      `json:"adopts,omitempty"`   // connections can move to the sender
	Pipe     uint64    `json:"pipe,omitempty"`     // inode of the pipe that tells the sender of its predecessor's end
	Origin   int       `json:"origin,omitempty"`   // generation that got the signal to upgrade; 0: not known
	Question uint64    `json:"question,omitempty"` // its number
	Report   *report   `json:"report,omitempty"`
	Drained  *Drained  `json:"drained,omitempty"`
	Batch    uint64    `json:"batch,omitempty"` // number of an offer
	Offered  []offered `json:"offered,omitempty"`
	Refused  []int     `json:"refused,omitempty"` // which of them, from 0
	Due      time.Time `json:"due,omitzero"`      // when the predecessor that is passed on should be gone

	Sent  time.Time     `json:"sent,omitzero"`   // by the wall clock, to which all other times are relative
	Clock time.Duration `json:"clock,omitempty"` // the same moment as clock has it; 0: a release that does not say

	fds    []int // descriptors that came along; they belong to whoever has the message
	spare  int   // how many of them this process has room for
	sender int   // pid, as the kernel knows it; 0: unknown
}

const (
	msgHello       = "hello"       // both ways: who I am
	msgQuestion    = "question"    // both ways: send a report
	msgReport      = "report"      // both ways: what I have in hand and have counted; from the predecessor also unasked
	msgServing     = "serving"     // successor: I accept from these listeners
	msgDrained     = "drained"     // predecessor: I am about to exit; with its last report
	msgUpgrade     = "upgrade"     // predecessor: an upgrade was asked for; with a connection: by this one
	msgStop        = "stop"        // predecessor: a stop was asked for
	msgOffer       = "offer"       // predecessor: take these connections
	msgTaken       = "taken"       // successor: they are mine from now on, but for some
	msgPredecessor = "predecessor" // predecessor: here is the link to one before me, which still drains
)

// hello introduces a generation. All but the first five are the predecessor's.
type hello struct {
	Protocol   int       `json:"protocol"`
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	Generation int       `json:"generation,omitempty"`

	Trigger  string        `json:"trigger,omitempty"` // of this upgrade
	Origins  []int         `json:"origins,omitempty"` // generations that have got a signal for it
	Asked    time.Time     `json:"asked,omitzero"`    // when that was
	Begun    time.Time     `json:"begun,omitzero"`    // when the successor was started
	Deadline time.Time     `json:"deadline,omitzero"` // when a successor that is not ready is killed
	Drain    time.Duration `json:"drain,omitempty"`   // how long the drain may take, hooks included
	Claims   []claim       `json:"claims,omitempty"`
	PIDFile  string        `json:"pid_file,omitempty"`
	Upgrades []Upgrade     `json:"upgrades,omitempty"`
	Counts   Counts        `json:"counted,omitempty"` // until there is a report
	Secret   []byte        `json:"secret,omitempty"`
}

type link struct {
	conn      *net.UnixConn
	released  chan struct{} // closed when another process goes on reading
	left      []message     // read before that, and not delivered; to be read when ended is closed
	ended     chan struct{} // closed when nothing more is read
	broken    atomic.Bool   // the reading ended although the other side may still send
	silent    atomic.Bool   // the other side has let a question wait, and nothing was heard of it since
	questions questions     // that this side has asked
	offers    offers        // that this side has made
	reporting sync.Mutex    // held from the making of a report to its sending, so that none overtakes another
}

// heard is what came over a link.
type heard struct {
	from *link
	message
	end    bool // nothing more is read from the link
	exited bool // the process at the other end has exited, after that
	lost   bool // or it has not, so that something is wrong
}

// newLink returns one end as a link, and the other for the successor.
func newLink() (*link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the link: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "link")
	l, err := openLink(os.NewFile(uintptr(fds[0]), "link"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return l, theirs, nil
}

// openLink makes a link of a descriptor, which it takes over.
func openLink(f *os.File) (*link, error) {
	defer f.Close()
	// Each message comes with its sender's pid then, which is not the sender's to choose.
	if err := unix.SetsockoptInt(int(rawFD(f)), unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	conn, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, errors.New("open the link: not a unix socket")
	}
	return linkOn(conn), nil
}

// linkOn makes a link that nobody reads yet.
func linkOn(conn *net.UnixConn) *link {
	return &link{conn: conn, released: make(chan struct{}), ended: make(chan struct{})}
}

// send passes a message on, with the descriptors of sockets. It gives up soon when
// the other side does not read, but never without having tried: a deadline would
// pass on a busy machine before the first attempt.
func (l *link) send(m message, with ...syscall.Conn) error {
	packet, err := json.Marshal(m.stamp())
	if err != nil {
		return err
	}
	if len(packet) > messageSize {
		return fmt.Errorf("message of %d bytes is too long for the link", len(packet))
	}
	for patience := time.Now().Add(sendTimeout); ; time.Sleep(sendTimeout / 10) {
		err = l.trySend(packet, with)
		// Too many references: too many descriptors are under way, of all links of this user.
		if again := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ETOOMANYREFS) || isTransient(err); !again || time.Now().After(patience) {
			return err
		}
	}
}

func (l *link) trySend(packet []byte, with []syscall.Conn) (err error) {
	failed := withDescriptors(append([]syscall.Conn{l.conn}, with...), nil, func(fds []int) {
		var rights []byte
		if len(fds) > 1 {
			rights = unix.UnixRights(fds[1:]...)
		}
		err = unix.Sendmsg(fds[0], packet, rights, nil, unix.MSG_NOSIGNAL)
	})
	return cmp.Or(failed, err)
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
func (l *link) receive(buf *receiveBuffer) (message, error) {
	var n, flags, spare int
	var rights []byte
	receive := func(socket uintptr) (done bool, err error) {
		// The kernel makes no descriptors beyond this, and so never takes the last ones,
		// which this process accepts with. There is always room for a control connection.
		spare, _ = Room()
		spare -= acceptedDescriptors
		rights = buf.rights[:credentials+unix.CmsgSpace(4*min(max(spare, 1), MoveLimit))]
		var rn int
		n, rn, flags, _, err = unix.Recvmsg(int(socket), buf.packet[:], rights, unix.MSG_CMSG_CLOEXEC)
		rights = rights[:max(rn, 0)]
		return !errors.Is(err, unix.EAGAIN), err
	}
	err := l.read(receive)
	if errors.Is(err, unix.ECONNRESET) {
		// The other side went with something unread, of which the kernel tells
		// first, and once. What it had sent is still to be had.
		err = l.read(receive)
	}
	for patience := time.Now().Add(time.Second); isTransient(err) && time.Now().Before(patience); {
		time.Sleep(10 * time.Millisecond)
		err = l.read(receive)
	}
	if err != nil {
		return message{}, err
	}
	if n == 0 {
		return message{}, io.EOF
	}
	var m message
	fds, sender := receivedControl(rights)
	if err = json.Unmarshal(buf.packet[:n], &m); err == nil && flags&unix.MSG_TRUNC != 0 {
		err = errors.New("it is too long")
	}
	m.unstamp()
	m.fds, m.spare, m.sender = fds, spare, sender
	if err != nil {
		m.close()
		return message{}, fmt.Errorf("read message of the link: %w", err)
	}
	return m, nil
}

// isTransient reports whether a message was not received or sent for lack of memory,
// which says nothing of the link, and has left the message where it was.
func isTransient(err error) bool {
	return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR)
}

// read calls receive when there may be something to read, until it is done.
func (l *link) read(receive func(socket uintptr) (done bool, err error)) error {
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
	packet [messageSize]byte
	rights [unix.SizeofCmsghdr + unix.SizeofUcred + 4 + unix.SizeofCmsghdr + 4*MoveLimit + 4]byte // and padding
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

// takeConn returns the connection that came with a message, or nil.
func (m *message) takeConn() net.Conn {
	if len(m.fds) == 0 {
		return nil
	}
	f := os.NewFile(uintptr(m.fds[0]), "received")
	defer f.Close()
	m.fds = m.fds[1:]
	nc, err := net.FileConn(f)
	if err != nil {
		return nil
	}
	return nc
}

// close closes the descriptors that came with a message and nobody has taken.
func (m *message) close() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = nil
}

// follow reads the link and passes on what it hears, its end at last, except for
// those messages of which take says that it has dealt with them. The goroutine
// ends when the link does, when stop is closed, or with release.
func (l *link) follow(to chan<- heard, stop <-chan struct{}, take func(*message) bool) {
	pass := func(h heard) bool {
		select {
		case to <- h:
			return true
		case <-l.released:
			if !h.end {
				l.left = append(l.left, h.message)
			}
		case <-stop:
			h.close()
		}
		return false
	}
	go func() {
		buf := new(receiveBuffer)
		for {
			m, err := l.receive(buf)
			if err != nil {
				select {
				case <-l.released:
					close(l.ended)
					return
				default:
				}
				l.broken.Store(!errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET))
				l.close() // or the other side would believe that this one still reads
				close(l.ended)
				pass(heard{from: l, end: true})
				return
			}
			taken := take(&m)
			l.silent.Store(false) // not before: a question that it answers may be given up now
			if !taken && !pass(heard{from: l, message: m}) {
				close(l.ended)
				return
			}
		}
	}()
}

// release ends the reading, so that another process can go on with it, and
// returns what was read and not delivered.
func (l *link) release() []message {
	close(l.released)
	l.conn.SetReadDeadline(time.Unix(1, 0))
	<-l.ended
	return l.left
}

// onlyCopy leaves this process no other descriptor of the link.
func (l *link) onlyCopy() error {
	socket, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	failed := socket.Control(func(fd uintptr) { err = closeAllBut(int(fd), inodeOf(int(fd))) })
	return cmp.Or(failed, err)
}

func (l *link) close() { l.conn.Close() }
