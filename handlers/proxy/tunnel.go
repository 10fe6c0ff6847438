package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// closeTimeout bounds the end of a WebSocket: until both directions are between
// two frames, and both peers have answered the close frame.
const closeTimeout = time.Second

// tunnel is a request that may be answered 101. httputil.ReverseProxy copies in
// both directions; the tunnel stands in between, at both ends, and follows what
// passes.
type tunnel struct {
	http.ResponseWriter
	onDrain      func(say func(context.Context)) (stop func())
	closeTimeout time.Duration

	client, backend *end // nil until the connection is upgraded
	isWebSocket     bool
	stop            func()
	copying         chan struct{} // closed when the header of the 101 has gone out
	begin           sync.Once
	over            chan struct{} // closed when nothing is copied any more
}

// newTunnel returns a tunnel for a request that asks for an upgraded connection.
func (p *proxy) newTunnel(w http.ResponseWriter, r *http.Request) *tunnel {
	return &tunnel{ResponseWriter: w, closeTimeout: p.closeTimeout, stop: func() {}, copying: make(chan struct{}), over: make(chan struct{}),
		onDrain: func(say func(context.Context)) (stop func()) {
			return p.onDrain(r.Context(), p.webSocketGrace, say)
		}}
}

// upgrade takes the backend's end of the connection from a 101.
func (t *tunnel) upgrade(response *http.Response) {
	if conn, ok := response.Body.(io.ReadWriteCloser); ok {
		t.isWebSocket = strings.EqualFold(response.Header.Get("Upgrade"), "websocket")
		t.backend = t.newEnd(conn, conn, true)
		response.Body = t.backend
	}
}

// Hijack is called by ReverseProxy, which writes the 101 and then copies.
func (t *tunnel) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil || t.backend == nil {
		return conn, buf, err
	}
	in := io.Reader(conn)
	if early := buf.Reader.Buffered(); early > 0 { // ReverseProxy does not look there
		in = io.MultiReader(io.LimitReader(buf, int64(early)), conn)
	}
	t.client = t.newEnd(conn, in, false)
	t.stop = t.onDrain(t.leave)
	return clientConn{conn, t.client}, buf, nil
}

// Unwrap lets http.ResponseController reach what the tunnel does not change.
func (t *tunnel) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// end is called when ReverseProxy has returned.
func (t *tunnel) end() {
	close(t.over)
	t.stop()
}

// leave ends the connection: a WebSocket with a close frame to both sides, between
// two messages if there is such a moment soon, else between two frames. Then, and
// any other connection at once, it is closed.
func (t *tunnel) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, t.closeTimeout)
	defer cancel()
	until, _ := ctx.Deadline()
	impatient := time.NewTimer(time.Until(until) / 2)
	defer impatient.Stop()

	var saying sync.WaitGroup
	defer saying.Wait() // a write that hangs ends when its connection is closed
	defer t.client.conn.Close()
	defer t.backend.conn.Close()
	if !t.isWebSocket {
		return
	}
	select {
	case <-t.copying:
	case <-t.over:
		return
	case <-ctx.Done():
		return
	}
	say := func(when int32) {
		for _, e := range []*end{t.client, t.backend} {
			e.when.Store(when)
			saying.Go(e.sayGoodBye)
		}
	}
	say(afterMessage)
	for _, e := range []*end{t.client, t.backend} {
		for waiting := true; waiting; {
			select {
			case <-e.closed:
				waiting = false
			case <-impatient.C:
				say(afterFrame)
			case <-t.over:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// When an end says good-bye.
const (
	afterMessage int32 = iota + 1
	afterFrame
)

// end is one end of a tunnel, as ReverseProxy sees it. What is written to it comes
// from the other end.
type end struct {
	tunnel *tunnel
	conn   io.WriteCloser
	in     io.Reader
	masked bool         // it is the backend's, to which a proxy is the client
	when   atomic.Int32 // 0 as long as it stays

	mu       sync.Mutex // held while something is written
	frames   frames     // of what comes from the other end
	said     bool       // our own close frame; what comes now goes no further
	closed   chan struct{}
	isClosed bool // the other end's close frame has come: there is no more to wait for
}

func (t *tunnel) newEnd(conn io.WriteCloser, in io.Reader, masked bool) *end {
	return &end{tunnel: t, conn: conn, in: in, masked: masked, closed: make(chan struct{})}
}

func (e *end) Read(p []byte) (int, error) {
	e.tunnel.begin.Do(func() { close(e.tunnel.copying) })
	return e.in.Read(p)
}

func (e *end) Write(p []byte) (int, error) {
	if !e.tunnel.isWebSocket {
		return e.conn.Write(p)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	pass := 0
	for pass < len(p) && !e.said && !e.mayLeave() {
		pass += e.frames.next(p[pass:])
	}
	if pass > 0 {
		if n, err := e.conn.Write(p[:pass]); err != nil {
			return n, err
		}
	}
	if err := e.leave(); err != nil {
		return pass, err
	}
	for rest := p[pass:]; len(rest) > 0; {
		rest = rest[e.frames.next(rest):]
	}
	if e.frames.closed && !e.isClosed {
		e.isClosed = true
		close(e.closed)
	}
	return len(p), nil
}

// mayLeave reports whether a close frame of our own belongs here.
func (e *end) mayLeave() bool {
	if e.said || e.frames.closed {
		return false
	}
	switch e.when.Load() {
	case afterMessage:
		return e.frames.atMessage()
	case afterFrame:
		return e.frames.atFrame()
	}
	return false
}

// leave writes the close frame, if it belongs here.
func (e *end) leave() error {
	if !e.mayLeave() {
		return nil
	}
	e.said = true
	_, err := e.conn.Write(closeFrame(goingAway, e.masked))
	return err
}

// sayGoodBye writes the close frame if nothing else is being written. Write does
// it otherwise.
func (e *end) sayGoodBye() {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.leave() // ReverseProxy will see it
}

// CloseWrite is called when the other end has closed its side.
func (e *end) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.when.CompareAndSwap(afterMessage, afterFrame) { // no more of the message will come
		_ = e.leave()
	}
	if conn, ok := e.conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (e *end) Close() error { return e.conn.Close() }

// clientConn is the client's end as Hijack returns it.
type clientConn struct {
	net.Conn
	end *end
}

func (c clientConn) Read(p []byte) (int, error) { return c.end.Read(p) }

func (c clientConn) Write(p []byte) (int, error) { return c.end.Write(p) }

func (c clientConn) CloseWrite() error { return c.end.CloseWrite() }
