package server

// This file holds the self-test of HTTP/2.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"example.com/baton/server/internal/boundary"
)

// http2Support tells what net/http was found to do.
type http2Support struct {
	speaks bool // HTTP/2
	drains bool // it shuts a connection down as http2Conn relies on
}

// testHTTP2 has a conversation with net/http in HTTP/2, and drains it.
func (s *Server) testHTTP2() http2Support {
	var found http2Support
	late, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	client, far := net.Pipe()
	deadline, _ := late.Deadline()
	client.SetDeadline(deadline)
	c := &conn{Conn: far, server: s, isCheck: true}
	c.response.conn = c
	err := s.http.Serve(&oneConn{conn: c})
	if isClosed(err) {
		t := &http2Talk{Conn: client, frames: make(chan frame, 100)}
		heard := make(chan struct{})
		go func() { defer close(heard); t.listen() }()
		if err = t.begin(); err == nil {
			found.speaks = true
			if err = t.drain(c.http2.Load()); err == nil {
				found.drains = true
			}
		}
		client.Close()
		<-heard
	}
	if !found.speaks {
		s.opts.Logger.Warn("HTTP/2 is not spoken", "error", err)
	} else if !found.drains {
		s.opts.Logger.Warn("clients of HTTP/2 may have to repeat requests at an upgrade: net/http does not end connections as expected",
			"error", err)
	}
	return found
}

// http2Talk is the client of such a conversation.
type http2Talk struct {
	net.Conn
	frames chan frame
}

// listen notes the frames that come.
func (t *http2Talk) listen() {
	defer close(t.frames)
	for {
		var header [frameHeader]byte
		if _, err := io.ReadFull(t, header[:]); err != nil {
			return
		}
		payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
		if _, err := io.ReadFull(t, payload); err != nil {
			return
		}
		t.frames <- frame{header[3], header[4], binary.BigEndian.Uint32(header[5:]), len(payload), payload}
	}
}

// ask sends a request: OPTIONS *.
func (t *http2Talk) ask(stream uint32) error {
	fields := []byte("\x02\x07OPTIONS\x04\x01*\x86\x01\x05check") // RFC 7541: plain literals, and a scheme of http
	_, err := t.Write(appendStreamFrame(nil, frameHeaders, flagEndHeaders|flagEndStream, stream, fields))
	return err
}

// await returns the next frame of a kind on a stream, and fails if an answer comes
// to a stream beyond it, or the connection ends.
func (t *http2Talk) await(kind byte, stream uint32, most uint32) (frame, error) {
	for f := range t.frames {
		if f.kind == kind && f.stream == stream {
			return f, nil
		}
		if f.stream > most {
			return frame{}, fmt.Errorf("a request is answered that was not expected to be: stream %d", f.stream)
		}
	}
	return frame{}, fmt.Errorf("no frame of type %d came on stream %d", kind, stream)
}

func (t *http2Talk) answered(stream uint32) error {
	const status200 = 0x88 // RFC 7541, appendix A
	f, err := t.await(frameHeaders, stream, stream)
	if err == nil && (len(f.payload) == 0 || f.payload[0] != status200 || f.flags&flagEndStream == 0) {
		err = fmt.Errorf("got %x as the answer", f.payload)
	}
	return err
}

func (t *http2Talk) begin() error {
	if _, err := t.Write(appendFrame([]byte(boundary.Preface), frameSettings, 0, nil)); err != nil {
		return err
	}
	if err := t.ask(1); err != nil {
		return err
	}
	return t.answered(1)
}

// drain goes through both steps. A request made between the two is answered, one
// after them is not.
func (t *http2Talk) drain(h *http2Conn) error {
	if h == nil {
		return errors.New("the preface was not recognized")
	}
	h.notice()
	if err := t.awaitGoAway(1<<31-1, 1); err != nil {
		return err
	}
	ping, err := t.await(framePing, 0, 1)
	if err != nil {
		return err
	}
	if err := t.ask(3); err != nil {
		return err
	}
	if err := t.answered(3); err != nil {
		return err
	}
	if _, err := t.Write(appendFrame(nil, framePing, flagAck, ping.payload)); err != nil {
		return err
	}
	if err := t.awaitGoAway(3, 3); err != nil {
		return err
	}
	if err := t.ask(5); err != nil {
		return err
	}
	if _, err := t.Write(appendFrame(nil, framePing, 0, ping.payload)); err != nil {
		return err
	}
	_, err = t.await(framePing, 0, 3)
	return err
}

func (t *http2Talk) awaitGoAway(last, most uint32) error {
	f, err := t.await(frameGoAway, 0, most)
	if err == nil && (len(f.payload) < 8 || binary.BigEndian.Uint32(f.payload) != last || binary.BigEndian.Uint32(f.payload[4:]) != 0) {
		err = fmt.Errorf("got a GOAWAY with %x, want one for stream %d without an error", f.payload, last)
	}
	return err
}
