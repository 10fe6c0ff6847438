package upgrade

// This file holds the listeners that somebody keeps open beside this process,
// so that connections wait in their queues while no process is there.

import (
	"encoding/json"
	"fmt"
	"iter"
	"net"
)

// Keeper keeps listeners open beyond the life of a process, as systemd does in
// its file descriptor store. Its methods must not block for long.
type Keeper interface {
	// Kept returns the listeners that the process was started with, by the
	// names that Keep was called with. Any other name stands for a socket that
	// the keeper holds on its own account, whatever becomes of the service.
	Kept() (iter.Seq2[string, net.Listener], error)
	// Keep keeps a listener under a name. One that is kept already is kept once.
	Keep(name string, ln net.Listener) error
	// Release ends that.
	Release(name string) error
}

// takeKept makes the listeners that a keeper has for the first generation like
// those which a successor is offered.
func (g *Generation) takeKept() error {
	if g.opts.Keeper == nil || g.tf.HasParent() {
		return nil
	}
	kept, err := g.opts.Keeper.Kept()
	if err != nil {
		return err
	}
	for name, ln := range kept {
		c, err := keptClaim(name, ln)
		if err != nil {
			return err
		}
		c.listener = ln
		g.offered = append(g.offered, c)
	}
	return nil
}

// keptClaim returns what is to be known of a listener that was kept.
func keptClaim(name string, ln net.Listener) (claim, error) {
	var c claim
	if json.Unmarshal([]byte(name), &c) == nil && c.Bound != "" {
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
	return claim{Asked: a.String(), Bound: a.String(), Inode: inode(a.unix), Held: true}, nil
}

// keptName is the name by which a restarted process recognizes a listener.
func (c claim) keptName() string {
	if c.KeptAs != "" {
		return c.KeptAs
	}
	named := claim{Asked: c.Asked, Bound: c.Bound, Inode: c.Inode}
	if named.Asked == named.Bound {
		named.Asked = ""
	}
	name, _ := json.Marshal(named) // of strings and a number
	return string(name)
}

// checkHeld fails if nobody would accept from a socket that the keeper holds:
// its clients would connect and wait for ever.
func (g *Generation) checkHeld() error {
	for _, c := range g.offered {
		if c.Held && !g.listensAt(c.Bound) {
			return fmt.Errorf("the service manager holds a socket at %s, but the configuration does not listen there; add that address, or remove it from the socket unit", c.Bound)
		}
	}
	return nil
}

// listensAt tells whether this generation has a listener of its own at an address,
// whatever the keeper has there.
func (g *Generation) listensAt(bound string) bool {
	for _, c := range g.claims {
		if c.Bound == bound {
			return true
		}
	}
	return false
}

// keepListeners lets the keeper keep what this generation listens at, and
// nothing else.
func (r *run) keepListeners() {
	k := r.opts.Keeper
	if k == nil {
		return
	}
	for ln, c := range r.claims {
		// A first generation also asks for what is kept: the keeper may by now have
		// heard its last word from the process before.
		if c.Held || ln == r.control.listener || c.Kept && r.tf.HasParent() {
			continue
		}
		if err := k.Keep(c.keptName(), ln); err != nil {
			r.log.Warn("listener would not survive a crash", "address", c.Bound, "error", err)
			continue
		}
		c.Kept, c.KeptAs = true, c.keptName()
		r.claims[ln] = c
	}
	for _, c := range r.offered {
		r.release(c)
	}
}

func (g *Generation) release(c claim) {
	if g.opts.Keeper == nil || !c.Kept {
		return
	}
	if err := g.opts.Keeper.Release(c.keptName()); err != nil {
		g.log.Warn("listener is still kept although nobody accepts from it", "address", c.Bound, "error", err)
	}
}
