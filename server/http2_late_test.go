package server_test

import (
	"net"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// slow is a connection that takes a while to be opened.
type slow struct {
	unopened
	opens, open chan struct{}
}

func (s slow) Open() (net.Conn, error) {
	nc, err := s.unopened.Open()
	close(s.opens)
	<-s.open
	return nc, err
}

// A request that has arrived is answered by a drain that begins in this moment, even if nobody reads it before
// the grace is over.
func TestDrainWhileAnHTTP2ConnectionIsOpened(t *testing.T) {
	t.Parallel()
	for name, grace := range map[string]time.Duration{"within the grace": patience, "beyond it": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &movers{first: serve(t, server.Options{Handler: sizes("first"), IdleGrace: patience}),
				second: serve(t, server.Options{Handler: sizes("second"), IdleGrace: grace})}
			opens, open := make(chan struct{}), make(chan struct{})
			m.each = func(c *upgrade.Connection) { c.Conn = slow{c.Conn.(unopened), opens, open} }
			c := m.first.dialHTTP2()
			c.answers = true
			c.rests("first")
			m.migrates(t, 1)
			c.request(5, "/")
			<-opens
			drained := m.second.drain(patience, all)
			m.second.awaitDraining()
			time.Sleep(20 * time.Millisecond) // the drain tells its connections, and the shorter grace ends
			close(open)
			c.gets(5, "second")
			c.closes()
			<-drained
		})
	}
}
