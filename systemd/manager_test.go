package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"example.com/baton/systemd"
	"example.com/baton/upgrade"
	"golang.org/x/sys/unix"
)

// patience is how long what must happen may take: only a hang takes so long.
const patience = time.Minute

// notifySocket is the socket that systemd reads.
type notifySocket struct{ *net.UnixConn }

func listenNotify(t *testing.T) notifySocket {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	nc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return notifySocket{nc}
}

// next returns the next message and the descriptors that came along.
func (s notifySocket) next(t *testing.T) (message string, fds []int) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(patience))
	packet, control := make([]byte, 4096), make([]byte, 4096)
	n, cn, _, _, err := s.ReadMsgUnix(packet, control)
	if err != nil {
		t.Fatal(err)
	}
	if controls, err := unix.ParseSocketControlMessage(control[:cn]); err == nil {
		for _, c := range controls {
			rights, _ := unix.ParseUnixRights(&c)
			fds = append(fds, rights...)
		}
	}
	return string(packet[:n]), fds
}

// received returns the messages that have been sent. It does not wait, so that time
// goes on in a bubble.
func (s notifySocket) received(t *testing.T) (messages []string) {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		packet := make([]byte, 4096)
		for {
			n, _, err := unix.Recvfrom(int(fd), packet, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			messages = append(messages, string(packet[:n]))
		}
	})
	return messages
}

// count returns how many of the messages are one.
func count(messages []string, message string) (n int) {
	for _, m := range messages {
		if m == message {
			n++
		}
	}
	return n
}

// generation is one of which the test decides how it is, and the service that it runs.
type generation struct {
	mu        sync.Mutex
	version   string // of which the status tells
	isStopped bool
	hangs     bool
	held      chan struct{} // if not nil, closed when the generation answers, however late
	failure   error         // of the service
	trial     *upgrade.TrialStatus
}

// set changes a generation.
func (g *generation) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func (g *generation) Status() upgrade.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return upgrade.Status{Generation: 1, Generations: []upgrade.Member{{Generation: 1, Version: g.version, State: "serving"}}, Trial: g.trial}
}

func (g *generation) Alive(ctx context.Context) error {
	g.mu.Lock()
	hangs := g.hangs
	g.mu.Unlock()
	if g.held != nil {
		<-g.held
		return nil
	}
	if hangs {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (g *generation) TakesRequests() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.isStopped
}

func (g *generation) PredecessorDrain() time.Duration { return 2 * time.Second }

func (g *generation) SuccessorReturn() time.Duration { return time.Second }

func (g *generation) Check(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failure
}

func newNotifier(g *generation) *systemd.Notifier {
	return systemd.New().NewNotifier(systemd.NotifierOptions{
		Generation: g, Service: g, StopTime: 1500 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
}

// status is the message with the status of a version.
func status(version string) string {
	return fmt.Sprintf("STATUS=generation 1, version %s, is serving: 0 requests in flight, 0 connections", version)
}

var ready = fmt.Sprintf("MAINPID=%d\nREADY=1", os.Getpid())

// fill sends messages until nobody reads them.
func (s notifySocket) fill(t *testing.T) {
	t.Helper()
	nc, err := net.DialUnix("unixgram", nil, s.LocalAddr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for err == nil {
			_, err = unix.Write(int(fd), []byte("x")) // net has made it non-blocking
		}
	})
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
}
