package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"example.com/baton/handlers/internal/live"
)

// eventPatience is how long an event that has begun may take to be whole when its
// stream is to end. One that is aborted is ignored by its reader.
const eventPatience = 80 * time.Millisecond

// stream is the body of a response that goes on for as long as the backend likes.
//
// Only event streams are: their readers take each event for itself, and connect
// again when the stream ends. A body of any other type must not end in order
// before it is whole. Its reader would take it for that.
type stream struct {
	io.ReadCloser
	control *http.ResponseController
	encoded bool // so that events cannot be distinguished
	stop    func()
	over    chan struct{} // closed with the body

	mu      sync.Mutex
	events  eventBounds
	leaving bool // the next moment between two events is the end
	left    bool // the backend's body was closed
}

// follow lets a response to w end in a drain, if it is a stream.
func (p *Proxy) follow(response *http.Response, w http.ResponseWriter) {
	if !isEventStream(response.Header) || response.ContentLength >= 0 || response.Body == http.NoBody {
		return
	}
	encoding := response.Header.Get("Content-Encoding")
	s := &stream{ReadCloser: response.Body, control: http.NewResponseController(w),
		encoded: encoding != "" && encoding != "identity", over: make(chan struct{})}
	s.stop = p.opts.OnDrain(response.Request.Context(), p.opts.StreamGrace, s.leave)
	response.Body = s
	if r := response.Request; r.TLS != nil && r.TLS.Version < tls.VersionTLS13 && r.ProtoMajor == 1 {
		// Its connection does not migrate. The client would make its next request here, to
		// the predecessor.
		response.Header.Set("Connection", "close")
	}
}

func isEventStream(h http.Header) bool {
	value := h.Get("Content-Type")
	if !strings.Contains(strings.ToLower(value), "event-stream") { // which is cheap to tell
		return false
	}
	kind, _, _ := mime.ParseMediaType(value)
	return kind == "text/event-stream"
}

// leave ends the stream between two events or, after eventPatience, wherever it is.
func (s *stream) leave(ctx context.Context) {
	s.mu.Lock()
	s.leaving = true
	between := s.isBetween()
	s.mu.Unlock()

	until := time.Now().Add(live.EventTimeout)
	if end, bounded := ctx.Deadline(); bounded && end.Before(until) {
		until = end
	}
	_ = s.control.SetWriteDeadline(until) // for a client that has long not read
	if !between {
		patience := time.NewTimer(eventPatience)
		defer patience.Stop()
		select {
		case <-patience.C:
		case <-s.over:
		}
	}
	s.mu.Lock()
	s.left = true
	s.mu.Unlock()
	_ = s.ReadCloser.Close() // wakes a Read
}

func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	over := s.left || s.leaving && s.isBetween()
	s.mu.Unlock()
	if over {
		return 0, io.EOF
	}
	n, err := s.ReadCloser.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	whole := s.events.follow(p[:n])
	if !s.left {
		return n, err
	}
	if whole >= 0 && !s.encoded { // an event has begun in the very moment
		n = whole
	}
	return n, io.EOF
}

func (s *stream) isBetween() bool { return s.encoded || s.events.isBetween() }

func (s *stream) Close() error {
	close(s.over)
	err := s.ReadCloser.Close()
	s.stop()
	return err
}

// eventBounds follows an event stream, to tell where its events begin and end.
type eventBounds struct {
	inLine    bool
	isComment bool // the line
	hasLines  bool // the event
	afterCR   bool // a line feed belongs to the line end before
}

// isBetween reports whether a reader that gets no more has lost nothing.
func (e *eventBounds) isBetween() bool { return !e.inLine && !e.hasLines }

// follow returns how much of p a reader needs that gets no more after it: up to
// the last moment between two events, -1 if there is none.
func (e *eventBounds) follow(p []byte) (whole int) {
	whole = -1
	if e.isBetween() {
		whole = 0
	}
	for i, b := range p {
		switch {
		case b == '\n' && e.afterCR:
			e.afterCR = false
		case b == '\n' || b == '\r':
			e.afterCR = b == '\r'
			if !e.inLine {
				e.hasLines = false
			} else if !e.isComment {
				e.hasLines = true
			}
			e.inLine = false
		default:
			e.isComment = b == ':' && !e.inLine || e.isComment && e.inLine
			e.inLine, e.afterCR = true, false
		}
		if e.isBetween() {
			whole = i + 1
		}
	}
	return whole
}
