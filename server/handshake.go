package server

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"

	"example.com/baton/server/internal/records"
	"example.com/baton/server/internal/tls13"
)

// wire is the socket as crypto/tls has it. During the handshake a Read returns no more than
// the rest of the record under way, so that crypto/tls never has a byte of the next one: what
// follows on the handshake may be for another record layer.
type wire struct {
	layer
	first   []byte // what has come already
	done    bool   // the handshake is
	inbound records.Inbound
	secrets *secrets // nil: crypto/tls keeps them
}

// Read is called by one goroutine at a time.
func (w *wire) Read(p []byte) (n int, err error) {
	if !w.done {
		p = p[:min(len(p), w.inbound.Need())]
	}
	if len(w.first) > 0 {
		n = copy(p, w.first)
		w.first = w.first[n:]
	} else {
		n, err = w.layer.Read(p)
	}
	w.inbound.Came(p[:n])
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if !w.done && w.secrets != nil && w.secrets.out != nil {
		w.secrets.sent = append(w.secrets.sent, p...)
	}
	return w.layer.Write(p)
}

// end is called when the handshake is done and crypto/tls goes on.
func (w *wire) end() {
	w.done = true
	w.inbound.EndHandshake()
}

// secrets are what a record layer needs to go on after a handshake of TLS 1.3. All of it comes
// through the public API of crypto/tls.
type secrets struct {
	in, out tls13.Secret // of the application data, as the key log has them
	sent    []byte       // what was written since out was known: tickets are under its key
}

// state returns the state after the handshake. The client has sent nothing under its key,
// because nobody has read further than its last message.
func (s *secrets) state(suite uint16) (tls13.State, error) {
	sent, err := tls13.CountSealed(suite, s.out, s.sent)
	return tls13.State{
		Suite: suite,
		In:    tls13.Half{Secret: s.in},
		Out:   tls13.Half{Secret: s.out, Sequence: sent},
	}, err
}

func (s *secrets) clear() {
	clear(s.in)
	clear(s.out)
}

// keyLog takes the secrets of a handshake out of the lines that crypto/tls logs.
type keyLog struct {
	secrets *secrets
	next    io.Writer // the configuration's own, or nil
}

// Write is called once for each line: LABEL, the client's random, the secret.
func (l keyLog) Write(line []byte) (int, error) {
	if fields := bytes.Fields(line); len(fields) == 3 {
		switch string(fields[0]) {
		case "CLIENT_TRAFFIC_SECRET_0":
			l.secrets.in = decodeSecret(fields[2])
		case "SERVER_TRAFFIC_SECRET_0":
			l.secrets.out = decodeSecret(fields[2])
		}
	}
	if l.next == nil {
		return len(line), nil
	}
	return l.next.Write(line)
}

func decodeSecret(digits []byte) tls13.Secret {
	secret := make(tls13.Secret, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(secret, digits); err != nil {
		return nil
	}
	return secret
}

// captureSecrets has the handshakes with a configuration fill the secrets of their wire. The
// configuration itself stays the one of the connection, so that its ticket keys remain those
// of a process, or of a line of them: crypto/tls looks for these there if the one that
// GetConfigForClient returns has none.
func captureSecrets(config *tls.Config) {
	choose := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (chosen *tls.Config, err error) {
		if choose != nil {
			if chosen, err = choose(hello); err != nil {
				return nil, err
			}
		}
		w, ok := hello.Conn.(*wire)
		if !ok || w.secrets == nil || !slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
			return chosen, nil
		}
		if chosen == nil {
			chosen = config
		}
		chosen = chosen.Clone()
		chosen.KeyLogWriter = keyLog{w.secrets, chosen.KeyLogWriter}
		return chosen, nil
	}
}

// recordLayer protects what passes once the handshake is done: that of crypto/tls, or
// [tls13.Conn], whose state can be exported.
type recordLayer interface {
	io.ReadWriter
	// CloseWrite sends a close_notify.
	CloseWrite() error
	// Holds reports whether a part of a record, or of what it had, was read and not passed on.
	Holds() bool
	// Pending returns an upper bound of how many bytes were read and not passed on.
	Pending() int
}

// standard is the record layer of crypto/tls.
type standard struct {
	*tls.Conn
	wire *wire
}

func (s standard) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.wire.inbound.Read(n, len(p))
	return n, err
}

func (s standard) Holds() bool { return s.wire.inbound.Within() }

func (s standard) Pending() int { return s.wire.inbound.Pending() }

// isAlert reports whether a Read has failed because of what the client has sent, which was
// answered with an alert.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "local error"
}
