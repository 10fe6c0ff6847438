package server

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/server/internal/frames"
)

// testHTTP2Migration has a connection of HTTP/2 migrate from the server to itself, with a
// window that is smaller than that of one that begins. The client goes on with its next
// request, and is drained.
func (s *Server) testHTTP2Migration() bool {
	err := s.untilInTime(s.migrateHTTP2)
	if err != nil {
		s.opts.Logger.Warn("connections of HTTP/2 do not migrate at an upgrade, and are drained: net/http does not behave as expected",
			"error", err)
	}
	return err == nil
}

func (s *Server) migrateHTTP2() error {
	k := &keptPipe{left: make(chan struct{})}
	client, c := s.checkPipe(func(nc net.Conn) net.Conn { k.Conn = nc; return k })
	defer k.Conn.Close()
	t, end := newHTTP2Talk(client)
	defer end()
	if err := s.serveCheck(c); err != nil {
		return err
	}
	if err := t.begin(); err != nil {
		return err
	}
	if _, err := t.Write(frames.Append(nil, frames.Settings, frames.FlagAck, 0, nil)); err != nil {
		return err
	}
	if err := t.ask(3, "\x20"+checkFields); err != nil { // without a table
		return err
	}
	if err := t.answered(3); err != nil {
		return err
	}
	state, err := c.follower().(*http2Conn).surrender()
	if err != nil {
		return err
	}
	k.end()
	_, successor := s.checkPipe(func(net.Conn) net.Conn { return timeless{k.Conn} })
	state.Streams.Send = 1000
	if !successor.adoptHTTP2(state, 0) {
		return errors.New("the state of the connection is invalid")
	}
	successor.follower().(*http2Conn).adopted = nil // net/http has it
	if err := s.serveCheck(successor); err != nil {
		return err
	}
	return t.drain(successor.follower(), 5)
}

// surrender returns the state of a connection at rest, which then has migrated.
func (h *http2Conn) surrender() (*http2State, error) {
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		h.mu.Lock()
		state, ok := h.streams.Export()
		if !ok && h.streams.AtRest() && !h.streams.IsSyncing() { // once: the wake nudges changed, too
			h.streams.Sync(ping())
			h.wake()
		}
		h.mu.Unlock()
		if ok {
			h.writing.Lock()
			defer h.writing.Unlock()
			h.migrated = true
			h.conn.mu.Lock()
			defer h.conn.mu.Unlock()
			h.conn.boundary.Offer()
			h.conn.boundary.Answer(true)
			return &http2State{Streams: state, Account: h.account.Export()}, nil
		}
		if h.conn.isClosed() {
			return nil, errEnds
		}
		select {
		case <-h.changed:
		case <-time.After(pause): // never wait for good, whatever net/http does
		}
	}
}

// keptPipe is the server's end of a connection in memory, which is not closed with the first
// connection that uses it.
type keptPipe struct {
	net.Conn
	ended atomic.Bool
	once  sync.Once
	left  chan struct{} // closed when a Read has returned the end
}

func (k *keptPipe) Close() error { return nil }

// end ends the Reads, and returns when there are no more.
func (k *keptPipe) end() {
	k.ended.Store(true)
	k.SetReadDeadline(time.Unix(1, 0))
	<-k.left
	k.SetReadDeadline(noDeadline)
}

func (k *keptPipe) Read(p []byte) (n int, err error) {
	if !k.ended.Load() {
		n, err = k.Conn.Read(p)
	}
	if !k.ended.Load() {
		return n, err
	}
	k.once.Do(func() { close(k.left) })
	return 0, io.EOF
}
