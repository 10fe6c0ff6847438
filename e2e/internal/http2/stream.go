package http2

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

var errTold = errors.New("the connection takes no more requests")

// loss is why a stream was not answered.
type loss struct {
	Kind    exchange.Failure
	Refused bool
	Err     error
}

// Stream is one request and what has come of it. It may be looked at when it is done.
type Stream struct {
	id   uint32
	Nth  int // which request it is on its connection
	done chan struct{}

	// Below the connection's lock until then.
	window int // of what may be sent
	begun  bool
	reset  bool // nobody wants the rest of the upload
	over   bool
	Status int
	Body   []byte
	Lost   *loss // nil: answered
}

// Ask makes one request and returns when it is answered, refused or lost. Only if the connection takes no more,
// nothing is sent, and the error says so.
func (c *Conn) Ask(x *exchange.Exchange, within time.Duration) (*Stream, error) {
	s, err := c.open(x)
	if err != nil {
		return nil, err
	}
	limit := time.AfterFunc(within, func() { c.giveUp(s, within) })
	defer limit.Stop()
	c.upload(s, x.Upload)
	<-s.done
	c.Mu.Lock()
	delete(c.streams, s.id)
	c.Mu.Unlock()
	return s, nil
}

// open sends a request's header.
func (c *Conn) open(x *exchange.Exchange) (*Stream, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.Mu.Lock()
	if len(c.GoAways) > 0 || c.Err != nil || c.Left {
		c.Mu.Unlock()
		return nil, errTold
	}
	s := &Stream{id: uint32(2*c.Made + 1), Nth: c.Made + 1, done: make(chan struct{}), window: c.perEach, Body: make([]byte, 0, len(x.Body))}
	c.Made++
	c.streams[s.id] = s
	c.Mu.Unlock()

	c.fields.Reset()
	for _, f := range [][2]string{{":method", x.Method}, {":scheme", c.scheme}, {":authority", http1.Host}, {":path", x.Path}} {
		c.packer.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if x.Method == "POST" {
		c.packer.WriteField(hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(x.Upload))})
	}
	// Whether a frame could be sent shows in what comes: a GOAWAY may have, which nobody has read yet.
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: c.fields.Bytes(), EndHeaders: true, EndStream: len(x.Upload) == 0})
	return s, nil
}

// upload sends a request's body as the server's windows allow, as long as it is wanted.
func (c *Conn) upload(s *Stream, body []byte) {
	for len(body) > 0 {
		c.Mu.Lock()
		for min(s.window, c.window) <= 0 && !s.unwanted() && c.Err == nil {
			c.changed.Wait()
		}
		n := min(len(body), UploadPiece, s.window, c.window)
		if s.unwanted() || c.Err != nil {
			c.Mu.Unlock()
			return
		}
		s.window -= n
		c.window -= n
		c.Mu.Unlock()
		c.writing.Lock()
		c.framer.WriteData(s.id, n == len(body), body[:n])
		c.writing.Unlock()
		body = body[n:]
	}
}

// unwanted reports whether the rest of an upload is for nobody. An answer that is whole does not say so.
func (s *Stream) unwanted() bool { return s.reset || s.Lost != nil }

// end notes how a stream ended, with the lock held. nil: it was answered.
func (c *Conn) end(s *Stream, lost *loss) {
	if s.over {
		return
	}
	s.over, s.Lost = true, lost
	switch {
	case lost == nil:
		c.answered++
	case lost.Refused:
		c.refused[s.id] = true
	default:
		c.Lost++
	}
	close(s.done)
	c.changed.Broadcast()
}

// cut is what a stream lost that breaks off.
func (s *Stream) cut(otherwise exchange.Failure, err error) *loss {
	if s.begun {
		return &loss{Kind: exchange.Truncated, Err: fmt.Errorf("after %d bytes of the body: %w", len(s.Body), err)}
	}
	return &loss{Kind: otherwise, Err: err}
}

// giveUp ends a stream whose answer does not come.
func (c *Conn) giveUp(s *Stream, after time.Duration) {
	c.Mu.Lock()
	late := !s.over
	c.end(s, s.cut(exchange.NotAnswered, fmt.Errorf("no end of the answer within %v", after)))
	c.Mu.Unlock()
	if late {
		c.writing.Lock()
		defer c.writing.Unlock()
		c.framer.WriteRSTStream(s.id, http2.ErrCodeCancel)
	}
}

// take notes what comes for a stream.
func (s *Stream) take(c *Conn, f http2.Frame) error {
	ended := false
	switch f := f.(type) {
	case *http2.RSTStreamFrame:
		s.reset = true
		err := fmt.Errorf("reset with %v", f.ErrCode)
		if f.ErrCode == http2.ErrCodeRefusedStream && !s.begun {
			c.end(s, &loss{Refused: true, Err: err})
		} else {
			c.end(s, s.cut(exchange.NotAnswered, err)) // of one that was answered it ends the upload only
		}
		c.changed.Broadcast()
		return nil
	case *http2.MetaHeadersFrame:
		ended = f.StreamEnded()
		status, err := strconv.Atoi(f.PseudoValue("status"))
		switch {
		case s.begun: // the trailer
		case err != nil:
			return fmt.Errorf("got no status in %v", f)
		case status < 200:
			return nil
		default:
			s.begun, s.Status = true, status
		}
		for _, field := range f.RegularFields() {
			if field.Name == "connection" {
				return fmt.Errorf("got %v, which HTTP/2 does not have", field)
			}
		}
	case *http2.DataFrame:
		ended = f.StreamEnded()
		if s.over || !s.begun {
			return fmt.Errorf("%v for a stream that has ended, or not begun", f.Header())
		}
		s.Body = append(s.Body, f.Data()...)
	default:
		return fmt.Errorf("got %v", f.Header())
	}
	if ended {
		c.end(s, nil)
	}
	return nil
}
