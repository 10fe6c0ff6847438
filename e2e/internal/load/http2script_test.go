package load

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Script is one connection of a server that does what a script says.
type http2Script struct {
	net.Conn
	*http2.Framer
	fields bytes.Buffer
	packer *hpack.Encoder
}

// next returns the stream of the next request of which all has come, 0 if the client has gone.
func (s *http2Script) next() uint32 {
	for {
		f, err := s.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				s.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				return f.StreamID
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return f.StreamID
			}
		}
	}
}

// rest reads until the client has gone.
func (s *http2Script) rest() {
	for s.next() > 0 {
	}
}

func (s *http2Script) begin(stream uint32, status string, end bool) {
	s.fields.Reset()
	s.packer.WriteField(hpack.HeaderField{Name: ":status", Value: status})
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: s.fields.Bytes(), EndHeaders: true, EndStream: end})
}

func (s *http2Script) answer(stream uint32, body string) {
	s.begin(stream, "200", false)
	s.WriteData(stream, true, []byte(body))
}

func (s *http2Script) goAway(last uint32) { s.WriteGoAway(last, http2.ErrCodeNo, nil) }

// roundTrip waits until the client has seen all that was sent, and reads what it has sent before it did.
func (s *http2Script) roundTrip() {
	s.WritePing(false, [8]byte{})
	for {
		f, err := s.ReadFrame()
		if p, ok := f.(*http2.PingFrame); err != nil || ok && p.IsAck() {
			return
		}
	}
}

// scriptedHTTP2 listens, and treats each connection as the script says, which closes it by returning: in order, so that
// what it has not read resets nothing that the client has yet to read.
func scriptedHTTP2(t *testing.T, script func(s *http2Script)) (address string) {
	t.Helper()
	return scripted(t, func(c net.Conn, _ func() bool) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		s := &http2Script{Conn: c, Framer: http2.NewFramer(c, c)}
		s.packer = hpack.NewEncoder(&s.fields)
		s.WriteSettings()
		script(s)
		if c.(*net.TCPConn).CloseWrite() == nil {
			io.Copy(io.Discard, c)
		}
	})
}
