// A connection of HTTP/2 that never retries: its frames are sent and taken one by one, so that it is known
// of each request whether it was answered, refused or lost, and why.
//
// Refused is a request that the server says it has not processed: by a GOAWAY that names an earlier stream as
// the last, or by RST_STREAM with REFUSED_STREAM. RFC 9113, section 8.7, allows to make it again elsewhere. All
// else that fails is lost: the client cannot know whether it was processed.
package e2e

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
)

const (
	// anyStream is the last stream of a GOAWAY that names none.
	anyStream = 1<<31 - 1
	// uploadPiece is how much of a body is in one frame: little, so that a body is on its way for a while.
	uploadPiece = 4096
)

var errTold = errors.New("the connection takes no more requests")

// loss is why a stream was not answered.
type loss struct {
	kind    failure
	refused bool
	err     error
}

// http2Stream is one request and what has come of it. It may be looked at when it is done.
type http2Stream struct {
	id   uint32
	nth  int // which request it is on its connection
	done chan struct{}

	// Below the connection's lock until then.
	window int // of what may be sent
	begun  bool
	reset  bool // nobody wants the rest of the upload
	over   bool
	status int
	body   []byte
	lost   *loss // nil: answered
}

// http2Conn is a client's connection.
type http2Conn struct {
	net.Conn
	scheme string
	framer *http2.Framer
	told   chan struct{} // closed when a GOAWAY has come
	over   chan struct{} // closed when nothing more can come

	writing sync.Mutex // held for a frame, and from the choice of a stream's number to its first frame
	fields  bytes.Buffer
	packer  *hpack.Encoder

	mu       sync.Mutex
	changed  *sync.Cond // a window, or the end of a stream
	window   int        // of what may be sent in all
	perEach  int        // the window of a new stream
	streams  map[uint32]*http2Stream
	refused  map[uint32]bool
	made     int
	answered int
	lost     int
	last     uint32 // of the latest GOAWAY
	goAways  []uint32
	toldAt   time.Time
	warned   bool  // before a last stream was named; not needed by one who goes first
	left     bool  // it is the client who ends it
	err      error // how it ended
	overAt   time.Time
	wrong    bool // by something that no server may send
}

// dialHTTP2 connects, over TLS by ALPN, without it by prior knowledge.
func dialHTTP2(network, address string, within time.Duration, config *tls.Config) (*http2Conn, error) {
	if config == nil {
		c, err := net.DialTimeout(network, address, within)
		if err != nil {
			return nil, err
		}
		return newHTTP2Conn(c, "http")
	}
	config = config.Clone()
	config.NextProtos = []string{"h2", "http/1.1"}
	c, err := shake(network, address, within, config)
	if err != nil {
		return nil, err
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "h2" {
		c.Close()
		return nil, fmt.Errorf("ALPN: got %q, want h2", got)
	}
	return newHTTP2Conn(c, "https")
}

func newHTTP2Conn(nc net.Conn, scheme string) (*http2Conn, error) {
	c := &http2Conn{Conn: nc, scheme: scheme, framer: http2.NewFramer(nc, nc), told: make(chan struct{}), over: make(chan struct{}),
		window: 65535, perEach: 65535, last: anyStream, streams: make(map[uint32]*http2Stream), refused: make(map[uint32]bool)}
	c.changed = sync.NewCond(&c.mu)
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

// ask makes one request and returns when it is answered, refused or lost. Only if the connection takes no more,
// nothing is sent, and the error says so.
func (c *http2Conn) ask(x *exchange, within time.Duration) (*http2Stream, error) {
	s, err := c.open(x)
	if err != nil {
		return nil, err
	}
	limit := time.AfterFunc(within, func() { c.giveUp(s, within) })
	defer limit.Stop()
	c.upload(s, x.upload)
	<-s.done
	c.mu.Lock()
	delete(c.streams, s.id)
	c.mu.Unlock()
	return s, nil
}

// open sends a request's header.
func (c *http2Conn) open(x *exchange) (*http2Stream, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	if len(c.goAways) > 0 || c.err != nil || c.left {
		c.mu.Unlock()
		return nil, errTold
	}
	s := &http2Stream{id: uint32(2*c.made + 1), nth: c.made + 1, done: make(chan struct{}), window: c.perEach}
	c.made++
	c.streams[s.id] = s
	c.mu.Unlock()

	c.fields.Reset()
	for _, f := range [][2]string{{":method", x.method}, {":scheme", c.scheme}, {":authority", ourName}, {":path", x.path}} {
		c.packer.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if x.method == "POST" {
		c.packer.WriteField(hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(len(x.upload))})
	}
	// Whether a frame could be sent is told by what comes: a GOAWAY may have, which nobody has read yet.
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: c.fields.Bytes(), EndHeaders: true, EndStream: len(x.upload) == 0})
	return s, nil
}

// upload sends a request's body as the server's windows allow, as long as it is wanted.
func (c *http2Conn) upload(s *http2Stream, body []byte) {
	for len(body) > 0 {
		c.mu.Lock()
		for min(s.window, c.window) <= 0 && !s.unwanted() && c.err == nil {
			c.changed.Wait()
		}
		n := min(len(body), uploadPiece, s.window, c.window)
		if s.unwanted() || c.err != nil {
			c.mu.Unlock()
			return
		}
		s.window -= n
		c.window -= n
		c.mu.Unlock()
		c.writing.Lock()
		c.framer.WriteData(s.id, n == len(body), body[:n])
		c.writing.Unlock()
		body = body[n:]
	}
}

// unwanted tells whether the rest of an upload is for nobody. An answer that is whole does not say so.
func (s *http2Stream) unwanted() bool { return s.reset || s.lost != nil }

// end notes how a stream ended, with the lock held. nil: it was answered.
func (c *http2Conn) end(s *http2Stream, lost *loss) {
	if s.over {
		return
	}
	s.over, s.lost = true, lost
	switch {
	case lost == nil:
		c.answered++
	case lost.refused:
		c.refused[s.id] = true
	default:
		c.lost++
	}
	close(s.done)
	c.changed.Broadcast()
}

// cut is what a stream lost that breaks off.
func (s *http2Stream) cut(otherwise failure, err error) *loss {
	if s.begun {
		return &loss{kind: failTruncated, err: fmt.Errorf("after %d bytes of the body: %w", len(s.body), err)}
	}
	return &loss{kind: otherwise, err: err}
}

// giveUp ends a stream whose answer does not come.
func (c *http2Conn) giveUp(s *http2Stream, after time.Duration) {
	c.mu.Lock()
	late := !s.over
	c.end(s, s.cut(failRead, fmt.Errorf("no end of the answer within %v", after)))
	c.mu.Unlock()
	if late {
		c.writing.Lock()
		defer c.writing.Unlock()
		c.framer.WriteRSTStream(s.id, http2.ErrCodeCancel)
	}
}

// leave ends the connection, of which nothing more is wanted.
func (c *http2Conn) leave() {
	c.mu.Lock()
	c.left = c.err == nil
	c.mu.Unlock()
	c.writing.Lock()
	c.SetWriteDeadline(time.Now().Add(time.Second))
	c.framer.WriteGoAway(0, http2.ErrCodeNo, nil)
	c.writing.Unlock()
	c.Close()
	<-c.over
}

// listen takes what comes, to the end.
func (c *http2Conn) listen() {
	defer close(c.over)
	var err error
	for err == nil {
		var f http2.Frame
		if f, err = c.framer.ReadFrame(); err == nil {
			err = c.take(f)
		}
	}
	c.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	var broken net.Error
	c.err, c.overAt = err, time.Now()
	c.wrong = !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errNotNotified) &&
		!errors.As(err, &broken) && !c.left
	for _, s := range c.streams {
		switch {
		case c.wrong:
			c.end(s, &loss{kind: failStatus, err: err})
		case c.answered > 0 || len(c.goAways) > 0:
			c.end(s, s.cut(failUnannounced, err))
		default:
			c.end(s, s.cut(failRead, err))
		}
	}
	c.changed.Broadcast()
}

// take does what a frame asks for. The error is for what no server may send.
func (c *http2Conn) take(f http2.Frame) error {
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
	c.mu.Lock()
	defer c.mu.Unlock()
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
	case id > uint32(2*c.made), s == nil && id%2 == 0:
		return fmt.Errorf("%v for a stream that nobody has opened", f.Header())
	case s == nil:
		return nil // it was given up
	}
	return s.take(c, f)
}

// take notes what comes for a stream.
func (s *http2Stream) take(c *http2Conn, f http2.Frame) error {
	ended := false
	switch f := f.(type) {
	case *http2.RSTStreamFrame:
		s.reset = true
		err := fmt.Errorf("reset with %v", f.ErrCode)
		if f.ErrCode == http2.ErrCodeRefusedStream && !s.begun {
			c.end(s, &loss{refused: true, err: err})
		} else {
			c.end(s, s.cut(failRead, err)) // of one that was answered it ends the upload only
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
			s.begun, s.status = true, status
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
		s.body = append(s.body, f.Data()...)
	default:
		return fmt.Errorf("got %v", f.Header())
	}
	if ended {
		c.end(s, nil)
	}
	return nil
}

// hear notes that the server goes away.
func (c *http2Conn) hear(g *http2.GoAwayFrame) error {
	if g.ErrCode != http2.ErrCodeNo {
		return fmt.Errorf("got a GOAWAY with %v %.100q", g.ErrCode, g.DebugData())
	}
	if g.LastStreamID > c.last {
		return fmt.Errorf("got a GOAWAY for stream %d after one for %d", g.LastStreamID, c.last)
	}
	c.last = g.LastStreamID
	c.goAways = append(c.goAways, c.last)
	for id, s := range c.streams {
		if id <= c.last || s.over {
			continue
		}
		if s.begun {
			return fmt.Errorf("got a GOAWAY for stream %d after the answer to stream %d", c.last, id)
		}
		c.end(s, &loss{refused: true, err: fmt.Errorf("GOAWAY for stream %d", c.last)})
	}
	if len(c.goAways) == 1 {
		c.toldAt, c.warned = time.Now(), c.last == anyStream || c.left
		close(c.told)
	}
	return nil
}

// settle notes the server's settings that matter.
func (c *http2Conn) settle(f *http2.SettingsFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range c.streams {
			s.window += int(v) - c.perEach
		}
		c.perEach = int(v)
		c.changed.Broadcast()
	}
}

// giveBack opens the windows by what has come.
func (c *http2Conn) giveBack(stream, n uint32, ended bool) {
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
