package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"example.com/baton/upgrade/internal/link"
	"example.com/baton/upgrade/internal/lock"
)

// claim is a listener of this generation.
type claim struct {
	link.Claim
	fresh    bool         // bound by this generation
	listener net.Listener // of a store, until it is inherited
}

// Listen claims a listener at "host:port", ":port" or "unix:PATH". A successor
// gets the socket that its predecessor accepts from, if that has one at this
// address; a listener that it does not claim is closed when it is ready. Port 0
// stands for a free port, which successors keep. Listen must not be called
// once Run has been.
func (g *Generation) Listen(addr string) (net.Listener, error) {
	ln, c, err := g.claim(addr)
	if err != nil {
		g.giveUp()
		return nil, fmt.Errorf("claim listener %s: %w", addr, err)
	}
	g.claims[ln] = c
	return ln, nil
}

// CheckContinuity fails if a successor that listens at these addresses has none of its
// predecessor's, so that an upgrade would take the service from all its clients. That is
// what a configuration does that was lost. It is for a program to call before Listen.
func (g *Generation) CheckContinuity(addrs ...string) error {
	if g.predecessor == nil || len(g.offered) == 0 {
		return nil
	}
	for _, addr := range addrs {
		asked, err := resolveAddress(addr)
		if err != nil || slices.ContainsFunc(g.offered, func(c claim) bool { return c.matches(asked) }) {
			return nil
		}
	}
	g.giveUp()
	return errors.New("the upgrade would drop every listener of the running server; keep one of them in this upgrade, or restart the service")
}

func (g *Generation) claim(addr string) (net.Listener, claim, error) {
	asked, err := resolveAddress(addr)
	if err != nil {
		return nil, claim{}, err
	}
	for _, c := range g.claims {
		if c.Asked == asked.String() && (asked.unix != "" || asked.tcp.Port() != 0) {
			return nil, claim{}, errors.New("the address is given twice")
		}
	}
	if c, ok := g.takeOffered(asked); ok {
		ln, err := g.inherit(c)
		if err != nil {
			return nil, claim{}, err
		}
		if ln != nil {
			if c.Asked != asked.String() || isWider(ln, asked) {
				g.log.Warn("listener stays as it was bound; a restart would bind it differently",
					"address", addr, "bound", ln.Addr().String())
			}
			c.Asked, c.listener = asked.String(), nil
			return ln, c, nil
		}
	}
	return g.bind(asked)
}

// isWider reports whether a listener takes IPv6 connections although only IPv4 was asked
// for: there were releases that bound 0.0.0.0 so.
func isWider(ln net.Listener, asked address) bool {
	bound, ok := ln.Addr().(*net.TCPAddr)
	return ok && asked.tcp.Addr() == netip.IPv4Unspecified() && bound.IP.To4() == nil
}

// matches are the ways in which a listener is one for an address, best first.
var matches = []func(c claim, asked address) bool{
	func(c claim, asked address) bool { return c.Asked == asked.String() },
	func(c claim, asked address) bool { return c.Bound == asked.String() },
	func(c claim, asked address) bool {
		bound, err := netip.ParseAddrPort(c.Bound)
		return err == nil && asked.sameWildcard(address{tcp: bound})
	},
}

func (c claim) matches(asked address) bool {
	return slices.ContainsFunc(matches, func(match func(claim, address) bool) bool { return match(c, asked) })
}

// takeOffered takes from the predecessor's listeners the one for an address.
func (g *Generation) takeOffered(asked address) (claim, bool) {
	for _, match := range matches {
		i := slices.IndexFunc(g.offered, func(c claim) bool {
			// A unix socket whose path is gone, or leads elsewhere, is of no use.
			return match(c, asked) && (asked.unix == "" || inode(asked.unix) == c.Inode)
		})
		if i >= 0 {
			c := g.offered[i]
			g.offered = slices.Delete(g.offered, i, i+1)
			return c, true
		}
	}
	return claim{}, false
}

// inherit returns a listener that the predecessor or the store has, or nil.
func (g *Generation) inherit(c claim) (net.Listener, error) {
	if c.listener == nil {
		return g.flip.Listener(c.Bound)
	}
	return c.listener, g.flip.AddListener(c.Bound, c.listener)
}

// letGo ends what the store has on the port of an address that cannot be bound
// beside it: the configuration has changed while no process was there.
func (g *Generation) letGo(asked address) (any bool) {
	g.offered = slices.DeleteFunc(g.offered, func(c claim) bool {
		bound, err := netip.ParseAddrPort(c.Bound)
		if c.listener == nil || c.Held || err != nil || asked.unix != "" || bound.Port() != asked.tcp.Port() ||
			!bound.Addr().IsUnspecified() && !asked.tcp.Addr().IsUnspecified() {
			return false
		}
		c.listener.Close()
		g.unstore(c)
		any = true
		return true
	})
	return any
}

// bind makes a new socket.
func (g *Generation) bind(asked address) (net.Listener, claim, error) {
	if asked.unix != "" {
		l, err := lock.Acquire(asked.unix, 2*time.Second) // another server may start in the same moment
		if err != nil {
			return nil, claim{}, err
		}
		defer lock.Release(l)
		if err := removeStale(asked.unix); err != nil {
			return nil, claim{}, err
		}
	}
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false) // the sockets must be of the kind that services know
	network, addr := asked.network()
	ln, err := lc.Listen(context.Background(), network, addr)
	if errors.Is(err, syscall.EADDRINUSE) && (g.letGo(asked) || g.flip.Inherited() != "") {
		// The store takes a moment.
		for patience := time.Now().Add(2 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(patience); {
			time.Sleep(10 * time.Millisecond)
			ln, err = lc.Listen(context.Background(), network, addr)
		}
	}
	if err != nil {
		return nil, claim{}, g.explainBind(asked, err)
	}
	c := claim{Claim: link.Claim{Asked: asked.String(), Bound: asked.String()}, fresh: true}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
		c.Bound = netip.AddrPortFrom(asked.tcp.Addr(), uint16(tcp.Port)).String()
	} else {
		c.Inode = inode(asked.unix)
	}
	if err := g.flip.AddListener(c.Bound, ln); err != nil {
		ln.Close()
		return nil, claim{}, err
	}
	return ln, c, nil
}

// explainBind adds what to do about an error, where that can be known.
func (g *Generation) explainBind(asked address, err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		for _, c := range slices.AppendSeq(slices.Clone(g.offered), maps.Values(g.claims)) {
			if bound, parseErr := netip.ParseAddrPort(c.Bound); parseErr == nil && asked.unix == "" && !c.fresh && bound.Port() == asked.tcp.Port() {
				return fmt.Errorf("%w: the running server has the port at %s; such a change needs a restart", err, c.Bound)
			}
		}
		return fmt.Errorf("%w: another process listens there; stop that one, or use another address", err)
	case errors.Is(err, syscall.EACCES) && asked.unix == "":
		return fmt.Errorf("%w: a port below 1024 needs the capability CAP_NET_BIND_SERVICE", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: no interface of this machine has this address", err)
	}
	return err
}

// removeStale removes the path of a unix socket on which nobody listens, as a
// server leaves it that was killed.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("the path exists and is not a socket")
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		nc.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return errors.New("another server listens there; stop that one, or use another path")
	}
	return os.Remove(path)
}

// giveUp removes the paths of unix sockets and the lock that a generation has claimed
// which will never serve.
func (g *Generation) giveUp() {
	for _, c := range g.claims {
		if c.fresh {
			c.unlink()
		}
	}
	if g.pidFile != nil {
		g.pidFile.GiveUp()
	}
}

// unlink removes the path of a unix socket if it still leads to that socket and
// nobody else holds it.
func (c claim) unlink() {
	a, err := resolveAddress(c.Bound)
	if err == nil && !c.Held && a.unix != "" && inode(a.unix) == c.Inode {
		os.Remove(a.unix)
	}
}

func inode(path string) uint64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
