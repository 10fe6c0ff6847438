package server

import (
	"sync"

	"example.com/baton/upgrade"
)

// class says as what a connection is counted.
type class uint8

const (
	uncounted   class = iota // the server's own, migrated, or gone
	classNew                 // no whole request header yet
	classActive              // a request is under way, or the connection is being closed
	classIdle                // between two requests
	classHijacked

	classes
)

// population counts connections by class. One connection is counted once at any moment.
type population struct {
	mu sync.Mutex
	n  [classes]int
}

func (p *population) move(from, to class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n[from]--
	p.n[to]++
}

func (p *population) connections() upgrade.Connections {
	p.mu.Lock()
	defer p.mu.Unlock()
	return upgrade.Connections{New: p.n[classNew], Active: p.n[classActive], Idle: p.n[classIdle], Hijacked: p.n[classHijacked]}
}

// count counts the connection as one of another class. It is called with the lock held.
func (c *conn) count(as class) {
	if c.class != as {
		c.server.population.move(c.class, as)
		c.class = as
	}
}

// Load returns what the server has in hand. A connection that has migrated does not count.
func (s *Server) Load() upgrade.Load {
	return upgrade.Load{Requests: int(s.requests.Load()), Connections: s.population.connections()}
}
