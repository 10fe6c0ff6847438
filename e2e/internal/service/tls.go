package service

import (
	"crypto/tls"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/http1"
)

// Over says how clients speak to a service: in plaintext or, where there is a configuration, over TLS.
type Over struct{ Config *tls.Config }

// Secured makes a service one over TLS.
func Secured(t testing.TB) (Option, Over) {
	t.Helper()
	cert, key := certificate.Certificate(t)
	return func(s *Setup) {
		Listen("tls:HOST:PORT")(s)
		Args("-tls-cert", cert, "-tls-key", key)(s)
	}, Over{certificate.Trusting(t, []string{cert})}
}

// PlainOrSecured is secured if secure is true, and else changes nothing.
func PlainOrSecured(t testing.TB, secure bool) (Option, Over) {
	t.Helper()
	if secure {
		return Secured(t)
	}
	return Args(), Over{}
}

func (o Over) URL(scheme string, b *Baton, path string) string {
	if o.Config != nil {
		scheme += "s"
	}
	return scheme + "://" + b.Address + path
}

// Dial connects.
func (o Over) Dial(t testing.TB, b *Baton) *http1.Conn {
	t.Helper()
	c := b.Dial()
	if o.Config == nil {
		return c
	}
	secure := tls.Client(c.Conn, o.Config)
	if err := secure.Handshake(); err != nil {
		t.Fatalf("handshake: %v", err)
	}
	return http1.NewConn(secure)
}

// OverTLS has a plaintext listener, and one for TLS with a certificate that is made for it.
func OverTLS(certFile, keyFile string) Option {
	return func(s *Setup) {
		s.Listen = []string{"HOST:PORT", "tls:HOST:PORT"}
		s.Args = append(s.Args, "-tls-cert", certFile, "-tls-key", keyFile)
	}
}

// Secure returns the address of the first listener for TLS.
func (b *Baton) Secure() string {
	b.T.Helper()
	for _, listen := range b.Setup.Listen {
		if address, ok := strings.CutPrefix(listen, "tls:"); ok {
			return address
		}
	}
	b.T.Fatal("no listener for TLS")
	return ""
}
