package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.com/baton/handlers/internal/recorder"
	"example.com/baton/handlers/proxy/internal/transport"
)

// tunnel is an upgraded connection: two ends, and a pipe in each direction.
type tunnel struct {
	proxy       *Proxy
	client      *end // nil until the connection is upgraded
	backend     *end
	toClient    pipe
	toBackend   pipe
	isWebSocket bool
	halting     atomic.Bool   // the pipes are to return
	leaving     atomic.Bool   // the drain hook has been called
	over        chan struct{} // closed when nothing is copied any more
	stop        func()        // removes the drain hook
}

func (p *Proxy) newTunnel() *tunnel { return &tunnel{proxy: p, over: make(chan struct{})} }

// connect sets the ends, and the pipes between them. From then on end must be called.
func (t *tunnel) connect(ctx context.Context, client, backend *end, isWebSocket bool) {
	t.client, t.backend, t.isWebSocket = client, backend, isWebSocket
	t.toClient.connect(t, backend, client)
	t.toBackend.connect(t, client, backend)
	t.toBackend.masked = true
	t.stop = t.proxy.opts.OnDrain(ctx, t.proxy.opts.WebSocketGrace, t.leave)
}

func (t *tunnel) pipes() [2]*pipe { return [2]*pipe{&t.toClient, &t.toBackend} }

// serve copies in both directions until the tunnel ends here, and reports to w what has gone to the
// client.
func (t *tunnel) serve(ctx context.Context, w http.ResponseWriter) {
	for patience := time.Duration(0); t.copy(ctx, patience); patience = migratePause {
		if t.migrate(ctx) {
			return
		}
		t.resume()
	}
	recorder.AddBytes(w, t.toClient.Written)
}

// copy copies in both directions until the tunnel ends, and then returns false, or until it
// can migrate, at the earliest after patience.
func (t *tunnel) copy(ctx context.Context, patience time.Duration) (halted bool) {
	c := copying{results: make(chan result, 2)}
	for _, p := range t.pipes() {
		c.start(p)
	}
	gone, due, stuck := ctx.Done(), time.NewTimer(patience), time.NewTimer(haltPatience)
	defer due.Stop()
	defer stuck.Stop()
	stuck.Stop()
	var migrating <-chan struct{}
	failed := false
	for c.running > 0 {
		select {
		case r := <-c.results:
			c.running--
			switch {
			case errors.Is(r.err, errHalted) && t.halting.Load():
				c.halted = append(c.halted, r.pipe)
			case errors.Is(r.err, errHalted): // too late
				c.start(r.pipe)
			case r.err != nil:
				failed = true
				t.close() // the other pipe ends by that
			}
		case <-due.C:
			migrating = t.migrating(ctx)
		case <-migrating:
			migrating = nil
			t.halt()
			stuck.Reset(haltPatience)
		case <-stuck.C:
			t.resume()
			c.restart()
			due.Reset(migratePause)
		case <-gone:
			gone, failed = nil, true
			t.close()
		}
	}
	return len(c.halted) > 0 && !failed
}

// haltPatience is how long one direction waits for the other to be halted: a record of TLS that
// the client has taken a part of must be written first.
const haltPatience = time.Second

// copying are the pipes of a tunnel that run, and those that were halted.
type copying struct {
	results chan result
	running int
	halted  []*pipe
}

type result struct {
	pipe *pipe
	err  error
}

func (c *copying) start(p *pipe) {
	c.running++
	go func() { c.results <- result{p, p.run()} }()
}

func (c *copying) restart() {
	for _, p := range c.halted {
		c.start(p)
	}
	c.halted = nil
}

// end ends a tunnel that does not copy any more.
func (t *tunnel) end() {
	t.close()
	close(t.over)
	t.stop()
}

// close closes both ends: copies of them, if the tunnel has migrated.
func (t *tunnel) close() {
	t.client.Close()
	t.backend.Close()
}

// proposal is a request that may be answered 101, until it is.
type proposal struct {
	http.ResponseWriter
	tunnel  *tunnel
	request *http.Request

	backend     *end   // nil until it has answered 101
	fromBackend []byte // that has come behind the 101
	isWebSocket bool
}

// propose returns what answers a request that asks for an upgrade.
func (p *Proxy) propose(w http.ResponseWriter, r *http.Request) *proposal {
	return &proposal{ResponseWriter: w, tunnel: p.newTunnel(), request: r}
}

// accept takes the connection to the backend from a 101.
func (u *proposal) accept(response *http.Response) {
	body, ok := response.Body.(*transport.Upgraded)
	if !ok {
		return
	}
	u.backend, u.fromBackend = &end{Conn: body.Conn}, body.Early
	switch body.Conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		u.backend.patience, u.backend.isSocket = u.tunnel.proxy.opts.HeaderTimeout, true
	}
	u.isWebSocket = strings.EqualFold(response.Header.Get("Upgrade"), "websocket")
	response.Body = nothing{}
}

// Hijack is called by ReverseProxy, which then writes the 101. It has nothing to copy after that.
func (u *proposal) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil || u.backend == nil {
		return conn, buf, err
	}
	u.tunnel.connect(u.request.Context(), &end{Conn: conn}, u.backend, u.isWebSocket)
	early, _ := buf.Peek(buf.Reader.Buffered())
	u.tunnel.toBackend.Held, u.tunnel.toClient.Held = slices.Clone(early), u.fromBackend
	return hijacked{conn}, buf, nil
}

// Unwrap lets http.ResponseController reach what the proposal does not change.
func (u *proposal) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// settle is called when ReverseProxy has returned. The tunnel begins, if there is one.
func (u *proposal) settle() {
	if u.tunnel.client != nil {
		u.tunnel.serve(u.request.Context(), u.ResponseWriter)
	}
}

// end ends the tunnel, or closes what is left of one that has not begun.
func (u *proposal) end() {
	switch {
	case u.tunnel.client != nil:
		u.tunnel.end()
	case u.backend != nil:
		u.backend.Close()
	}
}

// nothing is what ReverseProxy reads from a backend whose connection is the tunnel's.
type nothing struct{}

func (nothing) Read([]byte) (int, error)    { return 0, io.EOF }
func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Close() error                { return nil }

// hijacked is what it has of the client's connection.
type hijacked struct{ net.Conn }

func (hijacked) Read([]byte) (int, error) { return 0, io.EOF }
func (hijacked) CloseWrite() error        { return nil }
func (hijacked) Close() error             { return nil }
