package upgrade

import (
	"encoding/json"
	"fmt"
	"iter"
	"net"

	"example.com/baton/upgrade/internal/link"
)

// ListenerStore holds listeners open beyond the life of a process, as systemd does in
// its file descriptor store, so that connections wait in their queues while no process
// accepts them. Its methods must not block for long.
type ListenerStore interface {
	// Listeners returns the listeners that the process was started with, by the
	// names that Store was called with. Any other name stands for a socket that the
	// store holds on its own account, whatever becomes of the service.
	Listeners() (iter.Seq2[string, net.Listener], error)
	// Store adds a listener under a name. One that is stored already is stored once.
	Store(name string, ln net.Listener) error
	// Remove closes the store's copy of a listener.
	Remove(name string) error
}

// takeStored makes the listeners that the store has for the first generation like
// those which a successor is offered.
func (g *Generation) takeStored() error {
	if g.opts.Store == nil || g.flip.HasPredecessor() || g.flip.Inherited() != "" {
		return nil
	}
	stored, err := g.opts.Store.Listeners()
	if err != nil {
		return err
	}
	for name, ln := range stored {
		c, err := storedClaim(name, ln)
		if err != nil {
			return err
		}
		c.listener = ln
		g.offered = append(g.offered, c)
	}
	return nil
}

// storedClaim returns what is to be known of a listener that was stored.
func storedClaim(name string, ln net.Listener) (claim, error) {
	var c claim
	if json.Unmarshal([]byte(name), &c.Claim) == nil && c.Bound != "" {
		if c.Asked == "" {
			c.Asked = c.Bound
		}
		c.Kept, c.KeptAs = true, name
		return c, nil
	}
	addr := ln.Addr().String()
	if ln.Addr().Network() == "unix" {
		addr = "unix:" + addr
	}
	a, err := resolveAddress(addr)
	if err != nil {
		return claim{}, fmt.Errorf("take the socket that the service manager holds: %w", err)
	}
	return claim{Claim: link.Claim{Asked: a.String(), Bound: a.String(), Inode: inode(a.unix), Held: true}}, nil
}

// storedName is the name by which a restarted process recognizes a listener.
func (c claim) storedName() string {
	if c.KeptAs != "" {
		return c.KeptAs
	}
	named := link.Claim{Asked: c.Asked, Bound: c.Bound, Inode: c.Inode}
	if named.Asked == named.Bound {
		named.Asked = ""
	}
	name, _ := json.Marshal(named) // of strings and a number
	return string(name)
}

// checkHeld fails if no generation would accept from a socket that the store holds:
// its clients would connect and wait for ever.
func (g *Generation) checkHeld() error {
	for _, c := range g.offered {
		if c.Held && !g.listensAt(c.Bound) {
			return fmt.Errorf("the service manager holds a socket at %s, but the configuration does not listen there; add that address, or remove it from the socket unit", c.Bound)
		}
	}
	return nil
}

// listensAt reports whether this generation has a listener of its own at an address,
// whatever the store has there.
func (g *Generation) listensAt(bound string) bool {
	for _, c := range g.claims {
		if c.Bound == bound {
			return true
		}
	}
	return false
}

// storeListeners stores what this generation accepts from, and nothing else.
func (r *run) storeListeners() {
	store := r.opts.Store
	if store == nil {
		return
	}
	for ln, c := range r.claims {
		// A first generation also asks for what is stored: the store may by now have
		// processed the last request of the process before.
		if c.Held || ln == r.controlListener || c.Kept && r.flip.HasPredecessor() {
			continue
		}
		if err := store.Store(c.storedName(), ln); err != nil {
			r.log.Warn("listener would not survive a crash", "address", c.Bound, "error", err)
			continue
		}
		c.Kept, c.KeptAs = true, c.storedName()
		r.claims[ln] = c
	}
	for _, c := range r.offered {
		r.unstore(c)
	}
}

// unstoreTheirs removes from the store what only a successor has accepted from that is dead: nobody else
// has those sockets, and whoever is configured to listen there binds its own.
func (r *run) unstoreTheirs() {
	for _, theirs := range r.attempt.claims {
		if theirs.Held || theirs.Bound == "unix:"+r.opts.Control || r.listensAt(theirs.Bound) {
			continue
		}
		theirs.Kept = true
		r.unstore(claim{Claim: theirs})
	}
}

// unstore removes a listener from the store.
func (g *Generation) unstore(c claim) {
	if g.opts.Store == nil || !c.Kept {
		return
	}
	if err := g.opts.Store.Remove(c.storedName()); err != nil {
		g.log.Warn("listener is still stored although no process accepts from it", "address", c.Bound, "error", err)
	}
}
