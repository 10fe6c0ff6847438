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
	"golang.org/x/net/http/httpguts"
)

// Options configure Proxy.
type Options struct {
	Rules         []Rule
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
// so are trailers that were not declared or must not be trailers. To responses
// nothing is added but the request id, not even a Date. They are flushed as they
// come. Upgrades that the client has asked for pass, WebSockets among them, but for
// those to HTTP/2 and TLS. A response that breaks off at the backend breaks off at
// the client too.
//
// A backend that cannot be reached or answers nonsense is a 502; one that takes
// no connection within 5 s, or sends no response header in time, a 504. A client
// that goes away is neither.
//
// In a drain WebSockets and other upgraded connections that do not migrate go on for WebSocketGrace.
// Then both sides of a WebSocket get a close frame with status 1001, between two
// frames, and have a moment to answer it; other connections are just closed. A
// response of type text/event-stream goes on for StreamGrace, and then ends in
// order, between two events, so that its reader connects to the successor.
//
// Backends are spoken to in HTTP/1.1. What they may send, for how long and how
// slowly, is not limited: only the client and the drain deadline end it.
func New(options Options) http.Handler { return newProxy(options) }

func newProxy(options Options) *proxy {
	logger := cmp.Or(options.Logger, slog.Default())
	rules := slices.Clone(options.Rules)
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })

	p := &proxy{rules: rules, maxBody: cmp.Or(options.MaxBody, 1<<30), logger: logger, next: options.Next,
		headerTimeout: cmp.Or(options.HeaderTimeout, time.Minute),
		onDrain:       options.OnDrain, tunnels: options.Tunnels, webSocketGrace: options.WebSocketGrace, streamGrace: options.StreamGrace,
		closeTimeout: cmp.Or(options.closeTimeout, closeTimeout)}
	if p.onDrain == nil {
		p.onDrain = func(context.Context, time.Duration, func(context.Context)) func() { return func() {} }
	}
	errorLog := slog.NewLogLogger(logger.Handler(), slog.LevelWarn)
	for _, rule := range rules {
		bases, _ := readings(rule.base())
		p.bases = append(p.bases, bases)
		p.backends = append(p.backends, &httputil.ReverseProxy{
			Rewrite:        rule.rewrite,
			ModifyResponse: p.receive,
			ErrorHandler:   p.fail,
			Transport:      repeating{rule.newTransport(p.headerTimeout)},
			BufferPool:     copyBuffers{},
			ErrorLog:       errorLog,
		})
	}
	return p
}

type proxy struct {
	rules    []Rule     // longest prefix first
	bases    [][]string // the readings of what replaces their prefixes
	backends []*httputil.ReverseProxy
	maxBody  int64
	logger   *slog.Logger
	next     http.Handler

	headerTimeout               time.Duration
	tunnels                     Tunnels
	onDrain                     func(context.Context, time.Duration, func(context.Context)) (stop func())
	webSocketGrace, streamGrace time.Duration
	closeTimeout                time.Duration
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if i := p.covering(path); i >= 0 {
		if !p.keeps(i, r.URL) {
			reply.Error(w, r, http.StatusBadRequest, "path is ambiguous: it may lead elsewhere")
			return
		}
		if unspeakable(r) {
			reply.Error(w, r, http.StatusBadRequest, "method, host or query has characters that none can have")
			return
		}
		if !r.ProtoAtLeast(1, 1) {
			r.Header.Del("Upgrade") // to be ignored: RFC 9110, section 7.8
		} else if upgradeOf(r.Header) != "" && !validUpgrade(r.Header["Upgrade"]) {
			reply.Error(w, r, http.StatusBadRequest, "Upgrade is not a list of protocols")
			return
		}
		if r.ContentLength > p.maxBody {
			reply.Error(w, r, http.StatusRequestEntityTooLarge, "request body is too large")
			return
		} else if r.ContentLength < 0 { // it tells its length only by its end
			r.Body = http.MaxBytesReader(w, r.Body, p.maxBody)
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
		if upgradeOf(r.Header) == "" {
			p.backends[i].ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), writerKey{}, w)))
			return
		}
		u := p.propose(w, r)
		defer u.end()
		p.backends[i].ServeHTTP(u, r.WithContext(context.WithValue(r.Context(), writerKey{}, u)))
		u.settle()
		return
	}
	for _, rule := range p.rules {
		if rule.Prefix == path+"/" {
			to := r.URL.EscapedPath() + "/"
			if r.URL.RawQuery != "" {
				to += "?" + r.URL.RawQuery
			}
			http.Redirect(w, r, to, http.StatusPermanentRedirect)
			return
		}
	}
	if p.next == nil {
		reply.Error(w, r, http.StatusNotFound, "not found")
		return
	}
	p.next.ServeHTTP(w, r)
}

// keeps reports whether a path that the rule i covers is still covered after the
// backend has resolved it, whatever it makes of dots, escapes and the like.
// Otherwise a client could reach what another rule, or none, is for.
func (p *proxy) keeps(i int, u *url.URL) bool {
	rule := p.rules[i]
	if len(p.rules) == 1 && rule.Prefix == "/" && rule.Target.Path == "" {
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
	if rule.Target.Path == "" {
		return true
	}
	paths, ok = readings(join(rule.base(), rest))
	return ok && !slices.ContainsFunc(paths, func(path string) bool {
		return !slices.ContainsFunc(p.bases[i], func(base string) bool { return covers(base, path) })
	})
}

// covering returns the index of the rule that covers path, -1 if none does.
func (p *proxy) covering(path string) int {
	return slices.IndexFunc(p.rules, func(rule Rule) bool { return rule.covers(path) })
}

// writerKey is that of the ResponseWriter in the context of the request to a backend.
type writerKey struct{}

// receive takes a backend's response. It lets it carry Baton's request id and no second
// one, and nothing else that the backend has not sent.
func (p *proxy) receive(response *http.Response) error {
	w := response.Request.Context().Value(writerKey{}).(http.ResponseWriter)
	if code := response.StatusCode; code < 100 || code > 599 { // RFC 9110, section 15: invalid
		return fmt.Errorf("backend answers with status code %03d", code)
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		asked, got := upgradeOf(response.Request.Header), upgradeOf(response.Header)
		u, ok := w.(*proposal)
		if !ok || asked == "" || !strings.EqualFold(asked, got) {
			return fmt.Errorf("backend switches to protocol %q, want %q", got, asked)
		}
		protocol := response.Header["Upgrade"]
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

// fail answers a request for which the backend has no response.
func (p *proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
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
		p.logger.DebugContext(ctx, "client went away", "path", request.Shorten(r.URL.Path), "error", err,
			"request_id", r.Header.Get(request.IDHeader))
		panic(http.ErrAbortHandler) // there is nobody to answer
	}
	code, message := http.StatusBadGateway, "the application behind this server does not answer"
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		code, message = http.StatusGatewayTimeout, "the application behind this server did not answer in time"
	}
	p.logger.WarnContext(ctx, "backend failed", "backend", r.URL.Host, "path", request.Shorten(r.URL.Path), "status", code,
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
