package transport

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"sync"
	"time"
)

const (
	dialTimeout     = 5 * time.Second // for the TLS handshake once more
	continueTimeout = time.Second     // until a body is sent without a 100
	idleTimeout     = 4 * time.Second
	maxIdle         = 256
	maxHeader       = 1 << 20 // bytes of a response's header, and of each interim one's
)

// Options say where the backend is.
type Options struct {
	Network string      // "tcp" or "unix"
	Address string      // host and port, or the path of the socket
	TLS     *tls.Config // nil: plaintext; else with a ServerName

	// HeaderTimeout is how long a backend may take to send its final response header once it has the
	// request, and how long it may take nothing of what is being sent to it. It must be positive.
	HeaderTimeout time.Duration

	Logger *slog.Logger // for what a backend sends that belongs to no response; nil means slog.Default
}

// Transport sends requests to one backend.
type Transport struct {
	options Options
	dialer  net.Dialer
	idle    idle
}

// New returns a transport that has no connection yet.
func New(options Options) *Transport {
	options.Logger = cmp.Or(options.Logger, slog.Default())
	t := &Transport{options: options, dialer: net.Dialer{Timeout: dialTimeout}}
	t.idle.unsolicited = t.unsolicited
	return t
}

// unsolicited reports what belongs to no response: maybe the end of one that was longer than its
// header has said. A 408 is none of this: the backend has waited for a request long enough.
func (t *Transport) unsolicited(bytes []byte) {
	if len(bytes) == 0 || is408.Match(bytes) {
		return
	}
	t.options.Logger.Warn("backend sent bytes that belong to no response", "backend", t.options.Address, "begin", string(bytes))
}

var is408 = regexp.MustCompile(`^HTTP/1\.. 408`)

// RoundTrip sends the request, whose URL gives nothing but the path and query, and the Host if the
// request has none. It follows [http.RoundTripper]; the request's body is closed, maybe after
// RoundTrip has returned.
//
// Of the hooks of httptrace only Got1xxResponse is called. A request with Expect: 100-continue gets one
// 100 before its body is read: the backend's or, if nothing has come after a second, the transport's own,
// from another goroutine. If it is answered instead, its body is not read.
//
// An error's progress is given by [ProgressOf]. On an idle connection that turns out to be dead
// before a byte was written to it, the request goes to another one by itself.
//
// Bodies of responses have a method BeforeWait(func()): it sets what Read calls before it waits for
// the backend. The body of a 101 is an [*Upgraded].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	buffer := headerBuffers.Get().(*[]byte)
	defer headerBuffers.Put(buffer)
	header, err := appendHeader((*buffer)[:0], r)
	if cap(header) <= maxHeaderBuffer {
		*buffer = header
	}
	if err != nil {
		closeBody(r)
		return nil, &progressError{Aborted, fmt.Errorf("write request: %w", err)}
	}
	for {
		c := t.idle.take(time.Now())
		reused := c != nil
		if !reused {
			if c, err = t.dial(r.Context()); err != nil {
				closeBody(r)
				return nil, err
			}
		}
		response, sending, err := t.exchange(c, r, header)
		if err != nil && reused && ProgressOf(err) == Unsent {
			continue
		}
		if !sending {
			closeBody(r)
		}
		return response, err
	}
}

// maxHeaderBuffer is the size up to which a buffer is kept for further requests.
const maxHeaderBuffer = 16 << 10

var headerBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// Probe connects to the backend, and keeps the connection as an idle one.
func (t *Transport) Probe(ctx context.Context) error {
	c, err := t.dial(ctx)
	if err != nil {
		return err
	}
	t.idle.keep(c, time.Now())
	return nil
}

// KeepIdle says whether connections may be idle, as they may at first. If not, those that are, are closed, and those in
// use when they become idle.
func (t *Transport) KeepIdle(keep bool) { t.idle.accept(keep) }

// dial returns a new connection. Its errors have a progress.
func (t *Transport) dial(ctx context.Context) (*conn, error) {
	socket, err := t.dialer.DialContext(ctx, t.options.Network, t.options.Address)
	if err != nil {
		return nil, dialError(ctx, Unreached, err)
	}
	c := &conn{patient: patient{Conn: socket, timeout: t.options.HeaderTimeout}, idleTimeout: idleTimeout}
	c.stream = &c.patient
	c.in = bufio.NewReader(c)
	c.abort = func() { socket.Close() }
	if err := c.socket.open(socket); err != nil {
		socket.Close()
		return nil, &progressError{Unreached, err}
	}
	if t.options.TLS == nil {
		return c, nil
	}
	secure := tls.Client(&c.patient, t.options.TLS)
	c.stream, c.secure = secure, true
	limited, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := secure.HandshakeContext(limited); err != nil {
		socket.Close()
		return nil, dialError(ctx, Unsent, fmt.Errorf("TLS handshake: %w", err))
	}
	return c, nil
}

func dialError(ctx context.Context, progress Progress, err error) error {
	if ctx.Err() != nil {
		return &progressError{Aborted, context.Cause(ctx)}
	}
	return &progressError{progress, err}
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// Upgraded is the body of a 101: the connection, and what has come behind the response. Whoever
// has it owns both.
type Upgraded struct {
	net.Conn        // a *net.TCPConn, *net.UnixConn or *tls.Conn, without deadlines
	Early    []byte // to be read first
}

// Read returns what has come early, and then reads from the connection.
func (u *Upgraded) Read(p []byte) (int, error) {
	if len(u.Early) > 0 {
		n := copy(p, u.Early)
		u.Early = u.Early[n:]
		return n, nil
	}
	return u.Conn.Read(p)
}

var errHeaderTooLarge = fmt.Errorf("header is larger than %d bytes", maxHeader)
