package pool

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/baton/handlers/proxy/internal/transport"
)

// failure is an error of a fake backend.
type failure struct {
	progress transport.Progress
	error
}

func (f failure) Unwrap() error { return f.error }

func progressOf(err error) transport.Progress {
	if f, ok := errors.AsType[failure](err); ok {
		return f.progress
	}
	return transport.Aborted
}

var (
	errRefused     = failure{transport.Unreached, syscall.ECONNREFUSED}
	errNoSocket    = failure{transport.Unreached, syscall.ENOENT}
	errDialTimeout = failure{transport.Unreached, os.ErrDeadlineExceeded}
	errNoFiles     = failure{transport.Unreached, syscall.EMFILE}
	errHandshake   = failure{transport.Unsent, syscall.ECONNRESET}
	errLost        = failure{transport.Sent, syscall.ECONNRESET}
	errSilent      = failure{transport.Sent, os.ErrDeadlineExceeded}
	errJunk        = failure{transport.Answered, errors.New("malformed response")}
)

// outcome is what becomes of one request to a fake backend.
type outcome struct {
	err   error
	reads int // bytes of the body, -1 all; what was read is delivered
	code  int // of the response
	close bool
}

var (
	refuse    = outcome{err: errRefused}
	handshake = outcome{err: errHandshake}
	lose      = outcome{err: errLost, reads: -1}
	ok        = outcome{code: 200, reads: -1}
)

// fake is a backend.
type fake struct {
	mu        sync.Mutex
	outcomes  []outcome // of the next requests; the last one of all further ones
	probe     error
	probes    []time.Time
	delivered [][32]byte // the hashes of the bodies of requests that have reached it
	hold      chan struct{}
	keepsNone bool // no idle connections
}

func (f *fake) next() outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.outcomes[0]
	if len(f.outcomes) > 1 {
		f.outcomes = f.outcomes[1:]
	}
	return o
}

// set lets all further requests and probes end so.
func (f *fake) set(probe error, o outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probe, f.outcomes = probe, []outcome{o}
}

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	o := f.next()
	if p := progressOf(o.err); o.err != nil && p != transport.Sent && p != transport.Answered {
		return nil, o.err
	}
	hash := sha256.New()
	if r.Body != nil {
		defer r.Body.Close()
		var err error
		if o.reads < 0 {
			_, err = io.Copy(hash, r.Body)
		} else {
			_, err = io.CopyN(hash, r.Body, int64(o.reads))
		}
		if err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	f.delivered = append(f.delivered, [32]byte(hash.Sum(nil)))
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	return &http.Response{StatusCode: o.code, Close: o.close, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

func (f *fake) Probe(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes = append(f.probes, time.Now())
	return f.probe
}

func (f *fake) KeepIdle(keep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keepsNone = !keep
}

func (f *fake) deliveries() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.delivered)
}

var discard = slog.New(slog.DiscardHandler)

// newPool returns a pool of the fakes, and the group of all of them.
func newPool(t testing.TB, options Options, fakes ...*fake) (*Pool, *Group) {
	t.Helper()
	var indices []int
	for i, f := range fakes {
		options.Backends = append(options.Backends, Backend{Name: string(rune('a' + i)), URL: "http://a", Transport: f})
		indices = append(indices, i)
	}
	if options.Logger == nil {
		options.Logger = discard
	}
	path := options.HealthPath
	options.HealthPath = ""
	p := New(options)
	p.progressOf = progressOf
	p.healthPath = path
	p.startWatching()
	t.Cleanup(p.Close)
	return p, p.Group(indices...)
}

// statusOf returns what a client gets.
func statusOf(response *http.Response, err error) int {
	if err == nil {
		return response.StatusCode
	}
	e, isError := errors.AsType[*Error](err)
	switch {
	case !isError:
		return 0
	case e.Absent:
		return 503
	case isTimeout(e):
		return 504
	}
	return 502
}
