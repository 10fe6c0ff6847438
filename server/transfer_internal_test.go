package server

import (
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"example.com/baton/upgrade"
)

func TestTransferProtocol(t *testing.T) {
	for _, test := range []struct {
		transfer transfer
		want     string
	}{
		{transfer{}, "http/1.1"},
		{transfer{TLS: new(tlsState)}, "http/1.1+tls"},
		{transfer{HTTP2: new(http2State)}, "http/2"},
		{transfer{TLS: new(tlsState), HTTP2: new(http2State)}, "http/2+tls"},
		{transfer{Tunnel: new(tunnelState)}, "tunnel"},
		{transfer{TLS: new(tlsState), Tunnel: new(tunnelState)}, "tunnel+tls"},
	} {
		if got := test.transfer.protocol().String(); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

// A connection that needs nothing but its socket has no state, so that every release
// understands it.
func TestTransferOfNothing(t *testing.T) {
	if s, err := (transfer{}).encode(); s != nil || err != nil {
		t.Errorf("got %q, %v, want nil", []byte(s), err)
	}
	if got, err := decodeTransfer(nil); got != (transfer{}) || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What is not understood to the last part is refused, and nothing is counted or kept of it.
func TestAdoptRefusesWhatItCannotServe(t *testing.T) {
	ln := &net.TCPListener{}
	s := New(Options{})
	s.Add(ln)
	for name, c := range map[string]upgrade.Connection{
		"no JSON":                      {State: upgrade.ConnectionState(`{`)},
		"no object":                    {State: upgrade.ConnectionState(`7`)},
		"of a later release":           {State: upgrade.ConnectionState(`{"http/3":{}}`)},
		"in part of a later release":   {State: upgrade.ConnectionState(`{"http2":{},"later":{}}`)},
		"of the wrong type":            {State: upgrade.ConnectionState(`{"http2":7}`)},
		"TLS on a plain listener":      {State: upgrade.ConnectionState(`{"tls":{}}`)},
		"secrets without TLS":          {State: upgrade.ConnectionState(`{"secrets":["c2VjcmV0","c2VjcmV0"]}`)},
		"a peer without a tunnel":      {Peer: new(net.TCPConn)},
		"a tunnel that nobody resumes": {State: upgrade.ConnectionState(`{"tunnel":{}}`)},
	} {
		t.Run(name, func(t *testing.T) {
			c.Conn, c.Listener = new(net.TCPConn), ln
			if s.Adopt(c) != nil {
				t.Error("taken")
			}
			if in, _ := s.Migrated(); in != 0 || s.count() != 0 {
				t.Errorf("%d connections count as migrated, %d as open, want none", in, s.count())
			}
		})
	}
}

// What is spoken over TLS cannot be without a handshake.
func TestAdoptRefusesWhatHadNoHandshake(t *testing.T) {
	ln := &net.TCPListener{}
	s := New(Options{Resume: func(Tunnels, []byte) http.Handler { return http.NotFoundHandler() }})
	s.AddTLS(ln, new(tls.Config))
	for name, state := range map[string]string{
		"a tunnel": `{"tls":{},"tunnel":{"request":"R0VUIC8gSFRUUC8xLjENCkhvc3Q6IHgNCg0K"}}`,
		"HTTP/2":   `{"tls":{},"http2":{"streams":{"send":65535}}}`,
	} {
		if s.Adopt(upgrade.Connection{Conn: new(net.TCPConn), Listener: ln, State: upgrade.ConnectionState(state)}) != nil {
			t.Errorf("%s: taken", name)
		}
	}
	if s.Adopt(upgrade.Connection{Conn: new(net.TCPConn), Listener: ln, State: upgrade.ConnectionState(`{"tls":{}}`)}) == nil {
		t.Error("nothing but TLS: refused")
	}
}
