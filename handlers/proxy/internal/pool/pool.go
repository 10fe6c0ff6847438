package pool

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"example.com/baton/handlers/proxy/internal/transport"
)

// MaxWaiting bounds the requests of a pool that wait at a time.
const MaxWaiting = 1000

// Transport sends requests to one backend.
type Transport interface {
	// RoundTrip is that of http.RoundTripper. ProgressOf says how far a request has got that
	// fails.
	RoundTrip(*http.Request) (*http.Response, error)
	// Probe reports why the backend accepts no connection, nil if it does.
	Probe(context.Context) error
	// KeepIdle says whether connections may be idle; if not, those that are, are closed. It is called with the lock of
	// the pool held, and must not block.
	KeepIdle(bool)
}

// Options configure a Pool.
type Options struct {
	Backends   []Backend
	Wait       time.Duration // how long a request waits for a backend that is up; 0: not at all
	HealthPath string        // asked of each backend every 2 s; empty: none is
	Logger     *slog.Logger  // nil means slog.Default
}

// Backend is one of a pool.
type Backend struct {
	Name      string // is logged
	URL       string // scheme and host, for requests of its health path
	Transport Transport
}

// Pool is a set of backends.
type Pool struct {
	wait       time.Duration
	healthPath string
	logger     *slog.Logger
	ctx        context.Context // of the goroutines
	cancel     context.CancelFunc
	goroutines sync.WaitGroup
	progressOf func(error) transport.Progress // transport.ProgressOf, but in tests

	mu       sync.Mutex
	closed   bool
	backends []*backend
	waiting  int
	changed  chan struct{} // is closed when a request that waits may find a backend
}

// backend is guarded by the mutex of its pool, but for what does not change.
type backend struct {
	Backend
	standing
	inProgress int
	keeps      bool          // it keeps connections open
	waiting    int           // requests for which it is one of those that they wait for
	probing    bool          // a prober runs
	hurry      chan struct{} // has a value when that is to go by waiting again
	probed     time.Time     // when it last failed, or was probed
	reason     error         // the last failure to get at it
	requests   map[int]uint64
	errors     uint64
}

// New returns a pool of options.Backends. It must be closed.
func New(options Options) *Pool {
	p := &Pool{wait: options.Wait, healthPath: options.HealthPath, logger: cmp.Or(options.Logger, slog.Default()),
		progressOf: transport.ProgressOf, changed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, b := range options.Backends {
		p.backends = append(p.backends, &backend{Backend: b, hurry: make(chan struct{}, 1), requests: make(map[int]uint64)})
	}
	p.startWatching()
	return p
}

// startWatching begins health checks.
func (p *Pool) startWatching() {
	if p.healthPath == "" {
		return
	}
	for _, b := range p.backends {
		p.goroutines.Go(func() { p.watch(b) })
	}
}

// Close ends what runs in the background, and closes idle connections. Requests go on, but wait
// no more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, b := range p.backends {
		b.Transport.KeepIdle(false)
	}
	p.wake()
	p.mu.Unlock()
	p.cancel()
	p.goroutines.Wait()
}

// Waiting returns the number of requests that wait for a backend.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
}

// Stats is what is known of a backend.
type Stats struct {
	State      State
	InProgress int            // requests, upgraded connections among them
	Requests   map[int]uint64 // that it has answered, by status code
	Errors     uint64         // connects and requests that failed
}

// Stats returns what is known of the backends, in their order in Options.
func (p *Pool) Stats() []Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Stats, len(p.backends))
	for i, b := range p.backends {
		all[i] = Stats{b.state, b.inProgress, maps.Clone(b.requests), b.errors}
	}
	return all
}

// Group are the backends that a request may go to.
type Group struct {
	pool     *Pool
	backends []*backend
	turn     int // guarded by the mutex of pool
}

// Group returns a group of backends, by their indices in Options.
func (p *Pool) Group(indices ...int) *Group {
	g := &Group{pool: p}
	for _, i := range indices {
		g.backends = append(g.backends, p.backends[i])
	}
	return g
}

// Lease is a request in progress at a backend.
type Lease struct {
	pool    *Pool
	backend *backend
}

// Backend returns the name of the backend, nothing for a zero Lease.
func (l Lease) Backend() string {
	if l.pool == nil {
		return ""
	}
	return l.backend.Name
}

// End is called once, when no more will be read or written. A zero Lease has none.
func (l Lease) End() {
	if l.pool == nil {
		return
	}
	l.pool.mu.Lock()
	l.backend.inProgress--
	l.pool.mu.Unlock()
}

// happen takes an event of b. The cause is logged if the state changes.
func (p *Pool) happen(b *backend, e event, cause error) {
	p.mu.Lock()
	now := time.Now()
	changed := b.on(e, now)
	state := b.state
	if cause != nil {
		b.reason, b.probed = cause, now
	}
	if changed {
		b.Transport.KeepIdle(state == Up && !p.closed)
	}
	if changed && state == Up {
		p.wake()
	}
	if state != Up {
		p.probe(b)
	}
	p.mu.Unlock()
	switch {
	case !changed || errors.Is(cause, context.Canceled):
	case state == Up:
		p.logger.Info("backend is up", "backend", b.Name)
	default:
		p.logger.Warn("backend gets no new requests", "backend", b.Name, "state", state.String(), "error", cause)
	}
}

// wake lets all that wait look for a backend. The mutex is held.
func (p *Pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}
