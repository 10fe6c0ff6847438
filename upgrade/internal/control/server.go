// Package control is the control socket: a unix socket on which the generation that
// serves is asked for its status or for an upgrade, or given the verdict on one. A connection carries one request and
// its replies, each a line of JSON. What a status and an outcome are is no concern of this
// package: it carries them as JSON.
//
// Both sides look at who is at the other end. The server answers its own user and root
// only, and [Converse] trusts no server that a stranger may have put there.
package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	requestSize    = 4 << 10 // bytes
	requestTimeout = 5 * time.Second
	replyTimeout   = 5 * time.Second
	maxConns       = 16 // at once, and as many that wait for an upgrade
)

// Commands.
const (
	Upgrade     = "upgrade"
	UpgradeWith = "upgrade-with" // overrides; a server that does not know any refuses it
	Promote     = "promote"
	Abort       = "abort"
	Status      = "status"
)

// Request is what a client sends.
type Request struct {
	Command   string          `json:"command"`
	Overrides json.RawMessage `json:"overrides,omitempty"` // of an upgrade
	Reason    string          `json:"reason,omitempty"`    // of an abort
}

// Reply is one line of the answer. The last one has Final set.
type Reply struct {
	Final    bool            `json:"final,omitempty"`
	Error    string          `json:"error,omitempty"`
	Status   json.RawMessage `json:"status,omitempty"`
	Progress string          `json:"progress,omitempty"` // for a person who waits
	Outcome  json.RawMessage `json:"outcome,omitempty"`  // with Final unset: as far as it is known
}

// Handler answers what the server is asked for.
type Handler interface {
	// Status returns the status as JSON.
	Status() json.RawMessage
	// Refusal returns the outcome of an upgrade that is requested when Close has been
	// called, as JSON.
	Refusal() json.RawMessage
	// CheckOverrides fails if an upgrade cannot be overridden so.
	CheckOverrides(json.RawMessage) error
}

// Server answers on a control socket.
type Server struct {
	log      *slog.Logger
	listener net.Listener // nil: none
	handler  Handler
	requests chan *Waiter
	verdicts chan *Verdict
	closing  chan struct{} // closed when nobody takes from requests any more

	conns   sync.WaitGroup
	slots   chan struct{} // of those that do not wait
	waiting chan struct{} // of clients that wait for an upgrade, and are there
}

// NewServer returns a server that does not serve yet. ln may be nil: clients come by
// [Server.Adopt] only then.
func NewServer(ln net.Listener, handler Handler, log *slog.Logger) *Server {
	return &Server{
		log:      log,
		listener: ln,
		handler:  handler,
		requests: make(chan *Waiter),
		verdicts: make(chan *Verdict),
		closing:  make(chan struct{}),
		slots:    make(chan struct{}, maxConns),
		waiting:  make(chan struct{}, maxConns),
	}
}

// Requests returns the channel of the clients that wait for an upgrade.
func (s *Server) Requests() <-chan *Waiter { return s.requests }

// Verdicts returns the channel of the clients that end a trial. Each has to be answered.
func (s *Server) Verdicts() <-chan *Verdict { return s.verdicts }

// Serve begins to accept, and returns at once.
func (s *Server) Serve() {
	if s.listener != nil {
		s.conns.Go(s.accept)
	}
}

func (s *Server) accept() {
	failures := 0
	for {
		nc, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil { // accept(2): most pass
			if failures++; failures == 1 {
				s.log.Warn("control connections cannot be accepted; trying again", "error", err)
			}
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if failures > 0 {
			s.log.Info("control connections are accepted again", "errors", failures)
			failures = 0
		}
		select {
		case s.slots <- struct{}{}:
			s.conns.Go(func() {
				release := sync.OnceFunc(func() { <-s.slots })
				defer release()
				s.answer(nc, release)
			})
		default:
			write(nc, Reply{Final: true, Error: "too many control connections"})
			nc.Close()
		}
	}
}

// Stop closes the socket. Clients that are connected are still answered.
func (s *Server) Stop() {
	if s.listener != nil {
		s.listener.Close()
	}
}

// Close stops, and gives clients that are connected a moment to read their answers.
func (s *Server) Close() {
	s.Stop()
	close(s.closing)
	done := make(chan struct{})
	go func() {
		s.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// answer answers a client, whose slot it releases when that waits for an upgrade.
func (s *Server) answer(nc net.Conn, release func()) {
	defer nc.Close()
	if err := mayControl(nc); err != nil {
		s.log.Warn("control connection refused", "error", err)
		write(nc, Reply{Final: true, Error: err.Error()})
		return
	}
	nc.SetReadDeadline(time.Now().Add(requestTimeout))
	line, err := bufio.NewReaderSize(io.LimitReader(nc, requestSize), requestSize).ReadBytes('\n')
	if err != nil {
		write(nc, Reply{Final: true, Error: "want one line of JSON of at most 4096 bytes, within 5 s"})
		return
	}
	nc.SetReadDeadline(time.Time{})
	var req Request
	if err := json.Unmarshal(line, &req); err != nil {
		write(nc, Reply{Final: true, Error: "request is not JSON: " + err.Error()})
		return
	}
	switch req.Command {
	case Status:
		write(nc, Reply{Final: true, Status: s.handler.Status()})
	case Upgrade:
		release()
		s.admit(nc, nil)
	case UpgradeWith:
		if err := s.handler.CheckOverrides(req.Overrides); err != nil {
			write(nc, Reply{Final: true, Error: err.Error()})
			return
		}
		release()
		s.admit(nc, req.Overrides)
	case Promote, Abort:
		s.awaitAnswer(nc, newVerdict(req))
	default:
		write(nc, Reply{Final: true, Error: fmt.Sprintf("unknown command %q; want upgrade, promote, abort or status", req.Command)})
	}
}

// Adopt goes on with a connection on which an upgrade was requested, and which the
// predecessor has passed on, with what it overrides.
func (s *Server) Adopt(nc net.Conn, overrides json.RawMessage) {
	s.conns.Go(func() {
		defer nc.Close()
		s.await(nc, overrides)
	})
}

// admit lets a client wait if not too many do. One that goes away leaves its place to another, but the
// upgrade that it has requested is not forgotten.
func (s *Server) admit(nc net.Conn, overrides json.RawMessage) {
	select {
	case s.waiting <- struct{}{}:
	default:
		write(nc, Reply{Final: true, Error: "too many clients wait for an upgrade"})
		return
	}
	s.conns.Go(func() {
		awaitHangup(nc)
		<-s.waiting
	})
	s.await(nc, overrides)
}

// awaitHangup returns when one of the ends of a connection is closed, and not only for writing.
func awaitHangup(nc net.Conn) {
	conn, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Read(func(fd uintptr) bool { // fails when this end is closed
			poll := []unix.PollFd{{Fd: int32(fd)}}
			_, err := unix.Poll(poll, 0)
			return err == nil && poll[0].Revents&unix.POLLHUP != 0
		})
	}
}

// await requests an upgrade and writes what becomes of it.
func (s *Server) await(nc net.Conn, overrides json.RawMessage) {
	w := newWaiter()
	w.Overrides = overrides
	select {
	case s.requests <- w:
	case <-s.closing:
		write(nc, Reply{Final: true, Outcome: s.handler.Refusal()})
		return
	}
	for {
		select {
		case r := <-w.replies:
			if write(nc, r) != nil || r.Final {
				return
			}
		case pass := <-w.passed:
			if failure := pass(nc); failure != nil {
				write(nc, Reply{Final: true, Outcome: failure})
			}
			return
		}
	}
}

func write(nc net.Conn, r Reply) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	nc.SetWriteDeadline(time.Now().Add(replyTimeout))
	_, err = nc.Write(append(line, '\n'))
	return err
}

// mayControl admits the user that the server runs as, and root.
func mayControl(nc net.Conn) error {
	peer, err := peerOf(nc)
	if err != nil {
		return err
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not control this server; run this as user %d or root", peer.Uid, os.Geteuid())
	}
	return nil
}
