package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/baton/handlers/internal/reply"
	"example.com/baton/handlers/internal/request"
	"example.com/baton/handlers/proxy/internal/pool"
	"golang.org/x/net/http/httpguts"
)

// Options configure a Proxy.
type Options struct {
	Rules         []Rule        // several with the same prefix: several backends; see CheckRules
	Wait          time.Duration // how long a request waits for a backend that accepts connections; 0: not at all
	HealthPath    string        // asked of each backend every 2 s; empty: none is
	HeaderTimeout time.Duration // until the backend has sent its response header; 0 means 60 s
	MaxBody       int64         // bytes of a request's body, beyond which it is answered 413; 0 means 1 GiB
	Logger        *slog.Logger  // nil means slog.Default
	Next          http.Handler  // answers what no rule covers; nil answers 404

	// OnDrain registers what is done when the server drains: server.OnDrain.
	// Nil: WebSockets and event streams are closed forcibly like all else.
	OnDrain        func(ctx context.Context, grace time.Duration, hook func(context.Context)) (stop func())
	Tunnels        Tunnels       // lets upgraded connections migrate; nil: they do not
	WebSocketGrace time.Duration // how long upgraded connections stay in a drain; 0 means until shortly before its end
	StreamGrace    time.Duration // how long event streams do; 0 as well

	closeTimeout time.Duration // of tests; 0 means the constant
}

// New passes requests on by the rule with the longest prefix. A path that a backend
// might resolve to one that this rule does not cover, or another rule does, is answered
// 400: see readings. What a rule covers differs in upper and lower case, also for
// backends to which both are the same.
//
// The backend sees the client's own Host, query and escapes, X-Forwarded-For,
// -Host and -Proto set afresh, and the request id of Log. Fields whose names have
// other characters than letters, digits and hyphens are dropped, as nginx does, and
// so are trailers that were not declared or must not be trailers. As with most
// reverse proxies no Via is added, and Max-Forwards passes. To responses
// nothing is added but the request id, not even a Date. They are flushed as they
// come. Upgrades that the client has asked for pass, WebSockets among them, but for
// those to HTTP/2 and TLS. A response that breaks off at the backend breaks off at
// the client too.
//
// Of several backends the one with the fewest requests in progress gets a request. If none
// accepts a connection, or is healthy, the request waits for one, for Wait at most; at most 1,000
// requests wait, and at most 64 KiB of the body of each. A request of which no byte was sent goes
// to the next backend. One that was sent, but has got no byte of a response, is repeated if its
// method is idempotent and its body is still there. Nothing else is sent twice.
//
// When there is no backend the answer is 503 with Retry-After. One that loses the connection or
// answers nonsense is a 502; one that takes no connection within 5 s, or sends no response header
// in time, a 504. A client that goes away is none of these.
//
// In a drain WebSockets and other upgraded connections that do not migrate go on for WebSocketGrace.
// Then both sides of a WebSocket get a close frame with status 1001, between two
// frames, and have a moment to answer it; other connections are just closed. A
// response of type text/event-stream goes on for StreamGrace, and then ends in
// order, between two events, so that its reader connects to the successor.
//
// Backends are spoken to in HTTP/1.1. What they may send, for how long and how
// slowly, is not limited: only the client and the drain deadline end it.
//
// New panics if CheckRules fails. The Proxy should be closed when it serves no more.
func New(options Options) *Proxy {
	if err := CheckRules(options.Rules); err != nil {
		panic(err)
	}
	options.Logger = cmp.Or(options.Logger, slog.Default())
	options.MaxBody = cmp.Or(options.MaxBody, 1<<30)
	options.HeaderTimeout = cmp.Or(options.HeaderTimeout, time.Minute)
	options.closeTimeout = cmp.Or(options.closeTimeout, closeTimeout)
	if options.OnDrain == nil {
		options.OnDrain = func(context.Context, time.Duration, func(context.Context)) func() { return func() {} }
	}
	p := &Proxy{opts: options}
	errorLog := slog.NewLogLogger(options.Logger.Handler(), slog.LevelWarn)
	groups := p.addRules()
	for i := range p.routes {
		route := &p.routes[i]
		route.bases, _ = readings(route.base())
		route.backend = &httputil.ReverseProxy{
			Rewrite:        route.rewrite,
			ModifyResponse: p.receive,
			ErrorHandler:   p.fail,
			Transport:      balanced{groups[i]},
			BufferPool:     copyBuffers{},
			ErrorLog:       errorLog,
		}
	}
	return p
}

// Proxy is a handler that passes requests on.
type Proxy struct {
	opts     Options // with the defaults
	pool     *pool.Pool
	names    []string   // of the backends, in the order of the pool
	prefixes [][]string // that lead to them
	routes   []route    // one for each prefix, the longest first
}

// route is where the requests below a prefix go.
type route struct {
	Rule             // the first with this prefix
	bases   []string // the readings of what replaces the prefix
	backend *httputil.ReverseProxy
}

// ServeHTTP passes the request on.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if i := p.covering(r.URL.Path); i >= 0 {
		if status, reason := p.refusal(i, r); reason != "" {
			reply.Error(w, r, status, reason)
			return
		}
		p.pass(p.routes[i].backend, w, r)
		return
	}
	if slices.ContainsFunc(p.routes, func(route route) bool { return route.Prefix == r.URL.Path+"/" }) {
		to := r.URL.EscapedPath() + "/"
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		http.Redirect(w, r, to, http.StatusPermanentRedirect)
		return
	}
	if p.opts.Next == nil {
		reply.Error(w, r, http.StatusNotFound, "not found")
		return
	}
	p.opts.Next.ServeHTTP(w, r)
}

// refusal returns why no backend may get a request that the route i covers, and the status that says
// so. An empty reason means that one may.
func (p *Proxy) refusal(i int, r *http.Request) (status int, reason string) {
	switch {
	case !p.keeps(i, r.URL):
		return http.StatusBadRequest, "path is ambiguous: it may lead elsewhere"
	case unspeakable(r):
		return http.StatusBadRequest, "method, host or query has characters that none can have"
	case r.ProtoAtLeast(1, 1) && upgradeOf(r.Header) != "" && !validUpgrade(r.Header["Upgrade"]):
		return http.StatusBadRequest, "Upgrade is not a list of protocols"
	case r.ContentLength > p.opts.MaxBody:
		return http.StatusRequestEntityTooLarge, "request body is too large"
	}
	return 0, ""
}

// pass lets a backend answer a request.
func (p *Proxy) pass(backend *httputil.ReverseProxy, w http.ResponseWriter, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) {
		r.Header.Del("Upgrade") // to be ignored: RFC 9110, section 7.8
	}
	if r.ContentLength < 0 { // it tells its length only by its end
		r.Body = http.MaxBytesReader(w, r.Body, p.opts.MaxBody)
	}
	// The backend speaks for itself; receive and fail put back what is ours.
	w.Header().Del("Server")
	w.Header().Del(request.IDHeader)
	if r.ContentLength != 0 {
		// Else net/http takes what is left of the body for itself when the
		// backend begins to answer, and the backend never gets it. Other
		// protocols than HTTP/1 need no such thing.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	w = newInterimWriter(w, r)
	x := &exchange{writer: w}
	defer func() { x.lease.End() }()
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	if upgradeOf(r.Header) == "" {
		backend.ServeHTTP(w, r)
		return
	}
	u := p.propose(w, r)
	defer u.end()
	x.writer = u
	backend.ServeHTTP(u, r)
	u.settle()
}

// keeps reports whether a path that the route i covers is still covered after the
// backend has resolved it, whatever it makes of dots, escapes and the like.
// Otherwise a client could reach what another rule, or none, is for.
func (p *Proxy) keeps(i int, u *url.URL) bool {
	rule := p.routes[i]
	if len(p.routes) == 1 && rule.Prefix == "/" && rule.path() == "" {
		return true // there is nowhere else
	}
	rest := rule.rest(u)
	if isLiteral(rest) {
		return true
	}
	paths, ok := readings(join((&url.URL{Path: rule.Prefix}).EscapedPath(), rest))
	if !ok || slices.ContainsFunc(paths, func(path string) bool { return p.covering(decodeInElements(path)) != i }) {
		return false
	}
	if rule.path() == "" {
		return true
	}
	paths, ok = readings(join(rule.base(), rest))
	return ok && !slices.ContainsFunc(paths, func(path string) bool {
		return !slices.ContainsFunc(rule.bases, func(base string) bool { return covers(base, path) })
	})
}

// covering returns the index of the route that covers path, -1 if none does.
func (p *Proxy) covering(path string) int {
	return slices.IndexFunc(p.routes, func(route route) bool { return route.covers(path) })
}

// exchange is in the context of a request to a backend.
type exchange struct {
	writer http.ResponseWriter
	lease  pool.Lease // of the backend that has answered
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

// receive takes a backend's response. It lets it carry Baton's request id and no second
// one, and nothing else that the backend has not sent.
func (p *Proxy) receive(response *http.Response) error {
	w := exchangeOf(response.Request).writer
	if code := response.StatusCode; code < 100 || code > 599 { // RFC 9110, section 15: invalid
		return fmt.Errorf("backend answers with status code %03d", code)
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		asked, got := upgradeOf(response.Request.Header), upgradeOf(response.Header)
		u, ok := w.(*proposal)
		if !ok || got == "" || !httpguts.HeaderValuesContainsToken([]string{asked}, got) {
			return fmt.Errorf("backend switches to protocol %q, want %q", got, asked)
		}
		protocol := response.Header["Upgrade"]
		response.Request.Header["Upgrade"] = protocol // the one of several: httputil compares
		removeHopByHop(response.Header)
		response.Header["Connection"], response.Header["Upgrade"] = []string{"Upgrade"}, protocol
		u.accept(response)
	} else {
		flushBeforeWait(response, w)
		removeTrailers(response)
		p.follow(response, w)
		response.ContentLength = max(0, response.ContentLength) // else httputil would flush after each part
		// As net/http would for a handler, who is the origin of what it writes. A
		// name without values keeps it from adding any.
		for _, name := range []string{"Content-Type", "Content-Length", "Date"} {
			if _, sent := response.Header[name]; !sent {
				w.Header()[name] = nil
			}
		}
	}
	if id := response.Request.Header.Get(request.IDHeader); id != "" {
		response.Header.Set(request.IDHeader, id)
	}
	return nil
}

// upgradeOf returns the protocol that a header asks for or switches to, "" if none.
func upgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// retryAfter is when a client should ask again that has found no backend, in seconds.
const retryAfter = "5"

// fail answers a request for which the backend has no response.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	ctx := r.Context()
	body, _ := r.Body.(*clientBody)
	failed := body.failure()
	if body != nil {
		body.Close() // nobody wants the rest
	}
	var tooLarge *http.MaxBytesError
	if errors.As(failed, &tooLarge) {
		reply.Error(w, r, http.StatusRequestEntityTooLarge, "request body is too large")
		return
	}
	if failed != nil && ctx.Err() == nil && !errors.Is(failed, os.ErrDeadlineExceeded) { // the client is there, and what it sends is no body
		reply.Error(w, r, http.StatusBadRequest, "request body is malformed, or not as long as declared")
		return
	}
	if errors.Is(ctx.Err(), context.Canceled) || failed != nil {
		p.opts.Logger.DebugContext(ctx, "client went away", "path", request.Shorten(r.URL.Path), "error", err,
			"request_id", r.Header.Get(request.IDHeader))
		panic(http.ErrAbortHandler) // there is nobody to answer
	}
	code, message := http.StatusBadGateway, "the application behind this server does not answer"
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		code, message = http.StatusGatewayTimeout, "the application behind this server did not answer in time"
	}
	backend := exchangeOf(r).lease.Backend()
	var failure *pool.Error
	if errors.As(err, &failure) {
		backend = failure.Backend
		if failure.Absent {
			code, message = http.StatusServiceUnavailable, "the application behind this server is not there at the moment"
			w.Header().Set("Retry-After", retryAfter)
		}
	}
	p.opts.Logger.WarnContext(ctx, "backend failed", "backend", backend, "path", request.Shorten(r.URL.Path), "status", code,
		"error", err, "request_id", r.Header.Get(request.IDHeader))
	reply.Error(w, r, code, message)
}

// unspeakable reports whether HTTP/1.1, which the backends speak, has no words for a
// request. net/http sees to that when it reads HTTP/1.1, but not HTTP/2: with a space
// in its query a client could tell backends another version, or confuse them.
func unspeakable(r *http.Request) bool {
	return !httpguts.ValidHeaderFieldName(r.Method) /* a token as well */ || !httpguts.ValidHostHeader(r.Host) ||
		strings.Contains(r.URL.RawQuery, " ")
}

// dotted reports whether path has an element `.` or `..`.
func dotted(path string) bool {
	for element := range strings.SplitSeq(path, "/") {
		if element == "." || element == ".." {
			return true
		}
	}
	return false
}

// clientBody remembers that reading the request's body failed, which is the
// client's doing, not the backend's.
type clientBody struct {
	io.ReadCloser
	mu  sync.Mutex // the transport may still read when fail asks
	err error
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, http.ErrBodyReadAfterClose) { // the transport may close it amid a Read
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

func (b *clientBody) failure() error {
	if b == nil {
		return nil // the request has no body
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// copyBuffers lends the buffers that bodies are copied through.
type copyBuffers struct{}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (copyBuffers) Get() []byte { return buffers.Get().(*[32 << 10]byte)[:] }

func (copyBuffers) Put(b []byte) { buffers.Put((*[32 << 10]byte)(b)) }
