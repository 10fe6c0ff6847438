// Package http2 is a connection of HTTP/2 that never retries: its frames are sent and taken one by one, so that it is
// known of each request whether it was answered, refused or lost, and why.
//
// Refused is a request that the server says it has not processed: by a GOAWAY that names an earlier stream as
// the last, or by RST_STREAM with REFUSED_STREAM. RFC 9113, section 8.7, allows to make it again elsewhere. All
// else that fails is lost: the client cannot know whether it was processed.
package http2

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

const (
	// anyStream is the last stream of a GOAWAY that names none.
	AnyStream = 1<<31 - 1
	// uploadPiece is how much of a body is in one frame: little, so that a body is on its way for a while.
	UploadPiece = 4096
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

// Conn is a client's connection.
type Conn struct {
	net.Conn
	scheme string
	framer *http2.Framer
	Told   chan struct{} // closed when a GOAWAY has come
	Over   chan struct{} // closed when nothing more can come

	writing sync.Mutex // held for a frame, and from the choice of a stream's number to its first frame
	fields  bytes.Buffer
	packer  *hpack.Encoder

	Mu       sync.Mutex
	changed  *sync.Cond // a window, or the end of a stream
	window   int        // of what may be sent in all
	perEach  int        // the window of a new stream
	streams  map[uint32]*Stream
	refused  map[uint32]bool
	Made     int
	answered int
	Lost     int
	last     uint32 // of the latest GOAWAY
	GoAways  []uint32
	ToldAt   time.Time
	Warned   bool  // before a last stream was named; not needed by one who goes first
	Left     bool  // it is the client who ends it
	Err      error // how it ended
	OverAt   time.Time
	Wrong    bool // by something that no server may send
}

// Dial connects, over TLS by ALPN, without it by prior knowledge.
func Dial(network, address string, within time.Duration, config *tls.Config) (*Conn, error) {
	if config == nil {
		c, err := net.DialTimeout(network, address, within)
		if err != nil {
			return nil, err
		}
		return newConn(c, "http")
	}
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	c, err := http1.Handshake(network, address, within, config)
	if err != nil {
		return nil, err
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "h2" {
		c.Close()
		return nil, fmt.Errorf("ALPN: got %q, want h2", got)
	}
	return newConn(c, "https")
}

func newConn(nc net.Conn, scheme string) (*Conn, error) {
	c := &Conn{Conn: nc, scheme: scheme, framer: http2.NewFramer(nc, nc), Told: make(chan struct{}), Over: make(chan struct{}),
		window: 65535, perEach: 65535, last: AnyStream, streams: make(map[uint32]*Stream), refused: make(map[uint32]bool)}
	c.changed = sync.NewCond(&c.Mu)
	c.packer = hpack.NewEncoder(&c.fields)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(16384) // as long as nobody has allowed more
	var first bytes.Buffer
	first.WriteString(http2.ClientPreface)
	http2.NewFramer(&first, nil).WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	if _, err := nc.Write(first.Bytes()); err != nil {
		nc.Close()
		return nil, err
	}
	go c.listen()
	return c, nil
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
	s := &Stream{id: uint32(2*c.Made + 1), Nth: c.Made + 1, done: make(chan struct{}), window: c.perEach}
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
	// Whether a frame could be sent is told by what comes: a GOAWAY may have, which nobody has read yet.
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

// unwanted tells whether the rest of an upload is for nobody. An answer that is whole does not say so.
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

// Leave ends the connection, of which nothing more is wanted.
func (c *Conn) Leave() {
	c.Mu.Lock()
	c.Left = c.Err == nil
	c.Mu.Unlock()
	c.writing.Lock()
	c.SetWriteDeadline(time.Now().Add(time.Second))
	c.framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	c.writing.Unlock()
	c.Close()
	<-c.Over
}

// listen takes what comes, to the end.
func (c *Conn) listen() {
	defer close(c.Over)
	var err error
	for err == nil {
		var f http2.Frame
		if f, err = c.framer.ReadFrame(); err == nil {
			err = c.take(f)
		}
	}
	c.Close()
	c.Mu.Lock()
	defer c.Mu.Unlock()
	var broken net.Error
	c.Err, c.OverAt = err, time.Now()
	c.Wrong = !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, http1.ErrNotNotified) &&
		!errors.As(err, &broken) && !c.Left
	for _, s := range c.streams {
		switch {
		case c.Wrong:
			c.end(s, &loss{Kind: exchange.WrongStatus, Err: err})
		case c.answered > 0 || len(c.GoAways) > 0:
			c.end(s, s.cut(exchange.ClosedUnannounced, err))
		default:
			c.end(s, s.cut(exchange.NotAnswered, err))
		}
	}
	c.changed.Broadcast()
}

// take does what a frame asks for. The error is for what no server may send.
func (c *Conn) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.PingFrame:
		// A request that was begun before is sent before: the server must be able to rely on that.
		if !f.IsAck() {
			c.writing.Lock()
			defer c.writing.Unlock()
			c.framer.WritePing(true, f.Data)
		}
		return nil
	case *http2.SettingsFrame:
		if !f.IsAck() {
			c.settle(f)
			c.writing.Lock()
			defer c.writing.Unlock()
			c.framer.WriteSettingsAck()
		}
		return nil
	case *http2.DataFrame:
		defer c.giveBack(f.StreamID, f.Length, f.StreamEnded())
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if g, ok := f.(*http2.GoAwayFrame); ok {
		return c.hear(g)
	}
	id := f.Header().StreamID
	s := c.streams[id]
	if w, ok := f.(*http2.WindowUpdateFrame); ok {
		if id == 0 {
			c.window += int(w.Increment)
		} else if s != nil {
			s.window += int(w.Increment)
		}
		c.changed.Broadcast()
		return nil
	}
	_, reset := f.(*http2.RSTStreamFrame)
	switch {
	case c.refused[id] && !reset:
		return fmt.Errorf("%v for a stream that was refused", f.Header())
	case id > uint32(2*c.Made), s == nil && id%2 == 0:
		return fmt.Errorf("%v for a stream that nobody has opened", f.Header())
	case s == nil:
		return nil // it was given up
	}
	return s.take(c, f)
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

// hear notes that the server goes away.
func (c *Conn) hear(g *http2.GoAwayFrame) error {
	if g.ErrCode != http2.ErrCodeNo {
		return fmt.Errorf("got a GOAWAY with %v %.100q", g.ErrCode, g.DebugData())
	}
	if g.LastStreamID > c.last {
		return fmt.Errorf("got a GOAWAY for stream %d after one for %d", g.LastStreamID, c.last)
	}
	c.last = g.LastStreamID
	c.GoAways = append(c.GoAways, c.last)
	for id, s := range c.streams {
		if id <= c.last || s.over {
			continue
		}
		if s.begun {
			return fmt.Errorf("got a GOAWAY for stream %d after the answer to stream %d", c.last, id)
		}
		c.end(s, &loss{Refused: true, Err: fmt.Errorf("GOAWAY for stream %d", c.last)})
	}
	if len(c.GoAways) == 1 {
		c.ToldAt, c.Warned = time.Now(), c.last == AnyStream || c.Left
		close(c.Told)
	}
	return nil
}

// settle notes the server's settings that matter.
func (c *Conn) settle(f *http2.SettingsFrame) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range c.streams {
			s.window += int(v) - c.perEach
		}
		c.perEach = int(v)
		c.changed.Broadcast()
	}
}

// giveBack opens the windows by what has come.
func (c *Conn) giveBack(stream, n uint32, ended bool) {
	if n == 0 {
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.framer.WriteWindowUpdate(0, n)
	if !ended {
		c.framer.WriteWindowUpdate(stream, n)
	}
}
