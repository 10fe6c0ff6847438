package proxy

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"
)

// Tunnels lets the connections of tunnels migrate: [example.com/baton/server.Tunnels].
type Tunnels interface {
	// Migrating returns a channel that is closed when the connection can migrate, nil if it
	// never can.
	Migrating(context.Context) <-chan struct{}
	// Migrate reports whether a successor goes on with the connection and its peer.
	Migrate(ctx context.Context, peer net.Conn, state []byte) (taken bool)
	// Peer returns the peer of a connection that has migrated.
	Peer(context.Context) net.Conn
}

// migratePause is how long a tunnel goes on that was not taken, until it is offered again.
const migratePause = 250 * time.Millisecond

// tunnelState is what a successor needs to go on with a tunnel.
type tunnelState struct {
	WebSocket bool `json:"websocket"`
	ToClient  flow `json:"to_client"`
	ToBackend flow `json:"to_backend"`
}

// migrating returns a channel that is closed when the tunnel can migrate, nil if it cannot.
func (t *tunnel) migrating(ctx context.Context) <-chan struct{} {
	if t.proxy.opts.Tunnels == nil || !t.backend.isSocket || t.leaving.Load() {
		return nil
	}
	return t.proxy.opts.Tunnels.Migrating(ctx)
}

// halt lets the pipes return, with what they hold.
func (t *tunnel) halt() {
	t.halting.Store(true)
	t.client.halt()
	t.backend.halt()
}

// resume lets them run again.
func (t *tunnel) resume() {
	t.halting.Store(false)
	t.client.resume()
	t.backend.resume()
}

// migrate reports whether a successor goes on with the tunnel, which is halted.
func (t *tunnel) migrate(ctx context.Context) (taken bool) {
	if t.leaving.Load() || !t.toClient.isAtRest() || !t.toBackend.isAtRest() {
		return false
	}
	state, err := json.Marshal(tunnelState{t.isWebSocket, t.toClient.flow, t.toBackend.flow})
	return err == nil && t.proxy.opts.Tunnels.Migrate(ctx, t.backend.Conn, state)
}

// Resume returns what gives handlers for the tunnels of a predecessor, to whatever backends, or
// nil for one that is not understood. Only Logger, HeaderTimeout, OnDrain, Tunnels and
// WebSocketGrace of the options count.
func Resume(options Options) func(state []byte) http.Handler {
	options.Rules = nil
	p := New(options)
	return func(encoded []byte) http.Handler {
		var s tunnelState
		if json.Unmarshal(encoded, &s) != nil || !s.ToClient.isValid() || !s.ToBackend.isValid() {
			return nil
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.resume(w, r, s) })
	}
}

func (p *Proxy) resume(w http.ResponseWriter, r *http.Request, s tunnelState) {
	peer := p.opts.Tunnels.Peer(r.Context())
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil || peer == nil {
		panic(http.ErrAbortHandler)
	}
	t := p.newTunnel()
	t.connect(r.Context(), &end{Conn: conn}, &end{Conn: peer, patience: p.opts.HeaderTimeout, isSocket: true}, s.WebSocket)
	t.toClient.resume(s.ToClient)
	t.toBackend.resume(s.ToBackend)
	defer t.end()
	t.serve(r.Context(), w)
}
