package pool

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// MaxReplay bounds the bytes of a request's body that are kept, to be sent once more, or are read
// while it waits.
const MaxReplay = 64 << 10

// replay is the body of a request, which can be read from its beginning again as long as all that
// was read is kept. What is read ahead is.
type replay struct {
	source   io.Reader
	trailer  http.Header // of the request: with values when source is at its end
	declared http.Header // the names in trailer
	keeps    bool        // and what readers read

	turn sync.Mutex // held by whoever reads from source, which may write to trailer

	mu     sync.Mutex
	kept   []byte // the beginning of the body
	lost   bool   // more than that was read
	err    error  // of source
	reader *reader
	ahead  bool          // it is to be read ahead
	runs   bool          // a goroutine does that
	failed chan struct{} // closed when it finds that source fails
}

// reader reads the body for one attempt.
type reader struct {
	body    *replay
	at      int         // how much of what is kept it has got
	trailer http.Header // of the attempt: gets its values at the end
}

// open returns the body from its beginning, at the end of which the trailers are there. rewind has
// returned true, or it is the first time.
func (b *replay) open() *reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead = false
	b.reader = &reader{body: b, trailer: maps.Clone(b.declared)}
	return b.reader
}

// rewind ends the present reader, and reports whether there can be another.
func (b *replay) rewind() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader = nil
	return !b.lost
}

func (r *reader) Read(p []byte) (int, error) {
	b := r.body
	b.turn.Lock()
	defer b.turn.Unlock()
	n, err := r.read(p)
	if errors.Is(err, io.EOF) {
		for name := range r.trailer {
			r.trailer[name] = b.trailer[name]
		}
	}
	return n, err
}

func (r *reader) read(p []byte) (int, error) {
	b := r.body
	p, n, err := b.begin(r, p)
	if n > 0 || err != nil {
		return n, err
	}
	n, err = b.source.Read(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	if !b.lost {
		b.kept = append(b.kept, p[:n]...)
		r.at += n
	}
	return n, err
}

// begin copies to p what is kept, or returns as much of p as may be read from source.
func (b *replay) begin(r *reader, p []byte) ([]byte, int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch room := MaxReplay - len(b.kept); {
	case b.reader != r:
		return nil, 0, http.ErrBodyReadAfterClose
	case r.at < len(b.kept):
		n := copy(p, b.kept[r.at:])
		r.at += n
		return nil, n, nil
	case b.err != nil:
		return nil, 0, b.err
	case b.keeps && !b.lost && room > 0:
		return p[:min(len(p), room)], 0, nil
	}
	b.lost, b.kept, r.at = true, nil, 0
	return p, 0, nil
}

// Close lets the reader read no more. It does not wait for a Read.
func (r *reader) Close() error {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	if r.body.reader == r {
		r.body.reader = nil
	}
	return nil
}

// readAhead begins to read the body without a reader. The channel is closed if that fails.
//
// The goroutine that does it ends with the next attempt, or with a Read that returns. The latest
// is when the handler of the request has returned: net/http lets no Read go on then.
func (b *replay) readAhead() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil {
		b.failed = make(chan struct{})
	}
	b.ahead = true
	if !b.runs {
		b.runs = true
		go b.runAhead()
	}
	return b.failed
}

// stopAhead lets it end.
func (b *replay) stopAhead() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead = false
}

func (b *replay) runAhead() {
	for b.stepAhead() {
	}
}

// stepAhead reads once, and reports whether there is more to read.
func (b *replay) stepAhead() bool {
	b.turn.Lock()
	defer b.turn.Unlock()
	b.mu.Lock()
	room := MaxReplay - len(b.kept)
	if !b.ahead || b.lost || b.err != nil || room == 0 {
		b.runs = false
		b.mu.Unlock()
		return false
	}
	b.kept = slices.Grow(b.kept, min(room, 4<<10))
	free := b.kept[len(b.kept):cap(b.kept)]
	free = free[:min(len(free), room)]
	b.mu.Unlock()

	n, err := b.source.Read(free)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept, b.err = b.kept[:len(b.kept)+n], err
	if err != nil && !errors.Is(err, io.EOF) {
		close(b.failed)
	}
	return true
}

// failure returns why source fails.
func (b *replay) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
