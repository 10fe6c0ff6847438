package server_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/server/internal/selfsigned"
)

// served over TLS.
type servedTLS struct {
	*served
	signed selfsigned.Pair
}

func serveTLS(t *testing.T, opts server.Options) *servedTLS {
	t.Helper()
	return serveTLSOn(t, listen(t), opts)
}

func serveTLSOn(t *testing.T, ln net.Listener, opts server.Options) *servedTLS {
	t.Helper()
	certificate := selfsigned.New(t, time.Now().Add(time.Hour), "example.com")
	return &servedTLS{serveConfig(t, ln, opts, &tls.Config{
		Certificates: []tls.Certificate{certificate.TLS(t)},
		MinVersion:   tls.VersionTLS10, // which the server allows nobody
	}), certificate}
}

func serveConfig(t *testing.T, ln net.Listener, opts server.Options, config *tls.Config) *served {
	t.Helper()
	if opts.IdleGrace == 0 {
		opts.IdleGrace = 100 * time.Millisecond
	}
	s := &served{Server: server.New(opts), t: t, listener: ln, addr: ln.Addr()}
	s.AddTLS(ln, config)
	s.Serve()
	return s
}

// dialTLS makes a connection that speaks protocol.
func (s *servedTLS) dialTLS(protocol string) *client {
	s.t.Helper()
	config := s.signed.Client()
	config.NextProtos = []string{protocol}
	c := s.dial().shake(config)
	if got := c.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != protocol {
		s.t.Fatalf("negotiated %q, want %q", got, protocol)
	}
	return c
}

// shake makes a connection one over TLS.
func (c *client) shake(config *tls.Config) *client {
	c.t.Helper()
	over := tls.Client(c.Conn, config)
	if err := over.Handshake(); err != nil {
		c.t.Fatalf("handshake: %v", err)
	}
	return &client{c.t, over, bufio.NewReader(over)}
}

// pausing stops the client before it sends again, once it has read the server's part.
type pausing struct {
	net.Conn
	paused, proceed chan struct{}
	writes          int
}

func (p *pausing) Write(b []byte) (int, error) {
	if p.writes++; p.writes == 2 { // after the hello
		p.paused <- struct{}{}
		<-p.proceed
	}
	return p.Conn.Write(b)
}

// gathering keeps back all that is written.
type gathering struct {
	net.Conn
	on  bool
	all []byte
}

func (c *gathering) Write(p []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(p)
	}
	c.all = append(c.all, p...)
	return len(p), nil
}

// splitting keeps back what comes after the first bytes of one Write.
type splitting struct {
	net.Conn
	split int
	rest  []byte
}

func (c *splitting) Write(p []byte) (int, error) {
	if c.split == 0 {
		return c.Conn.Write(p)
	}
	c.rest = bytes.Clone(p[c.split:])
	n, err := c.Conn.Write(p[:c.split])
	return n + len(c.rest), err
}

// counting counts what a client gets.
type counting struct {
	net.Conn
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n += n
	return n, err
}

// recorded keeps what comes, to tell the types of the records.
type recorded struct {
	net.Conn
	got []byte
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.got = append(r.got, p[:n]...)
	return n, err
}

// last returns the type of the last record.
func (r *recorded) last() (kind byte) {
	for rest := r.got; len(rest) >= 5; {
		kind = rest[0]
		rest = rest[min(len(rest), 5+int(rest[3])<<8+int(rest[4])):]
	}
	return kind
}
