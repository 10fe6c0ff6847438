package tls13

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
)

// readAll reads until there is nothing more to be read, or an error.
func readAll(c *Conn) (data []byte, err error) {
	p := make([]byte, 1000)
	for {
		n, err := c.Read(p)
		data = append(data, p[:n]...)
		if err != nil {
			return data, err
		}
	}
}

// none is the alert that is not sent.
const none tls.AlertError = 255

// ends checks that a connection over a layer has ended with an alert to the peer, or with none,
// and that nothing follows.
func ends(t *testing.T, c *Conn, layer *memory, p *peer, alert tls.AlertError) {
	t.Helper()
	_, first := c.Read(make([]byte, 1))
	for range 2 {
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, first) {
			t.Errorf("another Read: %d and %v, want %v", n, err, first)
		}
	}
	if alert != none {
		got := p.receive(t, layer.sent())
		if !slices.Equal(got.alerts, []tls.AlertError{alert}) || got.data != "" || got.updates > 0 || got.rest > 0 {
			t.Errorf("sent %+v, want alert %d", got, alert)
		}
		var sent tls.AlertError
		if op, ok := errors.AsType[*net.OpError](first); !ok || op.Op != "local error" || !errors.As(first, &sent) || sent != alert {
			t.Errorf("error %#v, want alert %d", first, alert)
		}
	}
	if n, err := c.Write([]byte("more")); n != 0 || !errors.Is(err, first) {
		t.Errorf("Write: %d and %v, want %v", n, err, first)
	}
	c.CloseWrite()
	c.Close()
	if got := layer.sent(); len(got) > 0 {
		t.Errorf("%d bytes were written after the end", len(got))
	}
	if c.Holds() || c.Pending() != 0 || c.in.large != nil {
		t.Error("something is held")
	}
	if _, ok := c.Export(); ok {
		t.Error("was exported")
	}
}

func TestViolations(t *testing.T) {
	message := func(m ...byte) func(*peer) []byte {
		return func(p *peer) []byte { return p.record(typeHandshake, m...) }
	}
	inner := func(plaintext []byte) func(*peer) []byte {
		return func(p *peer) []byte { return p.inner(plaintext) }
	}
	raw := func(wire ...byte) func(*peer) []byte { return func(*peer) []byte { return wire } }
	of := func(kind contentType, content ...byte) func(*peer) []byte {
		return func(p *peer) []byte { return p.record(kind, content...) }
	}
	all := func(parts ...func(*peer) []byte) func(*peer) []byte {
		return func(p *peer) (wire []byte) {
			for _, part := range parts {
				wire = append(wire, part(p)...)
			}
			return wire
		}
	}
	many := func(n int, part func(*peer) []byte) func(*peer) []byte {
		return all(slices.Repeat([]func(*peer) []byte{part}, n)...)
	}
	update := func(requested byte) func(*peer) []byte { return func(p *peer) []byte { return p.update(requested) } }
	data := func(p *peer) []byte { return p.data("data") }

	for _, tt := range []struct {
		name  string
		wire  func(*peer) []byte
		alert tls.AlertError
	}{
		// RFC 8446, section 5
		{"change_cipher_spec", raw(20, 3, 3, 0, 1, 1), alertUnexpectedMessage},
		{"unprotected alert", raw(21, 3, 3, 0, 2, 1, 0), alertUnexpectedMessage},
		{"unprotected KeyUpdate", raw(22, 3, 3, 0, 5, 24, 0, 0, 1, 0), alertUnexpectedMessage},
		{"plain HTTP", raw([]byte("GET / HTTP/1.1\r\n\r\n")...), alertUnexpectedMessage},
		{"protected change_cipher_spec", of(20, 1), alertUnexpectedMessage},
		{"invalid type", of(255, 1), alertUnexpectedMessage},
		{"heartbeat", of(24, 1, 0, 1, 0), alertUnexpectedMessage},
		// section 5.1
		{"empty alert", of(typeAlert), alertUnexpectedMessage},
		{"empty handshake", of(typeHandshake), alertUnexpectedMessage},
		{"half an alert", of(typeAlert, 1), alertDecodeError},
		{"two alerts", of(typeAlert, 1, 90, 1, 0), alertDecodeError},
		{"user_canceled within a message", all(message(24, 0), of(typeAlert, 1, 90)), alertUnexpectedMessage},
		{"a message that is too long in its third byte", message(24, 0, 1, 1, 0), alertDecodeError},
		{"data within a message", all(message(24, 0), data), alertUnexpectedMessage},
		{"empty data within a message", all(message(24, 0), of(typeApplicationData)), alertUnexpectedMessage},
		{"alert within a message", all(message(24, 0), of(typeAlert, 1, 90)), alertUnexpectedMessage},
		{"more after a KeyUpdate", message(24, 0, 0, 1, 0, 24), alertUnexpectedMessage},
		{"two KeyUpdates in a record", message(24, 0, 0, 1, 0, 24, 0, 0, 1, 0), alertUnexpectedMessage},
		{"one and a half in pieces", all(message(24, 0, 0), message(1, 0, 24, 0)), alertUnexpectedMessage},
		{"too many empty records", many(maxUseless+1, of(typeApplicationData)), alertUnexpectedMessage},
		{"too many padded records", many(maxUseless+1, inner(append([]byte{23}, make([]byte, 1000)...))), alertUnexpectedMessage},
		{"too many KeyUpdates", many(maxUseless+1, update(updateNotRequested)), alertUnexpectedMessage},
		{"too many requests", many(maxUseless+1, update(updateRequested)), alertUnexpectedMessage},
		{"too many warnings", many(maxUseless+1, of(typeAlert, 1, 90)), alertUnexpectedMessage},
		{"too many of all kinds", many(maxUseless/3+1, all(of(typeAlert, 1, 90), of(typeApplicationData), update(0))), alertUnexpectedMessage},
		// section 5.2
		{"record overflow", raw(23, 3, 3, 0x41, 1), alertRecordOverflow},
		{"longest length", raw(23, 3, 3, 255, 255), alertRecordOverflow},
		{"inner overflow", inner(append(make([]byte, maxPlaintext+1), 23)), alertRecordOverflow},
		{"inner overflow by padding", inner(append([]byte{1, 23}, make([]byte, maxPlaintext)...)), alertRecordOverflow},
		{"longest record", inner(make([]byte, maxCiphertext-tagLen)), alertRecordOverflow},
		{"no ciphertext", raw(23, 3, 3, 0, 0), alertBadRecordMAC},
		{"less than a tag", raw(append([]byte{23, 3, 3, 0, 15}, make([]byte, 15)...)...), alertBadRecordMAC},
		{"zero tag", raw(append([]byte{23, 3, 3, 0, 16}, make([]byte, 16)...)...), alertBadRecordMAC},
		{"replayed", func(p *peer) []byte { return bytes.Repeat(p.data("data"), 2) }, alertBadRecordMAC},
		{"reordered", func(p *peer) []byte {
			first := p.data("first")
			return append(p.data("second"), first...)
		}, alertBadRecordMAC},
		{"omitted", func(p *peer) []byte { p.data("first"); return p.data("second") }, alertBadRecordMAC},
		{"old key", func(p *peer) []byte {
			old := outbound{p.out.traffic}
			old.Half = old.Half.clone()
			wire := p.update(updateNotRequested)
			return append(wire, old.seal(nil, typeApplicationData, []byte("old"))...)
		}, alertBadRecordMAC},
		{"new key without KeyUpdate", func(p *peer) []byte { p.update(updateNotRequested); return p.data("new") }, alertBadRecordMAC},
		// section 5.4
		{"nothing inside", inner(nil), alertUnexpectedMessage},
		{"only padding", inner(make([]byte, 100)), alertUnexpectedMessage},
		{"only padding, as much as fits", inner(make([]byte, maxPlaintext+1)), alertUnexpectedMessage},
		// section 4.6
		{"ticket from a client", message(4, 0, 0, 0), alertUnexpectedMessage},
		{"ClientHello", message(1, 0, 0, 0), alertUnexpectedMessage},
		{"Certificate", message(11, 0, 0, 0), alertUnexpectedMessage},
		{"HelloRequest", message(0, 0, 0, 0), alertUnexpectedMessage},
		{"KeyUpdate without content", message(24, 0, 0, 0), alertDecodeError},
		{"long KeyUpdate", message(24, 0, 0, 2, 0, 0), alertDecodeError},
		{"huge KeyUpdate", message(24, 1, 0, 1, 0), alertDecodeError},
		{"KeyUpdate with another value", message(24, 0, 0, 1, 2), alertIllegalParameter},
	} {
		for _, suite := range suiteIDs {
			t.Run(fmt.Sprintf("%s/%x", tt.name, suite), func(t *testing.T) {
				state := newState(suite)
				layer, p := newMemory(), newPeer(t, state)
				c := newConn(t, layer, state)
				layer.toRead = slices.Concat(p.data("before"), tt.wire(p), p.data("after"))
				if got, err := readAll(c); !bytes.HasPrefix([]byte("beforedata"), got) || bytes.Contains(got, []byte("after")) {
					t.Errorf("received %q and %v", got, err)
				}
				ends(t, c, layer, p, tt.alert)
			})
		}
	}
}

// TestTampered changes every byte of a record, header and tag included.
func TestTampered(t *testing.T) {
	for _, suite := range suiteIDs {
		state := newState(suite)
		wire := newPeer(t, state).data("this is the content")
		for i := range wire {
			for _, bit := range []byte{1, 0x80} {
				layer, p := newMemory(), newPeer(t, state)
				c := newConn(t, layer, state)
				layer.toRead = slices.Clone(wire)
				layer.toRead[i] ^= bit
				want := alertBadRecordMAC
				switch {
				case i == 0:
					want = alertUnexpectedMessage
				case i == 3 && bit == 0x80:
					want = alertRecordOverflow
				case i == 3, i == 4 && bit == 0x80: // longer than what comes
					layer.ended, want = true, none
				case i == 4 && wire[4]&bit == 0:
					layer.ended, want = true, none
				}
				data, err := readAll(c)
				if len(data) > 0 {
					t.Fatalf("byte %d: received %q", i, data)
				}
				if want == none {
					if !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("byte %d: %v", i, err)
					}
					continue
				}
				ends(t, c, layer, p, want)
			}
		}
	}
}

// TestTruncated ends the layer below at every byte.
func TestTruncated(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	wire := newPeer(t, state).data("this is the content")
	for n := range len(wire) + 1 {
		layer, p := newMemory(), newPeer(t, state)
		c := newConn(t, layer, state)
		layer.toRead, layer.ended = wire[:n:n], true
		data, err := readAll(c)
		if whole := n == len(wire); (len(data) > 0) != whole || (errors.Is(err, io.EOF)) != (whole || n == 0) || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %d: received %q and %v", n, len(wire), data, err)
		}
		// The peer may still read.
		c.Write([]byte("answer"))
		c.Close()
		if got := p.receive(t, layer.sent()); got.data != "answer" || !slices.Equal(got.alerts, []tls.AlertError{alertCloseNotify}) {
			t.Errorf("%d bytes of %d: sent %+v", n, len(wire), got)
		}
	}
}

// TestUselessRecords has as many of them as are allowed, more than once.
func TestUselessRecords(t *testing.T) {
	state := newState(tls.TLS_CHACHA20_POLY1305_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	for range 3 {
		for i := range maxUseless {
			switch i % 3 {
			case 0:
				layer.toRead = append(layer.toRead, p.record(typeApplicationData)...)
			case 1:
				layer.toRead = append(layer.toRead, p.update(updateNotRequested)...)
			case 2:
				layer.toRead = append(layer.toRead, p.record(typeAlert, levelWarning, byte(alertUserCanceled))...)
			}
		}
		layer.toRead = append(layer.toRead, p.data("data")...)
	}
	if got, err := readAll(c); string(got) != "datadatadata" || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("received %q and %v", got, err)
	}
	for range maxUseless {
		layer.toRead = append(layer.toRead, p.record(typeApplicationData)...)
	}
	layer.toRead = append(layer.toRead, p.record(typeAlert, levelWarning, byte(alertCloseNotify))...)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("close_notify after as many as are allowed: got %v, want io.EOF", err)
	}
}

// TestRecordLen has the longest record that is allowed, which no content can fill without padding.
func TestRecordLen(t *testing.T) {
	for length, want := range map[int]error{0: nil, maxCiphertext: nil, maxCiphertext + 1: alertRecordOverflow} {
		if n, err := recordLen([]byte{23, 3, 3, byte(length >> 8), byte(length)}); !errors.Is(err, want) || err == nil && n != headerLen+length {
			t.Errorf("%d: got %d and %v, want %v", length, n, err, want)
		}
	}
}

// TestCanceledWithinMessage has the alert at once, whatever follows.
func TestCanceledWithinMessage(t *testing.T) {
	state := newState(tls.TLS_AES_128_GCM_SHA256)
	layer, p := newMemory(), newPeer(t, state)
	c := newConn(t, layer, state)
	layer.toRead = slices.Concat(p.record(typeHandshake, typeKeyUpdate, 0), p.record(typeAlert, levelWarning, byte(alertUserCanceled)))
	if _, err := readAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("is ignored")
	}
	ends(t, c, layer, p, alertUnexpectedMessage)
}

// TestUpdateZeroes has the secret zeroed of which the next one is derived.
func TestUpdateZeroes(t *testing.T) {
	p := newPeer(t, newState(tls.TLS_AES_128_GCM_SHA256))
	old := p.out.Secret
	p.update(updateNotRequested)
	if !bytes.Equal(old, make([]byte, len(old))) {
		t.Error("the secret of before is still there")
	}
}

// TestRemoteAlerts receives every alert, of either level.
func TestRemoteAlerts(t *testing.T) {
	for code := range 256 {
		for _, level := range []byte{levelWarning, levelFatal, 0, 255} {
			alert := tls.AlertError(code)
			state := newState(tls.TLS_AES_256_GCM_SHA384)
			layer, p := newMemory(), newPeer(t, state)
			c := newConn(t, layer, state)
			layer.toRead = slices.Concat(p.data("before"), p.record(typeAlert, level, byte(code)), p.data("after"))
			got, err := readAll(c)
			switch alert {
			case alertUserCanceled:
				if string(got) != "beforeafter" || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("user_canceled: %q and %v", got, err)
				}
			case alertCloseNotify:
				if string(got) != "before" || !errors.Is(err, io.EOF) {
					t.Errorf("close_notify: %q and %v", got, err)
				}
				if _, ok := c.Export(); ok {
					t.Error("was exported after a close_notify")
				}
				if _, err := c.Write([]byte("answer")); err != nil || p.receive(t, layer.sent()).data != "answer" {
					t.Error("no Write after a close_notify:", err)
				}
			default:
				var received tls.AlertError
				if op, ok := errors.AsType[*net.OpError](err); string(got) != "before" || !ok || op.Op != "remote error" || !errors.As(err, &received) || received != alert {
					t.Errorf("alert %d: %q and %v", code, got, err)
				}
				ends(t, c, layer, p, none)
			}
		}
	}
}
