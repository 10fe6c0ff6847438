package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/baton/server"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Client is one connection, whose frames the test sees. It sends no more than
// it is sent, but for what flow control wants.
type http2Client struct {
	t *testing.T
	net.Conn
	*http2.Framer
	mu     sync.Mutex // held while writing
	fields bytes.Buffer
	pack   *hpack.Encoder

	windows bool  // give back what was received
	noAck   bool  // acknowledge no settings
	window  int64 // of the connection
	// keepsTable has the header table of a size that the server does not want.
	keepsTable bool
	answers    bool              // PINGs, at once
	goAways    []uint32          // last streams
	bodies     map[uint32][]byte // what has come
	statuses   map[uint32]string
	ended      map[uint32]error // how a stream has: nil: in full
	pings      [][8]byte        // not answered yet
	acks       int              // of PINGs
	agreed     int              // acknowledgements of SETTINGS
	settings   []http2.Setting  // the server's
	failed     http2.ErrCode    // in a GOAWAY
	trailer    string           // the latest
	err        error            // of the connection
}

func newHTTP2Client(t *testing.T, nc net.Conn) *http2Client {
	c := &http2Client{t: t, Conn: nc, Framer: http2.NewFramer(nc, nc), windows: true,
		bodies: make(map[uint32][]byte), statuses: make(map[uint32]string), ended: make(map[uint32]error)}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.pack = hpack.NewEncoder(&c.fields)
	var first bytes.Buffer
	first.WriteString(preface)
	http2.NewFramer(&first, nil).WriteSettings()
	if _, err := nc.Write(first.Bytes()); err != nil {
		t.Error(err)
	}
	return c
}

// dialHTTP2 speaks HTTP/2 by prior knowledge.
func (s *served) dialHTTP2() *http2Client {
	s.t.Helper()
	return newHTTP2Client(s.t, s.dial().Conn)
}

// dialHTTP2 speaks HTTP/2 over TLS.
func (s *servedTLS) dialHTTP2(string) *http2Client {
	s.t.Helper()
	return newHTTP2Client(s.t, s.dialTLS("h2").Conn)
}

// encode appends a request's header, with more fields, to fields.
func (c *http2Client) encode(method, path string, more ...string) {
	all := append([]string{":method", method, ":scheme", "https", ":authority", "x", ":path", path}, more...)
	for i := 0; i < len(all); i += 2 {
		c.pack.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
}

// open sends a request's header.
func (c *http2Client) open(stream uint32, method, path string, end bool, more ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fields.Reset()
	c.encode(method, path, more...)
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.fields.Bytes(), EndStream: end, EndHeaders: true})
	if err != nil {
		c.t.Errorf("request %d: %v", stream, err)
	}
}

func (c *http2Client) request(stream uint32, path string) {
	c.t.Helper()
	c.open(stream, "GET", path, true)
}

// step reads one frame and notes what it says.
func (c *http2Client) step() error {
	f, err := c.ReadFrame()
	if err != nil {
		c.err = err
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			c.agreed++
		} else {
			f.ForeachSetting(func(s http2.Setting) error {
				c.settings = append(c.settings, s)
				if s.ID == http2.SettingHeaderTableSize && !c.keepsTable {
					c.pack.SetMaxDynamicTableSize(s.Val)
				}
				return nil
			})
			if !c.noAck {
				return c.WriteSettingsAck()
			}
		}
	case *http2.MetaHeadersFrame:
		if status := f.PseudoValue("status"); status != "" {
			c.statuses[f.StreamID] = status
		} else {
			c.trailer = f.RegularFields()[0].Value
		}
		for _, field := range f.RegularFields() {
			if field.Name == "connection" {
				c.t.Error("got a Connection header")
			}
		}
		if f.StreamEnded() {
			c.ended[f.StreamID] = nil
		}
	case *http2.DataFrame:
		c.bodies[f.StreamID] = append(c.bodies[f.StreamID], f.Data()...)
		if f.StreamEnded() {
			c.ended[f.StreamID] = nil
		}
		if c.windows && f.Length > 0 {
			c.WriteWindowUpdate(0, f.Length)
			if !f.StreamEnded() {
				c.WriteWindowUpdate(f.StreamID, f.Length)
			}
		}
	case *http2.RSTStreamFrame:
		if _, over := c.ended[f.StreamID]; !over {
			c.ended[f.StreamID] = fmt.Errorf("reset: %v", f.ErrCode)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.window += int64(f.Increment)
		}
	case *http2.PingFrame:
		if f.IsAck() {
			c.acks++
		} else if c.answers {
			return c.WritePing(true, f.Data)
		} else {
			c.pings = append(c.pings, f.Data)
		}
	case *http2.GoAwayFrame:
		if c.failed = f.ErrCode; f.ErrCode != http2.ErrCodeNo {
			return fmt.Errorf("got a GOAWAY with %v", f.ErrCode)
		}
		c.goAways = append(c.goAways, f.LastStreamID)
	}
	return nil
}

// until reads until something holds.
func (c *http2Client) until(what string, ok func() bool) error {
	for !ok() {
		if err := c.step(); err != nil {
			return fmt.Errorf("before %s: %w", what, err)
		}
	}
	return nil
}

func (c *http2Client) await(what string, ok func() bool) {
	c.t.Helper()
	if err := c.until(what, ok); err != nil {
		c.t.Fatal(err)
	}
}

// body awaits the end of an answer.
func (c *http2Client) body(stream uint32) (string, error) {
	err := c.until(fmt.Sprintf("the end of stream %d", stream), func() bool { _, over := c.ended[stream]; return over })
	return string(c.bodies[stream]), errors.Join(err, c.ended[stream])
}

// gets awaits an answer that must be this.
func (c *http2Client) gets(stream uint32, want string) {
	c.t.Helper()
	if body, err := c.body(stream); err != nil || body != want || c.statuses[stream] != "200" {
		c.t.Errorf("stream %d: got status %q, %q, %v, want %q", stream, c.statuses[stream], body, err, want)
	}
}

// isFrom makes the first request.
func (c *http2Client) isFrom(name string) {
	c.t.Helper()
	c.request(1, "/")
	c.gets(1, name)
}

// toldOnce awaits the first step of a drain.
func (c *http2Client) toldOnce() {
	c.t.Helper()
	c.await("the first GOAWAY and its PING", func() bool { return len(c.pings) == 1 })
	if len(c.goAways) != 1 || c.goAways[0] != 1<<31-1 {
		c.t.Fatalf("got GOAWAY for the streams %d, want one for all", c.goAways)
	}
}

// pong answers the oldest PING.
func (c *http2Client) pong() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.WritePing(true, c.pings[0]); err != nil {
		c.t.Error(err)
	}
	c.pings = c.pings[1:]
}

// toldTwice awaits the second step.
func (c *http2Client) toldTwice(last uint32) {
	c.t.Helper()
	c.await("the second GOAWAY", func() bool { return len(c.goAways) == 2 })
	if c.goAways[1] != last {
		c.t.Errorf("got a GOAWAY for stream %d, want %d", c.goAways[1], last)
	}
}

// closes reads to the end, which must be a FIN, and answers the PINGs before.
func (c *http2Client) closes() {
	c.t.Helper()
	for len(c.pings) > 0 {
		c.pong()
	}
	c.answers = true
	err := c.until("the end", func() bool { return false })
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Errorf("at the end: got %v, want a FIN", err)
	}
}

// bothOverTCP runs a test over TLS and by prior knowledge, where somebody is always busy,
// so that in a bubble no time would pass.
func bothOverTCP(t *testing.T, opts server.Options, test func(t *testing.T, s *served, dial func() *http2Client)) {
	t.Run("TLS", func(t *testing.T) {
		s := serveTLS(t, opts)
		test(t, s.served, func() *http2Client { return s.dialHTTP2("") })
	})
	t.Run("prior knowledge", func(t *testing.T) {
		s := serve(t, opts)
		test(t, s, s.dialHTTP2)
	})
}

// both runs a test over TLS and by prior knowledge, in memory.
func both(t *testing.T, opts server.Options, test func(t *testing.T, s *served, dial func() *http2Client)) {
	t.Run("TLS", func(t *testing.T) {
		inMemoryTLS(t, opts, func(t *testing.T, s *servedTLS) {
			test(t, s.served, func() *http2Client { return s.dialHTTP2("") })
		})
	})
	t.Run("prior knowledge", func(t *testing.T) {
		inMemory(t, opts, func(t *testing.T, s *served) { test(t, s, s.dialHTTP2) })
	})
}

// pattern is a body of which each part is known.
func pattern(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString(strconv.Itoa(i) + " ")
	}
	return b.String()[:size]
}

// prefaced leaves out the preface, which was sent.
type prefaced struct{ net.Conn }

func (c prefaced) Write(p []byte) (int, error) {
	_, err := c.Conn.Write(bytes.TrimPrefix(p, []byte(preface)))
	return len(p), err
}

// countedListener counts what is read from its connections.
type countedListener struct {
	net.Listener
	read atomic.Int64
}

func (l *countedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{nc.(*net.TCPConn), l}, nil
}

type countedConn struct {
	*net.TCPConn
	listener *countedListener
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.listener.read.Add(int64(n))
	return n, err
}

func hpackField(name, value string) hpack.HeaderField {
	return hpack.HeaderField{Name: name, Value: value}
}
