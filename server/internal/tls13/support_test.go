package tls13

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"slices"
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

// peer is the other end of a connection, which sends what it likes.
type peer struct {
	in  inbound
	out outbound
}

func newPeer(t testing.TB, s State) *peer {
	t.Helper()
	s = s.peer()
	in, err := newTraffic(suites[s.Suite], s.In)
	if err != nil {
		t.Fatal(err)
	}
	out, err := newTraffic(suites[s.Suite], s.Out)
	if err != nil {
		t.Fatal(err)
	}
	return &peer{inbound{traffic: in}, outbound{out}}
}

// inner returns a record with an inner plaintext, which has the type and the padding in it.
func (p *peer) inner(plaintext []byte) []byte {
	header := []byte{byte(typeApplicationData), 3, 3, 0, 0}
	binary.BigEndian.PutUint16(header[3:], uint16(len(plaintext)+tagLen))
	record := p.out.aead.Seal(header, p.out.nonce(), plaintext, header)
	p.out.Sequence++
	return record
}

// record returns a record.
func (p *peer) record(kind contentType, content ...byte) []byte {
	return p.inner(append(slices.Clip(content), byte(kind)))
}

// data returns a record with application data.
func (p *peer) data(s string) []byte { return p.record(typeApplicationData, []byte(s)...) }

// update returns a record with a KeyUpdate, and changes keys.
func (p *peer) update(requested byte) []byte {
	record := p.record(typeHandshake, typeKeyUpdate, 0, 0, 1, requested)
	if err := p.out.update(); err != nil {
		panic(err)
	}
	return record
}

// received is what was received: application data, and what else there was.
type received struct {
	data    string
	updates int              // KeyUpdates
	alerts  []tls.AlertError // close_notify included
	rest    int              // bytes of a record that is not whole
}

// receive receives records, which must be valid.
func (p *peer) receive(t testing.TB, wire []byte) (r received) {
	t.Helper()
	var all strings.Builder
	for len(wire) >= headerLen {
		n, err := recordLen(wire)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.alerts) > 0 {
			t.Errorf("something follows the alert %v", r.alerts)
		}
		if n > len(wire) {
			break
		}
		secret := slices.Clone(p.in.Secret)
		data, _, err := p.in.receive(slices.Clone(wire[:n]))
		var alert tls.AlertError
		switch {
		case errors.Is(err, io.EOF), errors.As(err, &alert) && err != error(alert): //nolint:errorlint // a remote error wraps one
			r.alerts = append(r.alerts, alert)
		case err != nil:
			t.Fatal("received: ", err)
		}
		if !bytes.Equal(p.in.Secret, secret) {
			r.updates++
		}
		all.Write(data)
		wire = wire[n:]
	}
	r.data, r.rest = all.String(), len(wire)
	return r
}

// memory is a layer below in memory. A Read of what has not come yet fails because of its
// deadline.
type memory struct {
	toRead  []byte
	step    int // of a Read, in bytes; 0: no limit
	ended   bool
	written [][]byte // by each Write
	take    int      // how much of the next Write is taken before it fails; -1: all
	err     error    // of the Write that fails
}

func newMemory() *memory { return &memory{take: -1} }

func (m *memory) Read(p []byte) (int, error) {
	switch {
	case len(m.toRead) > 0:
	case m.ended:
		return 0, io.EOF
	default:
		return 0, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	}
	if m.step > 0 {
		p = p[:min(m.step, len(p))]
	}
	n := copy(p, m.toRead)
	m.toRead = m.toRead[n:]
	return n, nil
}

func (m *memory) Write(p []byte) (int, error) {
	if m.take >= 0 && m.take < len(p) {
		m.written = append(m.written, slices.Clone(p[:m.take]))
		return m.take, m.err
	}
	m.written = append(m.written, slices.Clone(p))
	return len(p), nil
}

// sent returns what was written since it was called last.
func (m *memory) sent() []byte {
	p := slices.Concat(m.written...)
	m.written = nil
	return p
}

func (m *memory) Close() error                     { return nil }
func (m *memory) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (m *memory) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (m *memory) SetDeadline(time.Time) error      { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

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
