package server

import (
	"cmp"
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/upgrade"
)

// Options says how connections are served. Only Handler must be set.
type Options struct {
	// Handler also gets OPTIONS *, which net/http would answer by itself.
	Handler http.Handler

	// IdleGrace is how long an idle connection that does not migrate stays open in a
	// drain. 0 means one second, a negative value no grace at all.
	IdleGrace time.Duration
	// DisableMigration closes idle connections after the grace, instead of
	// migrating them to the successor.
	DisableMigration bool
	// Resume returns what goes on with a connection that a handler in the predecessor has
	// hijacked and let migrate by [Tunnels.Migrate], or nil if that is impossible here: then
	// it stays with the predecessor. It must not block, or keep anything of the state. Nil
	// lets all such connections stay.
	Resume func(kind Tunnels, state []byte) http.Handler
	// IdleTimeout is how long a connection may stay idle between two
	// requests. 0 means 75 seconds.
	IdleTimeout time.Duration
	// ReadHeaderTimeout is how long a client may take to send a request's
	// header. 0 means 10 seconds.
	ReadHeaderTimeout time.Duration
	// ReadBodyTimeout is how long a client may pause while it sends a request's
	// body and the handler waits for it; in HTTP/2 that ends the body, not the
	// connection. A handler that sets a read deadline of its own overrules it, one of
	// zero aside.
	// 0 means one minute.
	ReadBodyTimeout time.Duration
	// WriteTimeout is how long a client may take nothing of what is written to it:
	// not how long a response takes in all. In HTTP/2 that resets the stream, or
	// closes the connection if the client reads nothing of that. It holds for hijacked
	// connections as well, and beside the write deadlines that handlers set. In a drain it
	// is a third of the drain's length, if that is less. 0 means one minute, a
	// negative value no limit.
	WriteTimeout time.Duration
	// MaxHeaderBytes bounds a request's header; a larger one is answered 431.
	// 0 means 64 KiB.
	MaxHeaderBytes int
	// MaxConnections is how many connections may be open at a time when file descriptors
	// run short, for a server that must answer then: one for operators. 0 is for all
	// others: they accept less and close idle connections, so that at least a quarter of
	// the limit (RLIMIT_NOFILE), 128 at most, is left for an upgrade and such servers.
	MaxConnections int
	// Logger gets what net/http logs. Nil means slog.Default().
	Logger *slog.Logger
}

// Server serves HTTP/1.1 and HTTP/2 on listeners that a generation has claimed, and
// accounts for every connection. It is an [upgrade.Sharer] and [upgrade.Judged]. How it
// accepts, counts and migrates is in a struct each; its own fields are what these share.
type Server struct {
	opts    Options
	http    *http.Server
	handler http.Handler
	room    room
	incoming
	registry
	totals
	migration

	isSafe func() bool // whether net/http keeps what migration relies on; asks it once
	http2  func() http2Support
	tls13  func() bool // whether crypto/tls lets another record layer go on after a handshake

	drain     atomic.Pointer[drain] // nil until it begins
	draining  chan struct{}         // closed when it has begun
	migrating chan struct{}         // closed when it has begun and connections can migrate
}

// incoming is where connections come from.
type incoming struct {
	listeners []*listener
	accepting sync.WaitGroup // one per listener between Serve and the end of its accept loop
	complete  sync.Once      // the listeners' configurations are
	adopted   *adoptions
	serving   sync.Once      // adopted is served from the first need on
	adopting  sync.WaitGroup // while adopted is served
}

// registry holds the connections from Accept to Close.
type registry struct {
	mu         sync.Mutex
	conns      map[*conn]struct{}
	population population // has a lock of its own
}

// totals are counts since the start.
type totals struct {
	acceptErrors atomic.Uint64
	accepted     atomic.Uint64
	closed       []atomic.Uint64 // by Reason
	requests     atomic.Int64    // handlers that run now
	outcomes     outcomes
	migrated     struct {
		mu      sync.Mutex
		in, out migrations
	}
}

var (
	_ upgrade.Sharer = (*Server)(nil)
	_ upgrade.Judged = (*Server)(nil)
)

// How much a client of HTTP/2 may send before it is read: of one request's body, and
// of all those of a connection. One that nobody reads must leave room for others,
// which net/http's own defaults do not: they are the same for both.
const (
	streamWindow     = 256 << 10
	connectionWindow = 4 << 20
)

// maxFrame is the size of a frame that a client may send. It is the least that
// HTTP/2 has: net/http keeps a buffer for a connection's largest one from its header
// on to the connection's end, whether the rest ever comes or not.
const maxFrame = 16 << 10

// withDefaults returns the options with the defaults of those that are not set.
func (o Options) withDefaults() Options {
	o.IdleGrace = cmp.Or(o.IdleGrace, time.Second)
	o.IdleTimeout = cmp.Or(max(o.IdleTimeout, 0), 75*time.Second)
	o.ReadHeaderTimeout = cmp.Or(max(o.ReadHeaderTimeout, 0), 10*time.Second)
	o.ReadBodyTimeout = cmp.Or(max(o.ReadBodyTimeout, 0), time.Minute)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, time.Minute)
	o.MaxHeaderBytes = cmp.Or(o.MaxHeaderBytes, 64<<10)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	return o
}

// New returns a server that has no listener yet.
func New(opts Options) *Server {
	opts = opts.withDefaults()
	s := &Server{
		opts:     opts,
		incoming: incoming{adopted: newAdoptions()},
		registry: registry{conns: make(map[*conn]struct{})},
		totals:   totals{closed: make([]atomic.Uint64, len(reasons))},
		draining: make(chan struct{}), migrating: make(chan struct{}),
	}
	s.handler = s.withRoom(opts.Handler)
	s.isSafe = sync.OnceValue(s.testSafePoint)
	s.http2 = sync.OnceValue(s.testHTTP2)
	s.tls13 = sync.OnceValue(s.testTLS13)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // also behind TLS, which net/http does not see
	h2 := &http.HTTP2Config{
		MaxReadFrameSize:              maxFrame,
		MaxReceiveBufferPerStream:     streamWindow,
		MaxReceiveBufferPerConnection: connectionWindow,
	}
	if !opts.DisableMigration {
		h2.MaxEncoderHeaderTableSize = 1 // see package streams
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		IdleTimeout:       opts.IdleTimeout,
		ReadHeaderTimeout: opts.ReadHeaderTimeout,
		MaxHeaderBytes:    opts.MaxHeaderBytes,
		Protocols:         protocols,
		// OPTIONS * counts as any other request, and ends its connection in a drain.
		DisableGeneralOptionsHandler: true,
		HTTP2:                        h2,
		ErrorLog:                     log.New(errorLog{opts.Logger}, "", 0),
		ConnState:                    func(nc net.Conn, state http.ConnState) { connOf(nc).follow(state) },
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, connOf(nc))
		},
	}
	return s
}

// Add gives the server a listener, which it owns from then on. It must be
// called before Serve.
func (s *Server) Add(ln net.Listener) {
	s.listeners = append(s.listeners, s.newListener(ln, nil))
}

// Serve begins to accept connections, and returns at once.
func (s *Server) Serve() {
	s.completeTLS()
	for _, ln := range s.listeners {
		s.accepting.Go(func() {
			if err := s.http.Serve(ln); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
				s.opts.Logger.Error("listener failed", "address", ln.Addr().String(), "error", err)
			}
		})
	}
}

// serveAdopted begins to serve adopted connections, unless it was called before.
func (s *Server) serveAdopted() {
	s.serving.Do(func() { s.adopting.Go(func() { s.http.Serve(s.adopted) }) })
}

type connKey struct{}

// Accepted returns how many connections have been accepted.
func (s *Server) Accepted() uint64 { return s.accepted.Load() }
