package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"

	"example.com/baton/server/internal/tls13"
)

// ownsRecords reports whether the record layer of TLS 1.3 is the server's own, so that
// connections can migrate.
func (s *Server) ownsRecords() bool { return !s.opts.DisableMigration && s.tls13() }

// testTLS13 proves that crypto/tls performs a handshake after which another record layer can
// go on: it logs the secrets, it reads nothing that follows, and it writes nothing but session
// tickets, which resume. If not, as might be with a Go release to come, connections over TLS do
// not migrate, and have the record layer of crypto/tls.
func (s *Server) testTLS13() bool {
	certificate, err := checkCertificate()
	if err == nil {
		config := &tls.Config{Certificates: []tls.Certificate{certificate}}
		captureSecrets(config)
		client := &tls.Config{InsecureSkipVerify: true, ServerName: checkName, MinVersion: tls.VersionTLS13,
			ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		for _, want := range []tlsTalk{{tickets: 1}, {tickets: 1, resumed: true}} {
			if err == nil {
				err = s.converseTLS(config, client, want)
			}
		}
		if err == nil {
			config.SessionTicketsDisabled = true
			err = s.converseTLS(config, client, tlsTalk{})
		}
	}
	if err != nil {
		s.opts.Logger.Warn("TLS connections do not migrate at an upgrade, and are closed: crypto/tls does not perform a handshake as expected",
			"error", err)
	}
	return err == nil
}

// tlsTalk is what a conversation over TLS should show.
type tlsTalk struct {
	tickets uint64
	resumed bool
}

const checkName = "check"

// converseTLS has a conversation over TLS with a client in memory, and returns how it differs
// from the one that is wanted.
func (s *Server) converseTLS(config, clientConfig *tls.Config, want tlsTalk) error {
	out := make(chan []byte, 100) // more than the Writes of a conversation
	client, c := s.checkPipe(func(nc net.Conn) net.Conn { return queued{nc, out} })
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for p := range out {
			c.socket.Conn.(queued).Conn.Write(p)
		}
	}()
	answered := make(chan error, 1)
	go func() { answered <- echo(tls.Client(client, clientConfig)) }()

	err := newSecure(c, config).converse(want)
	client.Close()
	c.socket.Conn.Close()
	close(out)
	<-sent
	if err = errors.Join(err, <-answered); err != nil {
		return fmt.Errorf("converse over TLS: %w", err)
	}
	return nil
}

// queued is the server's end of a connection in memory that does not wait for the client to
// read: both sides write at the same time.
type queued struct {
	net.Conn
	out chan<- []byte
}

func (q queued) Write(p []byte) (int, error) {
	q.out <- bytes.Clone(p)
	return len(p), nil
}

// echo is the client. It sends back what comes, up to the end.
func echo(client *tls.Conn) error {
	_, err := io.Copy(client, client)
	if err == nil {
		err = client.CloseWrite()
	}
	return err
}

// converse is the server's side.
func (s *secure) converse(want tlsTalk) error {
	if err := s.perform(true); err != nil {
		return err
	}
	own, ok := (*s.records.Load()).(*tls13.Conn)
	if !ok || s.state.DidResume != want.resumed {
		return fmt.Errorf("got version %#x, resumed %t, want TLS 1.3, resumed %t", s.state.Version, s.state.DidResume, want.resumed)
	}
	state, ok := own.Export()
	if !ok {
		return errors.New("the connection is not at rest")
	}
	own.Resume()
	defer state.Clear()
	if state.In.Sequence != 0 || state.Out.Sequence != want.tickets {
		return fmt.Errorf("got sequence numbers %d and %d, want 0 and %d", state.In.Sequence, state.Out.Sequence, want.tickets)
	}
	const hello = "hello"
	if _, err := io.WriteString(own, hello); err != nil {
		return err
	}
	if err := own.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(own)
	if err == nil && string(got) != hello {
		err = fmt.Errorf("got %q, want %q", got, hello)
	}
	return err
}

// checkCertificate returns a certificate that only the self-test's client accepts.
func checkCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{checkName},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, err
}
