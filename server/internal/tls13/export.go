package tls13

import (
	"io"
	"net"
)

// Export returns the state of the connection if it is at rest in both directions. Then Reads
// and Writes block until Resume or Discard is called. Otherwise it returns false.
func (c *Conn) Export() (State, bool) {
	if !c.in.mu.TryLock() {
		return State{}, false
	}
	if !c.out.mu.TryLock() {
		c.in.mu.Unlock()
		return State{}, false
	}
	if c.Holds() || c.in.err != nil || c.out.failed() != nil {
		c.Resume()
		return State{}, false
	}
	return State{
		Suite:           c.suiteID,
		In:              c.in.Half.clone(),
		Out:             c.out.Half.clone(),
		UpdateRequested: c.requested.Load(),
	}, true
}

// Resume lets the connection go on here: the receiver of the state has not used it, and will
// not. It must be called after an Export that returned true, and only then.
func (c *Conn) Resume() {
	c.unlockWriter()
	c.in.mu.Unlock()
}

// Discard ends the connection here, which goes on elsewhere. It zeroes the secrets; every Read
// returns io.EOF, every Write fails, and Close only closes the layer below. It must be called
// after an Export that returned true, and only then.
func (c *Conn) Discard() {
	c.in.err = io.EOF
	c.out.err = net.ErrClosed
	c.in.discard()
	c.out.discard()
	c.Resume()
}
