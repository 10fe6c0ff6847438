package link

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	// ErrClosed: the link had ended before the request was sent.
	ErrClosed = errors.New("the link has ended")
	// ErrEnded: the link has ended between the request and its response.
	ErrEnded = errors.New("the link has ended before a response")
	// ErrIgnored: the peer does not know requests of this type, and has ignored it.
	ErrIgnored = errors.New("the peer does not know the type of the request")
)

// calls are the requests that wait for a response. Each gets exactly one result: its
// response or an error, or none if the caller waits no longer.
type calls struct {
	mu      sync.Mutex
	ended   bool
	last    uint64
	waiting map[uint64]call
	silent  bool
	ignored Type // the type of requests that the peer ignores
}

type call struct {
	request, response Type
	result            chan result // cap 1
}

type result struct {
	response Message
	err      error // ErrEnded or ErrIgnored
}

// add numbers a request. It fails if the link has ended, or the peer would ignore it.
func (c *calls) add(request, response Type, number *uint64) (<-chan result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return nil, ErrClosed
	case request == c.ignored:
		return nil, ErrIgnored
	}
	if c.waiting == nil {
		c.waiting = make(map[uint64]call)
	}
	c.last++
	*number = c.last
	done := make(chan result, 1)
	c.waiting[c.last] = call{request, response, done}
	return done, nil
}

// remove takes a request back, because the peer is silent or for another reason. It
// returns false if the result is there already.
func (c *calls) remove(number uint64, silent bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.waiting[number]; !ok {
		return false
	}
	delete(c.waiting, number)
	c.silent = c.silent || silent
	return true
}

// received gives a message to the caller whose request it responds to, if there is one.
func (c *calls) received(m *Message) {
	as, number := m.response()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent = false
	if w, ok := c.waiting[number]; ok && w.response == as {
		delete(c.waiting, number)
		w.result <- result{response: *m}
	}
}

// end ends all calls, and later ones at once.
func (c *calls) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for number, w := range c.waiting {
		delete(c.waiting, number)
		w.result <- result{err: ErrEnded}
	}
}

// Ignores notes that the peer, which is another process than before, does not know a type of
// requests: those without a response, and later ones, fail with [ErrIgnored]. It is called
// from handle of [Link.Follow], so that what the process before has sent is received.
func (l *Link) Ignores(request Type) {
	c := &l.calls
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ignored = request
	for number, w := range c.waiting {
		if w.request == request {
			delete(c.waiting, number)
			w.result <- result{err: ErrIgnored}
		}
	}
}

// Call sends a request, which it numbers, and returns the response. The link must be
// followed. Errors are [ErrClosed], that of [Link.Send], [ErrEnded], [ErrIgnored], or the context's: the
// peer has the request then and may still act upon it. If the peer has closed its end, Call
// returns when everything that the peer sent before has been handled, or when ctx ends.
func (l *Link) Call(ctx context.Context, m Message, with ...syscall.Conn) (Message, error) {
	number, response := m.request()
	done, err := l.calls.add(m.Type, response, number)
	if err != nil {
		return Message{}, err
	}
	if err := l.Send(m, with...); err != nil {
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			l.calls.await(ctx, *number, done)
		}
		l.calls.remove(*number, errors.Is(err, unix.EAGAIN))
		return Message{}, err
	}
	return l.calls.await(ctx, *number, done)
}

// await returns the result of a request, or the error of the context if that ends before
// there is a result.
func (c *calls) await(ctx context.Context, number uint64, done <-chan result) (Message, error) {
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		// A caller that gives up before the deadline does not prove that the peer is silent.
		if c.remove(number, errors.Is(ctx.Err(), context.DeadlineExceeded)) {
			return Message{}, ctx.Err()
		}
		r = <-done // it has come in the same moment
	}
	return r.response, r.err
}

// Silent reports whether the peer has let the deadline of a request pass, or has not read
// it, and nothing has been received since.
func (l *Link) Silent() bool {
	l.calls.mu.Lock()
	defer l.calls.mu.Unlock()
	return l.calls.silent
}
