package upgrade

// This file holds the serving side of the control socket. A connection carries
// one request and its replies, each a line of JSON.

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
	"time"
)

const (
	requestSize    = 4 << 10 // bytes
	requestTimeout = 5 * time.Second
	replyTimeout   = 5 * time.Second
	controlConns   = 16 // at once
)

type request struct {
	Command string `json:"command"` // "upgrade" or "status"
}

// reply is one line of the answer. The last one has Final set.
type reply struct {
	Final    bool     `json:"final,omitempty"`
	Error    string   `json:"error,omitempty"`
	Status   *Status  `json:"status,omitempty"`
	Progress string   `json:"progress,omitempty"` // for a person who waits
	Outcome  *Outcome `json:"outcome,omitempty"`  // with Final unset: as far as it is known
}

// control answers on the control socket.
type control struct {
	log      *slog.Logger
	listener net.Listener // nil: none
	status   func() Status
	asked    chan *waiter  // upgrades asked for, for Run to take
	closing  chan struct{} // closed when Run takes no more

	conns sync.WaitGroup
	slots chan struct{}
}

func newControl(ln net.Listener, status func() Status, log *slog.Logger) *control {
	return &control{
		log:      log,
		listener: ln,
		status:   status,
		asked:    make(chan *waiter),
		closing:  make(chan struct{}),
		slots:    make(chan struct{}, controlConns),
	}
}

// serve begins to accept.
func (c *control) serve() {
	if c.listener == nil {
		return
	}
	c.conns.Go(func() {
		failures := 0
		for {
			nc, err := c.listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil { // accept(2): most pass
				if failures++; failures == 1 {
					c.log.Warn("control connections cannot be accepted; trying again", "error", err)
				}
				time.Sleep(100 * time.Millisecond)
				continue
			}
			if failures > 0 {
				c.log.Info("control connections are accepted again", "errors", failures)
				failures = 0
			}
			select {
			case c.slots <- struct{}{}:
				c.conns.Go(func() {
					defer func() { <-c.slots }()
					c.answer(nc)
				})
			default:
				writeReply(nc, reply{Final: true, Error: "too many control connections"})
				nc.Close()
			}
		}
	})
}

// stop closes the socket; who is connected is still answered.
func (c *control) stop() {
	if c.listener != nil {
		c.listener.Close()
	}
}

// finish gives those who are connected a moment to take their answers.
func (c *control) finish() {
	c.stop()
	close(c.closing)
	done := make(chan struct{})
	go func() {
		c.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

func (c *control) answer(nc net.Conn) {
	defer nc.Close()
	if err := mayControl(nc); err != nil {
		c.log.Warn("control connection refused", "error", err)
		writeReply(nc, reply{Final: true, Error: err.Error()})
		return
	}
	nc.SetReadDeadline(time.Now().Add(requestTimeout))
	line, err := bufio.NewReaderSize(io.LimitReader(nc, requestSize), requestSize).ReadBytes('\n')
	if err != nil {
		writeReply(nc, reply{Final: true, Error: "want one line of JSON of at most 4096 bytes, within 5 s"})
		return
	}
	nc.SetReadDeadline(time.Time{})
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		writeReply(nc, reply{Final: true, Error: "request is not JSON: " + err.Error()})
		return
	}
	switch req.Command {
	case "status":
		status := c.status()
		writeReply(nc, reply{Final: true, Status: &status})
	case "upgrade":
		c.await(nc)
	default:
		writeReply(nc, reply{Final: true, Error: fmt.Sprintf("unknown command %q; want upgrade or status", req.Command)})
	}
}

// adopt goes on with a connection on which an upgrade was asked for, and which
// the predecessor has passed on.
func (c *control) adopt(nc net.Conn) {
	c.conns.Go(func() {
		defer nc.Close()
		c.await(nc)
	})
}

// await asks Run for an upgrade and writes what becomes of it.
func (c *control) await(nc net.Conn) {
	w := &waiter{replies: make(chan reply, 64), forward: make(chan *link, 1)}
	select {
	case c.asked <- w:
	case <-c.closing:
		writeReply(nc, reply{Final: true, Outcome: refusal()})
		return
	}
	for {
		select {
		case r := <-w.replies:
			if writeReply(nc, r) != nil || r.Final {
				return
			}
		case successor := <-w.forward:
			uc, ok := nc.(*net.UnixConn)
			if !ok || successor.send(message{Type: msgUpgrade}, uc) != nil {
				writeReply(nc, reply{Final: true, Outcome: &Outcome{Result: Failed, Reason: "the successor could not be asked; try again"}})
			}
			return
		}
	}
}

// waiter is somebody who has asked for an upgrade, as Run sees them.
type waiter struct {
	replies chan reply
	forward chan *link // cap 1: the connection moves to the successor
}

// tell passes a reply on. Progress is dropped while the other side is slow.
func (w *waiter) tell(r reply) {
	if r.Final || len(w.replies) < cap(w.replies)/2 {
		select {
		case w.replies <- r:
		default:
		}
	}
}

func refusal() *Outcome {
	return &Outcome{Result: Refused, Reason: "the server is stopping"}
}

func writeReply(nc net.Conn, r reply) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	nc.SetWriteDeadline(time.Now().Add(replyTimeout))
	_, err = nc.Write(append(line, '\n'))
	return err
}

// mayControl lets in the user that the server runs as, and root.
func mayControl(nc net.Conn) error {
	peer, err := peerOf(nc)
	if err != nil {
		return err
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not control this server; ask as user %d or root", peer.Uid, os.Geteuid())
	}
	return nil
}
