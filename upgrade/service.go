package upgrade

import (
	"context"
	"encoding/json"
	"net"
)

// Service is what a generation serves. Package server has one for HTTP. A service
// may also be an [Adopter], a [Counter], a [Describer] and a [SecretKeeper]: [Generation.Run] asks.
type Service interface {
	// Check fails if the service could not do its work. It is the last step before
	// the generation could take over, and an error ends it. Check must not accept
	// connections. A service that wants more to be checked wraps another one:
	//
	//	type shop struct{ *server.Server }
	//
	//	func (s shop) Check(ctx context.Context) error {
	//		return errors.Join(s.Server.Check(ctx), db.PingContext(ctx))
	//	}
	Check(ctx context.Context) error
	// Serve begins to accept connections and returns at once.
	Serve()
	// Drain stops accepting, completes or migrates what is in progress, and returns when
	// nothing is left. When ctx ends it closes what remains forcibly.
	Drain(ctx context.Context, h Handoff) Drained
	// Load returns what is in progress.
	Load() Load
}

// Adopter is a Service to which connections can migrate from its predecessor.
type Adopter interface {
	Service
	// Adopt returns a function that begins to serve a connection as if it had been accepted
	// here, or nil if it cannot be served: it stays with the predecessor then. One of a
	// listener that is for TLS now, say, cannot if it is of a time when that was not.
	//
	// Adopt itself neither reads from the connection nor writes to it, and keeps nothing of
	// its State, which is cleared after. begin is called when the predecessor has been
	// answered, and uses the connection no more. Both may be called before Serve, and never once
	// Drain has been, by several goroutines at once, and must not block.
	Adopt(Connection) (begin func())
}

// Sharer is an Adopter whose connections can be shared with a successor that may yet be taken
// back. [Options.Trial] needs one.
type Sharer interface {
	Adopter
	// Share migrates a share of the connections, from 0 to 1, those that are open and those that
	// will be accepted, as they come to rest. With 1 nothing is accepted any more from listeners
	// that the successor has, but they stay open. Share returns at once. It may be called again
	// with another share; what was given is not returned by that. Connections may be adopted at
	// the same time.
	Share(h Handoff, share float64)
	// Reclaim ends that: connections are accepted again, and none migrates when it has returned.
	Reclaim()
}

// Holder is a Sharer that goes on accepting from listeners that its successor does not have, while
// that may be taken back.
type Holder interface {
	Sharer
	// Unserved returns the address of such a listener, and how many clients have connected to it
	// since the successor took over. They would be refused when the watch has passed; with three of
	// them the successor is taken back. Unserved is called some times a second.
	Unserved() (address string, connections uint64)
}

// Judged is a Service whose requests are compared with those of another generation.
type Judged interface {
	Service
	// Outcomes returns what has become of the requests of this generation. It is called by
	// several goroutines at once, some times a second.
	Outcomes() Outcomes
}

// Counter is a Service that counts.
type Counter interface {
	Service
	// Counts returns what this generation has counted itself. It is called by
	// several goroutines at once, some times a second while a neighbor is alive.
	// [Generation.Others] documents what it is for.
	Counts() Counts
}

// Describer is a Service that has something of its own to show in the [Status].
type Describer interface {
	Service
	// Describe returns what that is, as JSON, some KiB at most. It is called by several
	// goroutines at once, some times a second.
	Describe() json.RawMessage
}

// SecretKeeper is a Service with a secret that is for its successor only: keys, say.
type SecretKeeper interface {
	Service
	// Secret returns the secret, 64 KiB at most. It is called when an upgrade begins.
	// The secret is sent over the link, never through a file or the environment;
	// [Generation.Secret] returns it in the successor.
	Secret() []byte
}

// Handoff is what another generation takes over from one that drains, or shares its connections
// with that.
type Handoff struct {
	// Kept reports whether a listener is accepted from, or held open, beyond this
	// generation: what is queued there is not lost.
	Kept func(net.Listener) bool
	// Migrate offers connections to the other generation, the successor in general and the
	// predecessor for one that is taken back, and returns which it has taken. No
	// goroutine may read from them meanwhile, or write to one that has a State. What was
	// not taken stays with the caller, as before; of the rest the caller closes its
	// copy, which does not close the connection. Migrate returns when the successor has
	// responded, is gone, or when ctx ends: what was offered then counts as taken. It has
	// cleared all states then. Several goroutines may call it at once. It is nil if nothing
	// can migrate.
	Migrate func(ctx context.Context, conns []Connection) (taken []bool)
	// States reports whether the successor takes connections that have a State or a Peer.
	States bool
}

// Load is what a generation has in hand at one moment.
type Load struct {
	Requests    int         `json:"requests_in_flight"`
	Connections Connections `json:"connections"`
}

// Connections counts connections by state.
type Connections struct {
	New    int `json:"new"`
	Active int `json:"active"`
	Idle   int `json:"idle"`
	// Hijacked are those that a handler has taken over, WebSockets for example.
	Hijacked int `json:"hijacked"`
}

// all returns how many they are together.
func (c Connections) all() int { return c.New + c.Active + c.Idle + c.Hijacked }
