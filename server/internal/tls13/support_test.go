package tls13

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"example.com/baton/server/internal/selfsigned"
)

// suiteIDs are all cipher suites.
var suiteIDs = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}

// newState returns a state with random secrets.
func newState(suite uint16) State {
	half := func() Half {
		secret := make(Secret, suites[suite].secretLen)
		rand.Read(secret)
		return Half{Secret: secret}
	}
	return State{Suite: suite, In: half(), Out: half()}
}

// peer returns the state of the other end.
func (s State) peer() State {
	return State{Suite: s.Suite, In: s.Out.clone(), Out: s.In.clone()}
}

// newConn returns a connection, which must be possible.
func newConn(t testing.TB, c net.Conn, s State) *Conn {
	t.Helper()
	conn, err := New(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	b, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

// recordwise returns at most the rest of a record with each Read.
type recordwise struct {
	net.Conn
	header [headerLen]byte
	have   int
	left   int
}

func (r *recordwise) Read(p []byte) (int, error) {
	if r.have < headerLen {
		n, err := r.Conn.Read(r.header[r.have:min(headerLen, r.have+len(p))])
		copy(p, r.header[r.have:r.have+n])
		if r.have += n; r.have == headerLen {
			r.left = int(r.header[3])<<8 | int(r.header[4])
		}
		return n, err
	}
	n, err := r.Conn.Read(p[:min(len(p), r.left)])
	if r.left -= n; r.left == 0 {
		r.have = 0
	}
	return n, err
}

// secretLog collects what crypto/tls writes as a key log.
type secretLog struct{ bytes.Buffer }

func (l *secretLog) secret(t testing.TB, label string) Secret {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		if f := strings.Fields(line); f[0] == label {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
	}
	t.Fatalf("no secret %s", label)
	return nil
}

// handshake performs the handshake of crypto/tls over a connection, and returns the client
// and the state of the server.
func handshake(t testing.TB, client, server net.Conn) (*tls.Conn, State) {
	t.Helper()
	pair := selfsigned.New(t, time.Now().Add(time.Hour), "localhost")
	var log secretLog
	s := tls.Server(&recordwise{Conn: server}, &tls.Config{Certificates: []tls.Certificate{pair.TLS(t)},
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, KeyLogWriter: &log})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	c := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return c, State{Suite: s.ConnectionState().CipherSuite,
		In: Half{Secret: log.secret(t, "CLIENT_TRAFFIC_SECRET_0")}, Out: Half{Secret: log.secret(t, "SERVER_TRAFFIC_SECRET_0")}}
}
