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
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"example.com/baton/e2e/internal/http1"
)

const (
	// anyStream is the last stream of a GOAWAY that names none.
	AnyStream = 1<<31 - 1
	// uploadPiece is how much of a body is in one frame: little, so that a body is on its way for a while.
	UploadPiece = 4096
)

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
