package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/server/internal/frames"
)

// http2Support is what net/http was found to do.
type http2Support struct {
	speaks bool // HTTP/2
	drains bool // it shuts a connection down as http2Conn relies on
	// migrates: it can be brought to the state of a connection, and shows when it owes nothing.
	migrates bool
}

// http2Patience is the time of the first timer with which net/http closes a connection
// of HTTP/2 by itself, beside that for idle ones: two seconds for the client's SETTINGS.
const http2Patience = 2 * time.Second

// errNotHTTP2 is what net/http's first bytes show.
var errNotHTTP2 = errors.New("the answer is not in HTTP/2")

// testHTTP2 has a conversation with net/http in HTTP/2, and drains it. One that fails
// after net/http's own timers may have ended it proves nothing, and is had again: the
// machine is busy.
func (s *Server) testHTTP2() (found http2Support) {
	err := s.untilInTime(func() (err error) { found, err = s.converseHTTP2(); return err })
	switch {
	case err == nil && !s.opts.DisableMigration:
		found.migrates = s.testHTTP2Migration()
	case err == nil:
	case !found.speaks:
		s.opts.Logger.Warn("HTTP/2 is disabled", "error", err)
	default:
		s.opts.Logger.Warn("clients of HTTP/2 may have to repeat requests at an upgrade: net/http does not close connections as expected",
			"error", err)
	}
	return found
}

// untilInTime repeats a conversation that has failed when net/http's timers may have ended it.
func (s *Server) untilInTime(converse func() error) error {
	for {
		begin := time.Now()
		err := converse()
		ranOut := time.Since(begin) >= min(http2Patience, s.opts.IdleTimeout)
		if err == nil || !ranOut || errors.Is(err, errNotHTTP2) {
			return err
		}
	}
}

func (s *Server) converseHTTP2() (found http2Support, err error) {
	client, c := s.checkPipe(func(nc net.Conn) net.Conn { return nc })
	t, end := newHTTP2Talk(client)
	defer end()
	if err := s.serveCheck(c); err != nil {
		return found, err
	}
	if err := t.begin(); err != nil {
		return found, err
	}
	found.speaks = true
	err = t.drain(c.follower(), 3)
	found.drains = err == nil
	return found, err
}

// http2Talk is the client of such a conversation.
type http2Talk struct {
	net.Conn
	frames chan frames.Frame // that come; closed at the connection's end
	pings  byte              // that were sent
}

func newHTTP2Talk(client net.Conn) (t *http2Talk, end func()) {
	t = &http2Talk{Conn: client, frames: make(chan frames.Frame, 100)}
	received := make(chan struct{})
	go func() { defer close(received); t.receive() }()
	return t, func() {
		client.Close()
		for range t.frames { // so that receive is not blocked
		}
		<-received
	}
}

// receive reads the frames that come.
func (t *http2Talk) receive() {
	defer close(t.frames)
	for {
		var header [frames.HeaderLen]byte
		if _, err := io.ReadFull(t, header[:]); err != nil {
			return
		}
		length := int(header[0])<<16 | int(header[1])<<8 | int(header[2])
		payload := make([]byte, min(length, maxFrame)) // a longer one is no frame
		if length <= maxFrame {
			if _, err := io.ReadFull(t, payload); err != nil {
				return
			}
		}
		t.frames <- frames.Frame{Type: header[3], Flags: header[4],
			Stream: binary.BigEndian.Uint32(header[5:]), Length: length, Payload: payload}
	}
}

// ask sends a request: OPTIONS *.
func (t *http2Talk) ask(stream uint32, fields string) error {
	_, err := t.Write(frames.Append(nil, frames.Headers, frames.FlagEndHeaders|frames.FlagEndStream, stream, []byte(fields)))
	return err
}

// answered awaits the answer to a request.
func (t *http2Talk) answered(stream uint32) error {
	const status200 = 0x88 // RFC 7541, appendix A
	for f := range t.frames {
		for len(f.Payload) > 0 && f.Payload[0]&0xe0 == 0x20 { // the size of the table
			f.Payload = f.Payload[1:]
		}
		switch {
		case f.Stream > stream:
			return fmt.Errorf("a request is answered that was not made: stream %d", f.Stream)
		case f.Stream != stream || f.Type != frames.Headers:
		case len(f.Payload) == 0 || f.Payload[0] != status200 || f.Flags&frames.FlagEndStream == 0:
			return fmt.Errorf("got %x as the answer", f.Payload)
		default:
			return nil
		}
	}
	return fmt.Errorf("the connection ends before the answer on stream %d", stream)
}

var errEnds = errors.New("the connection ends")

// sync sends a PING, and returns the frames that precede its answer, or the connection's end.
// net/http processes what it gets in order.
func (t *http2Talk) sync() (before []frames.Frame, err error) {
	t.pings++
	payload := []byte{'c', 'h', 'e', 'c', 'k', 0, 0, t.pings}
	t.Write(frames.Append(nil, frames.Ping, 0, 0, payload)) // what has come is read nevertheless
	for f := range t.frames {
		if f.Type == frames.Ping && f.Flags&frames.FlagAck != 0 && string(f.Payload) == string(payload) {
			return before, nil
		}
		before = append(before, f)
	}
	return before, errEnds
}

// begin makes the first request.
func (t *http2Talk) begin() error {
	if _, err := t.Write(frames.Append([]byte(boundary.Preface), frames.Settings, 0, 0, nil)); err != nil {
		return err
	}
	switch first, ok := <-t.frames; { // RFC 9113, section 3.4
	case !ok:
		return errEnds
	case first.Type != frames.Settings:
		return errNotHTTP2
	}
	if err := t.ask(1, checkFields); err != nil {
		return err
	}
	return t.answered(1)
}

// drain goes through both steps. A request made between the two, on the next stream, is
// answered, one after them is not.
func (t *http2Talk) drain(f follower, next uint32) error {
	h, ok := f.(*http2Conn)
	if !ok {
		return errors.New("the preface was not recognized")
	}
	h.notice()
	if err := t.goesAway(1<<31 - 1); err != nil {
		return err
	}
	if err := t.ask(next, checkFields); err != nil {
		return err
	}
	if err := t.answered(next); err != nil {
		return err
	}
	if _, err := t.Write(frames.Append(nil, frames.Ping, frames.FlagAck, 0, []byte(drainPing))); err != nil {
		return err
	}
	h.end() // now, if the timer has not done so
	if err := t.goesAway(next); err != nil {
		return err
	}
	// net/http closes the connection a second after, which may be now.
	if t.ask(next+2, checkFields) != nil {
		return nil
	}
	before, _ := t.sync()
	if slices.ContainsFunc(before, func(f frames.Frame) bool { return f.Stream > next }) {
		return errors.New("a request is answered that came after the last GOAWAY")
	}
	return nil
}

// goesAway fails unless there is a GOAWAY without an error, and for this last stream. It may follow on
// the answer to a PING that had come when the GOAWAY was asked for, and the connection may have ended since.
func (t *http2Talk) goesAway(last uint32) error {
	for range 3 {
		passed, err := t.sync()
		for _, f := range passed {
			if f.Type != frames.GoAway {
				continue
			}
			if len(f.Payload) < 8 || binary.BigEndian.Uint32(f.Payload) != last || binary.BigEndian.Uint32(f.Payload[4:]) != 0 {
				return fmt.Errorf("got a GOAWAY with %x, want one for stream %d without an error", f.Payload, last)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("got no GOAWAY for stream %d", last)
}
