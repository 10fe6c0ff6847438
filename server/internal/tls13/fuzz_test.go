package tls13

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"
)

// script is what a fuzzer has chosen, byte by byte; it ends with zeros.
type script struct{ rest []byte }

func (s *script) next() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

// length returns one of 0 to 66,000, with those that are near a limit among them.
func (s *script) length() int {
	limits := []int{0, 1, smallLen, maxPlaintext, batchLen, 2 * batchLen}
	b := s.next()
	return max(0, limits[int(b)%len(limits)]+int(s.next())-128)
}

// link is one direction between two ends in memory.
type link struct{ bytes.Buffer }

// linked is an end in memory. A Read of what has not come yet fails because of its deadline.
type linked struct {
	*memory
	in, out *link
	step    int // of a Read
}

func (l *linked) Read(p []byte) (int, error) {
	if l.in.Len() == 0 {
		return 0, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	}
	if l.step > 0 {
		p = p[:min(l.step, len(p))]
	}
	return l.in.Read(p)
}

func (l *linked) Write(p []byte) (int, error) { return l.out.Write(p) }

// FuzzCryptoTLS has a client of crypto/tls and a server exchange data and KeyUpdates of both
// kinds, in pieces, while the server migrates or does not.
func FuzzCryptoTLS(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 200, 1, 1, 3, 4, 2, 2, 250, 1, 3, 0, 6, 5, 1, 3, 2, 4, 255, 6, 0})
	f.Add([]byte{9, 3, 1, 2, 3, 0, 2, 3, 1, 0, 1, 1, 3, 2, 1, 3, 4, 3, 4, 0, 2, 200, 2, 2, 200, 5, 5})
	f.Add(bytes.Repeat([]byte{3, 1, 0, 5, 140, 2, 3, 140, 4}, 20))
	f.Fuzz(func(t *testing.T, choices []byte) {
		s := script{choices}
		nc, ns := net.Pipe()
		client, server := &switchable{nc}, &switchable{ns}
		peer, state := handshake(t, client, server)
		var up, down link
		near := &linked{newMemory(), &up, &down, int(s.next())}
		far := &linked{newMemory(), &down, &up, int(s.next()) * 100}
		client.Conn, server.Conn = far, near
		c := newConn(t, near, state)
		var toServer, toClient []byte // what is on its way
		receive := func(from io.Reader, want *[]byte, n int) {
			t.Helper()
			got := make([]byte, n)
			n, err := from.Read(got)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if n > len(*want) || !bytes.Equal(got[:n], (*want)[:n]) {
				t.Fatalf("received %d bytes, of which the first is not the next of %d", n, len(*want))
			}
			*want = (*want)[n:]
		}
		for len(s.rest) > 0 {
			switch s.next() % 6 {
			case 0:
				p := pattern(s.length())
				if _, err := peer.Write(p); err != nil {
					t.Fatal(err)
				}
				toServer = append(toServer, p...)
			case 1:
				p := pattern(s.length())
				if _, err := c.Write(p); err != nil {
					t.Fatal(err)
				}
				toClient = append(toClient, p...)
			case 2:
				receive(c, &toServer, s.length())
			case 3:
				receive(peer, &toClient, s.length())
			case 4: // crypto/tls answers at once if it is requested
				near.Write(c.out.seal(nil, typeHandshake, []byte{typeKeyUpdate, 0, 0, 1, s.next() % 2}))
				c.out.update()
				toClient = append(toClient, 'x') // so that there are not too many in a row
				c.Write([]byte("x"))
			case 5:
				state, ok := c.Export()
				if !ok {
					continue
				}
				if s.next()%2 == 0 {
					c.Resume()
					continue
				}
				c.Discard()
				c = newConn(t, near, state)
			}
		}
		for len(toServer) > 0 || len(toClient) > 0 {
			left := len(toServer) + len(toClient)
			receive(c, &toServer, maxPlaintext)
			receive(peer, &toClient, maxPlaintext)
			if len(toServer)+len(toClient) == left && near.in.Len() == 0 && far.in.Len() == 0 {
				t.Fatalf("%d bytes are missing", left)
			}
		}
		c.CloseWrite()
		if n, err := peer.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("after a close_notify: %d and %v", n, err)
		}
	})
}

// FuzzRecords has a peer send records of any type and content, correctly protected, and compares
// what becomes of them with a simple model.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{23, 3, 'a', 'b', 'c', 0, 22, 5, 24, 0, 0, 1, 1, 0, 23, 1, 'd', 3, 21, 2, 1, 0, 0}, uint16(0))
	f.Add([]byte{22, 2, 24, 0, 0, 22, 3, 0, 1, 0, 5, 23, 0, 200, 23, 1, 'd', 0}, uint16(3))
	f.Add([]byte{21, 2, 1, 90, 0, 21, 2, 2, 40, 0}, uint16(1))
	f.Add([]byte{22, 6, 24, 0, 0, 1, 0, 24, 0}, uint16(7))
	f.Add([]byte{22, 5, 24, 0, 0, 1, 2, 0}, uint16(7))
	f.Add(bytes.Repeat([]byte{23, 0, 1}, 40), uint16(100))
	f.Fuzz(func(t *testing.T, choices []byte, step uint16) {
		s := script{choices}
		state := newState(suiteIDs[int(step)%3])
		layer, p := newMemory(), newPeer(t, state)
		layer.step = int(step) / 3
		c := newConn(t, layer, state)
		var m model
		for len(s.rest) > 0 && m.err == nil {
			kind := contentType(s.next())
			content := make([]byte, int(s.next())%16)
			for i := range content {
				content[i] = s.next()
			}
			padding := int(s.next()) * int(s.next()%8)
			layer.toRead = append(layer.toRead, p.inner(slices.Concat(content, []byte{byte(kind)}, make([]byte, padding)))...)
			if kind == 0 { // is padding, with the content before it
				end := len(content)
				for end > 0 && content[end-1] == 0 {
					end--
				}
				if end > 0 {
					kind, content = contentType(content[end-1]), content[:end-1]
				}
			}
			updates := m.updates
			m.receive(kind, content)
			if m.updates > updates {
				p.out.update()
			}
		}
		got, err := readAll(c)
		if string(got) != m.data {
			t.Fatalf("received %q and %v, want %q", got, err, m.data)
		}
		switch {
		case m.err == nil:
			if !errors.Is(err, os.ErrDeadlineExceeded) || len(layer.written) > 0 {
				t.Fatalf("%v, want none", err)
			}
			if c.requested.Load() != m.requested || c.Holds() != (len(m.message) > 0) {
				t.Fatalf("KeyUpdate requested %t, want %t; holds %t, %d bytes", c.requested.Load(), m.requested, c.Holds(), len(m.message))
			}
		case errors.Is(m.err, io.EOF):
			if !errors.Is(err, io.EOF) {
				t.Fatalf("%v, want %v", err, m.err)
			}
		case m.remote:
			if !errors.Is(err, m.err) {
				t.Fatalf("%v, want %v", err, m.err)
			}
			ends(t, c, layer, p, none)
		default:
			alert, _ := errors.AsType[tls.AlertError](m.err)
			ends(t, c, layer, p, alert)
		}
	})
}

// model says what becomes of records, one after another.
type model struct {
	data      string
	message   []byte
	updates   int
	requested bool
	useless   int
	err       error
	remote    bool
}

func (m *model) receive(kind contentType, content []byte) {
	m.useless++
	switch {
	case kind == typeApplicationData && len(m.message) == 0:
		if m.data += string(content); len(content) > 0 {
			m.useless = 0
		}
	case kind == typeAlert && len(content) == 2:
		switch alert := tls.AlertError(content[1]); {
		case alert == alertCloseNotify:
			m.err = io.EOF
		case alert != alertUserCanceled:
			m.err, m.remote = alert, true
		case len(m.message) > 0:
			m.err = alertUnexpectedMessage
		}
	case kind == typeAlert && len(content) > 0:
		m.err = alertDecodeError
	case kind == typeHandshake && len(content) > 0:
		m.message = append(m.message, content...)
		msg := m.message
		switch {
		case msg[0] != typeKeyUpdate:
			m.err = alertUnexpectedMessage
		case len(msg) >= 4 && !bytes.Equal(msg[1:4], []byte{0, 0, 1}):
			m.err = alertDecodeError
		case len(msg) >= 5 && msg[4] > 1:
			m.err = alertIllegalParameter
		case len(msg) > 5:
			m.err = alertUnexpectedMessage
		case len(msg) == 5:
			m.updates++
			m.requested = m.requested || msg[4] == 1
			m.message = nil
		}
	default:
		m.err = alertUnexpectedMessage
	}
	if m.err == nil && m.useless > maxUseless {
		m.err = alertUnexpectedMessage
	}
}

// FuzzWire has any bytes come after a record, in any pieces: none of them is ever delivered, and
// all that is sent is one alert.
func FuzzWire(f *testing.F) {
	f.Add([]byte{23, 3, 3, 0, 17, 1, 2, 3}, uint16(1))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(0))
	f.Add([]byte{23, 3, 3, 0x41, 1}, uint16(2))
	f.Add(append([]byte{23, 3, 3, 0, 19}, make([]byte, 40)...), uint16(2))
	f.Add([]byte{21, 3, 3, 0, 2, 1, 0}, uint16(3))
	f.Add(append([]byte{23, 3, 3, 1, 0}, make([]byte, 300)...), uint16(100))
	f.Fuzz(func(t *testing.T, wire []byte, step uint16) {
		state := newState(suiteIDs[int(step)%3])
		layer, p := newMemory(), newPeer(t, state)
		layer.step = int(step) / 3
		c := newConn(t, layer, state)
		layer.toRead = append(p.data("before"), wire...)
		got, err := readAll(c)
		if string(got) != "before" {
			t.Fatalf("received %q", got)
		}
		want := none
		switch {
		case len(wire) < headerLen:
		case wire[0] != byte(typeApplicationData):
			want = alertUnexpectedMessage
		case binary.BigEndian.Uint16(wire[3:]) > maxCiphertext:
			want = alertRecordOverflow
		case len(wire) >= headerLen+int(binary.BigEndian.Uint16(wire[3:])):
			want = alertBadRecordMAC
		}
		if want != none {
			ends(t, c, layer, p, want)
		} else if !errors.Is(err, os.ErrDeadlineExceeded) || c.Pending() != len(wire) {
			t.Fatalf("%v with %d bytes pending, want %d", err, c.Pending(), len(wire))
		}
	})
}
