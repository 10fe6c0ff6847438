package upgrade

import (
	"encoding/json"
	"syscall"

	"example.com/baton/upgrade/internal/link"
)

// batch is what migrates with one message.
type batch struct {
	message link.Message
	sockets []syscall.Conn
	at      []int // where its connections are among those of Migrate
	size    int   // of the message, at most
}

// What a message has beside the states, at most: for itself, and for each connection the
// names and values beside the address, of which JSON makes six bytes for one.
const (
	messageOverhead    = 1 << 10
	connectionOverhead = 128
)

// batches returns the messages with which connections migrate. Those that have nothing beside
// a socket go in offers, as any release of the past understands them. What cannot migrate is
// in none.
func (g *Generation) batches(conns []Connection, states bool) (all []batch) {
	open := make(map[link.Type]*batch)
	for i, c := range conns {
		socket, ok := c.Conn.(syscall.Conn)
		peer, isTunnel := c.Peer.(syscall.Conn)
		if !ok || isTunnel != (c.Peer != nil) || len(c.State) > StateLimit || len(c.State) > 0 && !json.Valid(c.State) {
			continue
		}
		o := link.Offered{Bound: g.boundAt(c.Listener), Used: c.Used, Left: c.Left, Peer: isTunnel}
		sockets, kind := []syscall.Conn{socket}, link.TypeOffer
		if isTunnel {
			sockets = append(sockets, peer)
		}
		if isTunnel || len(c.State) > 0 {
			kind = link.TypeTransfer
			if !states {
				continue
			}
		}
		size := connectionOverhead + 6*len(o.Bound) + len(c.State)
		b := open[kind]
		if b == nil || b.size+size > link.MaxMessage || len(b.sockets)+len(sockets) > MigrationLimit {
			if b != nil {
				all = append(all, *b)
			}
			b = &batch{message: link.Message{Type: kind}, size: messageOverhead}
			open[kind] = b
		}
		b.size += size
		b.at, b.sockets = append(b.at, i), append(b.sockets, sockets...)
		b.message.Offered = append(b.message.Offered, o)
		if kind == link.TypeTransfer {
			b.message.States = append(b.message.States, link.State(c.State))
		}
	}
	for _, b := range open {
		all = append(all, *b)
	}
	return all
}

// split returns a batch for each connection of one.
func (b *batch) split() (all []batch) {
	sockets := b.sockets
	for i, o := range b.message.Offered {
		one := batch{message: link.Message{Type: b.message.Type, Offered: []link.Offered{o}}, at: b.at[i : i+1]}
		n := 1
		if o.Peer {
			n++
		}
		one.sockets, sockets = sockets[:n], sockets[n:]
		if len(b.message.States) > 0 {
			one.message.States = b.message.States[i : i+1]
		}
		all = append(all, one)
	}
	return all
}
