package tls13

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Conn is a connection after the handshake of TLS 1.3. As with any [net.Conn], one goroutine
// may read while another one writes and a third one closes it.
type Conn struct {
	net.Conn // the layer below
	suiteID  uint16

	// requested is set by the reader, for the writer, when the peer has requested a KeyUpdate.
	requested atomic.Bool

	in  reader
	out writer
}

// New returns a connection over c that goes on from a state. It keeps nothing of the state. In
// FIPS 140-3 mode it returns an error: of the standard library's implementations of AES-GCM,
// the one that is approved for the nonces of TLS is reserved to crypto/tls.
func New(c net.Conn, s State) (*Conn, error) {
	if fips140.Enabled() {
		return nil, errors.New("tls13: not available in FIPS 140-3 mode")
	}
	if err := s.Validate(); err != nil {
		return nil, err
	}
	in, err := newTraffic(suites[s.Suite], s.In)
	if err != nil {
		return nil, fmt.Errorf("tls13: derive keys: %w", err)
	}
	out, err := newTraffic(suites[s.Suite], s.Out)
	if err != nil {
		return nil, fmt.Errorf("tls13: derive keys: %w", err)
	}
	conn := &Conn{Conn: c, suiteID: s.Suite}
	conn.in.traffic, conn.out.traffic = in, out
	conn.requested.Store(s.UpdateRequested)
	return conn, nil
}

// Format prints no keys, whatever the verb.
func (c *Conn) Format(f fmt.State, _ rune) { io.WriteString(f, "tls13.Conn") }

// finalWrite is how long a close_notify or another last alert may take to be written.
const finalWrite = 5 * time.Second

// CloseWrite sends a close_notify, unless an alert was sent. It waits for a Write that is
// under way, and for 5 seconds at most to be written. The layer below stays open.
func (c *Conn) CloseWrite() error {
	c.out.mu.Lock()
	defer c.unlockWriter()
	return c.closeNotify()
}

// Close sends a close_notify as CloseWrite does, unless a Write is under way, and closes the
// layer below. Of a connection that is exported or discarded, it only does the latter.
func (c *Conn) Close() error {
	if c.out.mu.TryLock() {
		c.closeNotify()
		c.unlockWriter()
	}
	return c.Conn.Close()
}
