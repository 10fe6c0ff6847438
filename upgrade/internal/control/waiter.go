package control

import (
	"encoding/json"
	"net"
)

// Waiter is a client that waits for an upgrade.
type Waiter struct {
	Overrides json.RawMessage // of the trial; nil: none

	replies chan Reply
	passed  chan func(net.Conn) (failure json.RawMessage) // cap 1
}

func newWaiter() *Waiter {
	return &Waiter{replies: make(chan Reply, 64), passed: make(chan func(net.Conn) json.RawMessage, 1)}
}

// Reply sends a reply, and never blocks. Progress is dropped while the client is slow.
func (w *Waiter) Reply(r Reply) {
	if r.Final || len(w.replies) < cap(w.replies)/2 {
		select {
		case w.replies <- r:
		default:
		}
	}
}

// PassOn lets pass give the connection to another process, and closes it here. It is
// called once at most, and pass from another goroutine. What pass returns is the outcome
// if it has failed.
func (w *Waiter) PassOn(pass func(net.Conn) (failure json.RawMessage)) { w.passed <- pass }
