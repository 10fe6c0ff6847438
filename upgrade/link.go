package upgrade

// This file holds the link: a socketpair between a generation and its
// successor, and the messages on it. Each message is one packet of JSON,
// possibly with a descriptor. A type that the other side does not know is
// ignored there, so that releases can differ.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	linkProtocol = 1
	messageSize  = 160 << 10             // bytes of a message at most; the kernel takes some 200 KiB
	sendTimeout  = 50 * time.Millisecond // the other side may be stopped
)

// message is what one generation tells the other. Which fields are set follows
// from the type.
type message struct {
	Type string `json:"type"`

	Hello    *hello   `json:"hello,omitempty"`
	Claims   []claim  `json:"claims,omitempty"`
	Question uint64   `json:"question,omitempty"` // its number
	Report   *report  `json:"report,omitempty"`
	Drained  *Drained `json:"drained,omitempty"`

	conn net.Conn // a control connection that came along
}

const (
	msgHello    = "hello"    // both ways: who I am
	msgQuestion = "question" // both ways: send a report
	msgReport   = "report"   // both ways: what I have in hand and have counted; from the predecessor also unasked
	msgServing  = "serving"  // successor: I accept from these listeners
	msgDrained  = "drained"  // predecessor: I am about to exit; with its last report
	msgUpgrade  = "upgrade"  // predecessor: an upgrade was asked for; with a connection: by this one
	msgStop     = "stop"     // predecessor: a stop was asked for
)

// hello introduces a generation. All but the first four are the predecessor's.
type hello struct {
	Protocol   int       `json:"protocol"`
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started"`
	Generation int       `json:"generation,omitempty"`

	Trigger  string        `json:"trigger,omitempty"` // of this upgrade
	Asked    time.Time     `json:"asked,omitzero"`    // when that was
	Begun    time.Time     `json:"begun,omitzero"`    // when the successor was started
	Deadline time.Time     `json:"deadline,omitzero"` // when a successor that is not ready is killed
	Drain    time.Duration `json:"drain,omitempty"`   // how long the drain may take
	Claims   []claim       `json:"claims,omitempty"`
	PIDFile  string        `json:"pid_file,omitempty"`
	Upgrades []Upgrade     `json:"upgrades,omitempty"`
	Counts   Counts        `json:"counted,omitempty"` // until there is a report
}

type link struct {
	conn      *net.UnixConn
	ended     chan struct{} // closed when nothing more is read
	silent    atomic.Bool   // the other side has let a question wait, and nothing was heard of it since
	questions questions     // that this side has asked
	reporting sync.Mutex    // held from the making of a report to its sending, so that none overtakes another
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
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	conn, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, errors.New("open the link: not a unix socket")
	}
	return &link{conn: conn, ended: make(chan struct{})}, nil
}

// send passes a message on, with a descriptor if nc has one. It gives up soon when
// the other side does not read, but never without having tried: a deadline would
// pass on a busy machine before the first attempt.
func (l *link) send(m message, nc *net.UnixConn) error {
	packet, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(packet) > messageSize {
		return fmt.Errorf("message of %d bytes is too long for the link", len(packet))
	}
	for patience := time.Now().Add(sendTimeout); ; time.Sleep(sendTimeout / 10) {
		if err = l.trySend(packet, nc); !errors.Is(err, unix.EAGAIN) || time.Now().After(patience) {
			return err
		}
	}
}

func (l *link) trySend(packet []byte, nc *net.UnixConn) (err error) {
	var rights []byte
	socket, controlErr := l.conn.SyscallConn()
	if controlErr != nil {
		return controlErr
	}
	write := func(fd uintptr) { err = unix.Sendmsg(int(fd), packet, rights, nil, unix.MSG_NOSIGNAL) }
	if nc == nil {
		return cmp.Or(socket.Control(write), err)
	}
	passed, controlErr := nc.SyscallConn()
	if controlErr != nil {
		return controlErr
	}
	controlErr = passed.Control(func(fd uintptr) {
		rights = unix.UnixRights(int(fd))
		if failed := socket.Control(write); failed != nil {
			err = failed
		}
	})
	return cmp.Or(controlErr, err)
}

// receive returns the next message. A malformed one is an error like any other:
// the link is of no more use then.
func (l *link) receive() (message, error) {
	packet := make([]byte, messageSize)
	rights := make([]byte, unix.CmsgSpace(4))
	n, rn, flags, _, err := l.conn.ReadMsgUnix(packet, rights)
	if errors.Is(err, unix.ECONNRESET) {
		// The other side went with something unread, of which the kernel tells
		// first, and once. What it had sent is still to be had.
		n, rn, flags, _, err = l.conn.ReadMsgUnix(packet, rights)
	}
	if err != nil {
		return message{}, err
	}
	nc := receivedConn(rights[:rn])
	var m message
	if err = json.Unmarshal(packet[:n], &m); err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message of the link is too long")
	}
	if err != nil {
		if nc != nil {
			nc.Close()
		}
		return message{}, err
	}
	m.conn = nc
	return m, nil
}

// receivedConn returns the connection that came with a message, or nil.
func receivedConn(rights []byte) net.Conn {
	controls, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	var nc net.Conn
	for _, control := range controls {
		fds, err := unix.ParseUnixRights(&control)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), "received")
			if nc == nil {
				nc, _ = net.FileConn(f)
			}
			f.Close()
		}
	}
	return nc
}

// messages reads the link into a channel, which is closed when the other side
// is gone, except for those messages of which take says that it has dealt with
// them. The goroutine ends then, or when the link is closed and stop too.
func (l *link) messages(stop <-chan struct{}, take func(message) bool) <-chan message {
	in := make(chan message)
	go func() {
		defer close(in)
		defer close(l.ended)
		for {
			m, err := l.receive()
			if err != nil {
				return
			}
			taken := take(m)
			l.silent.Store(false) // not before: a question that it answers may be given up now
			if taken {
				continue
			}
			select {
			case in <- m:
			case <-stop:
				if m.conn != nil {
					m.conn.Close()
				}
				return
			}
		}
	}()
	return in
}

func (l *link) close() { l.conn.Close() }
