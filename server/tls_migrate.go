package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/server/internal/tls13"
)

// tlsState is what a successor needs to go on with the TLS of a connection. The zero one is
// that of a connection whose handshake has not begun.
type tlsState struct {
	Records           tls13.State `json:"records,omitzero"`
	Curve             tls.CurveID `json:"curve,omitempty"`
	Protocol          string      `json:"alpn,omitempty"`
	ServerName        string      `json:"sni,omitempty"`
	Resumed           bool        `json:"resumed,omitempty"`
	HelloRetryRequest bool        `json:"hello_retry_request,omitempty"`
	ECHAccepted       bool        `json:"ech,omitempty"`
	Certificates      [][]byte    `json:"certificates,omitempty"` // the client's, leaf first
	OCSPResponse      []byte      `json:"ocsp,omitempty"`
	SCTs              [][]byte    `json:"scts,omitempty"`
}

// export exports nothing of a record layer that is that of crypto/tls, or not at rest. Like
// settle, it is called with the lock of the connection.
func (s *secure) export(to *transfer) bool {
	r := s.records.Load()
	if r == nil {
		to.TLS = new(tlsState)
		return len(s.first) == 0
	}
	own, ok := (*r).(*tls13.Conn)
	if !ok {
		return false
	}
	exported, ok := own.Export()
	if !ok {
		return false
	}
	s.offered = true
	to.TLS = newTLSState(s.state, exported)
	return true
}

func newTLSState(state *tls.ConnectionState, exported tls13.State) *tlsState {
	t := &tlsState{
		Records:           exported,
		Curve:             state.CurveID,
		Protocol:          state.NegotiatedProtocol,
		ServerName:        state.ServerName,
		Resumed:           state.DidResume,
		HelloRetryRequest: state.HelloRetryRequest,
		ECHAccepted:       state.ECHAccepted,
		OCSPResponse:      state.OCSPResponse,
		SCTs:              state.SignedCertificateTimestamps,
	}
	for _, certificate := range state.PeerCertificates {
		t.Certificates = append(t.Certificates, certificate.Raw)
	}
	return t
}

// settle is called when the successor has answered. What it has taken is nobody else's to
// write to.
func (s *secure) settle(taken bool) {
	if !s.offered {
		return
	}
	s.offered = false
	own := (*s.records.Load()).(*tls13.Conn)
	if taken {
		own.Discard()
	} else {
		own.Resume()
	}
}

// withoutEKM is a state whose ExportKeyingMaterial returns an error, where that of the zero
// one panics: crypto/tls does not let go of the secret that it takes.
var withoutEKM = tls.Server(nil, &tls.Config{Renegotiation: tls.RenegotiateOnceAsClient}).ConnectionState()

// connectionState returns what a handler sees of the handshake.
func (t *tlsState) connectionState() (*tls.ConnectionState, error) {
	state := withoutEKM
	state.Version = tls.VersionTLS13
	state.HandshakeComplete = true
	state.DidResume = t.Resumed
	state.CipherSuite = t.Records.Suite
	state.CurveID = t.Curve
	state.NegotiatedProtocol = t.Protocol
	state.ServerName = t.ServerName
	state.SignedCertificateTimestamps = t.SCTs
	state.OCSPResponse = t.OCSPResponse
	state.ECHAccepted = t.ECHAccepted
	state.HelloRetryRequest = t.HelloRetryRequest
	for _, raw := range t.Certificates {
		certificate, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("read the client's certificate: %w", err)
		}
		state.PeerCertificates = append(state.PeerCertificates, certificate)
	}
	return &state, nil
}

// restoreSecure returns the TLS of a connection that a predecessor has exported, or an error
// if this process would not have it.
func restoreSecure(c *conn, config *tls.Config, t *tlsState) (*secure, error) {
	s := newSecure(c, config)
	if t.Records.Suite == 0 {
		return s, nil
	}
	if !c.server.ownsRecords() {
		return nil, errors.New("TLS connections do not migrate here")
	}
	state, err := t.connectionState()
	if err != nil {
		return nil, err
	}
	if err := admit(c.socket.Conn, config, state); err != nil {
		return nil, err
	}
	own, err := tls13.New(s.layer, t.Records)
	if err != nil {
		return nil, err
	}
	r := recordLayer(own)
	s.state = state
	s.records.Store(&r)
	return s, nil
}

// admit returns an error if a client that has performed its handshake with a predecessor must
// not be served with a configuration. It asks for what crypto/tls asks for when a session is
// resumed: the protocol is spoken, the client's certificates are neither missing nor
// unwanted, and hold as of now, and VerifyConnection agrees. It fills in the verified chains.
func admit(nc net.Conn, config *tls.Config, state *tls.ConnectionState) error {
	chosen, err := config.GetConfigForClient(&tls.ClientHelloInfo{
		CipherSuites:      []uint16{state.CipherSuite},
		ServerName:        state.ServerName,
		SupportedCurves:   []tls.CurveID{state.CurveID},
		SupportedProtos:   []string{state.NegotiatedProtocol},
		SupportedVersions: []uint16{tls.VersionTLS13},
		Conn:              named{nc},
	})
	if err != nil {
		return fmt.Errorf("choose a configuration: %w", err)
	}
	if chosen != nil {
		config = chosen
	}
	if config.MaxVersion != 0 && config.MaxVersion < tls.VersionTLS13 {
		return errors.New("TLS 1.3 is disabled")
	}
	if p := state.NegotiatedProtocol; p != "" && !slices.Contains(config.NextProtos, p) && (p != alpnHTTP1 || config.NextProtos != nil) {
		return fmt.Errorf("protocol %q is disabled", p)
	}
	if err := admitCertificates(config, state); err != nil {
		return err
	}
	if config.VerifyConnection != nil {
		return config.VerifyConnection(*state)
	}
	return nil
}

func admitCertificates(config *tls.Config, state *tls.ConnectionState) error {
	certificates := state.PeerCertificates
	if len(certificates) == 0 {
		if config.ClientAuth == tls.RequireAnyClientCert || config.ClientAuth == tls.RequireAndVerifyClientCert {
			return errors.New("a client certificate is required")
		}
		return nil
	}
	now := time.Now
	if config.Time != nil {
		now = config.Time
	}
	switch {
	case config.ClientAuth == tls.NoClientCert:
		return errors.New("client certificates are not asked for")
	case now().After(certificates[0].NotAfter):
		return errors.New("the client certificate has expired")
	case config.ClientAuth < tls.VerifyClientCertIfGiven:
		return nil
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range certificates[1:] {
		intermediates.AddCert(certificate)
	}
	var err error
	state.VerifiedChains, err = certificates[0].Verify(x509.VerifyOptions{
		Roots:         config.ClientCAs,
		CurrentTime:   now(),
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// named is a socket that may have come over the link, with its addresses.
type named struct{ net.Conn }

func (n named) LocalAddr() net.Addr {
	if addr := n.Conn.LocalAddr(); addr != nil {
		return addr
	}
	return address(n.Conn, unix.Getsockname)
}

func (n named) RemoteAddr() net.Addr {
	if addr := n.Conn.RemoteAddr(); addr != nil {
		return addr
	}
	return address(n.Conn, unix.Getpeername)
}

func address(nc net.Conn, get func(fd int) (unix.Sockaddr, error)) (addr net.Addr) {
	addr = &net.UnixAddr{Net: "unix"}
	control(nc, func(fd int) {
		sa, _ := get(fd)
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			addr = &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		case *unix.SockaddrInet6:
			addr = &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
		case *unix.SockaddrUnix:
			addr = &net.UnixAddr{Name: sa.Name, Net: "unix"}
		}
	})
	return addr
}
