package pool

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"example.com/baton/handlers/proxy/internal/transport"
)

// trip is a request on its way to the backend that answers it.
type trip struct {
	request *http.Request
	body    *replay       // nil: it has none
	until   time.Time     // when it waits no more
	tries   int           // attempts
	sentTo  []*backend    // those that have got it, and have not answered
	err     *Error        // of the last attempt
	pause   time.Duration // before the next one, after a failure that is local
}

// RoundTrip sends a request to one of the backends. Until the lease ends it is in progress
// there, whatever becomes of the body of the response.
//
// The error is an [*Error], or says that the request itself has failed: its context is done, or its
// body cannot be read. The body is not closed; the caller does that, and lets no Read go on when
// the request has ended.
func (g *Group) RoundTrip(r *http.Request) (*http.Response, Lease, error) {
	t := &trip{request: r, until: time.Now().Add(g.pool.wait)}
	if r.Body != nil && r.Body != http.NoBody {
		t.body = &replay{source: r.Body, trailer: r.Trailer, declared: maps.Clone(r.Trailer), keeps: isIdempotent(r.Method)}
	}
	for {
		b, trial, err := g.acquire(t)
		if err != nil {
			return nil, Lease{}, err
		}
		response, lease, err := g.send(t, b)
		if err == nil {
			g.pool.finish(b, response, trial)
			return response, lease, nil
		}
		if err := g.fail(t, b, err); err != nil {
			return nil, Lease{}, err
		}
	}
}

// send sends the request to b, where it is counted already.
func (g *Group) send(t *trip, b *backend) (response *http.Response, lease Lease, err error) {
	lease = Lease{g.pool, b}
	defer func() {
		if response == nil {
			lease.End()
		}
	}()
	response, err = b.Transport.RoundTrip(t.attempt())
	return response, lease, err
}

// attempt returns the request as it is sent next. Its trailers are its own: who has sent an earlier one may
// still read the body.
func (t *trip) attempt() *http.Request {
	if t.body == nil {
		return t.request
	}
	r := *t.request
	body := t.body.open()
	r.Body, r.Trailer = body, body.trailer
	return &r
}

// finish counts a response, and sees whether the backend is leaving: 503 with Connection: close from a
// backend that does not close every connection.
func (p *Pool) finish(b *backend, response *http.Response, trial bool) {
	p.mu.Lock()
	b.requests[response.StatusCode]++
	b.keeps = b.keeps || !response.Close
	leaving := b.keeps && response.Close && response.StatusCode == http.StatusServiceUnavailable
	p.mu.Unlock()
	switch {
	case leaving:
		p.happen(b, resigned, errLeaving)
	case trial:
		p.happen(b, answered, nil)
	}
}

// fail ends an attempt that has failed. It returns nil when there may be another.
func (g *Group) fail(t *trip, b *backend, err error) error {
	progress := g.pool.progressOf(err)
	if progress == transport.Aborted {
		return err
	}
	g.pool.mu.Lock()
	b.errors++
	g.pool.mu.Unlock()
	t.tries++
	t.err = newError(b, err)
	unsent := progress == transport.Unreached || progress == transport.Unsent
	if unsent && !isLocal(err) {
		g.pool.happen(b, refused, err)
	}
	switch {
	case t.body != nil && !t.body.rewind():
		return t.err
	case unsent && t.tries >= len(g.backends) && !time.Now().Before(t.until):
		return t.err
	case unsent && isLocal(err):
		return g.rest(t)
	case unsent:
		return nil
	case progress == transport.Sent && t.mayRepeat(err):
		t.sentTo = append(t.sentTo, b)
		t.until = time.Now().Add(g.pool.wait)
		if len(t.sentTo) > 1 {
			return g.rest(t)
		}
		return nil
	}
	return t.err
}

// maxRepeats is how often a request is repeated that was sent. One is not enough: a backend that
// is killed may close its connections before the socket that it listens on, and come back to be
// killed again.
const maxRepeats = 3

// mayRepeat reports whether a request that was sent is sent once more. A backend that
// has not answered in time may still be at it.
func (t *trip) mayRepeat(err error) bool {
	return isIdempotent(t.request.Method) && !isTimeout(err) && len(t.sentTo) < maxRepeats
}

// isIdempotent reports whether a method is idempotent: RFC 9110, section 9.2.2. Of others that
// are registered nobody knows what a backend makes of them.
func isIdempotent(method string) bool {
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}, method)
}
