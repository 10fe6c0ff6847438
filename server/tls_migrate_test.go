package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/upgrade"
)

// tlsLine makes generations that serve the same names over TLS, with the same ticket keys.
type tlsLine struct {
	t      *testing.T
	signed selfsigned.Pair
	key    [32]byte
}

func newTLSLine(t *testing.T) *tlsLine {
	return &tlsLine{t, selfsigned.New(t, time.Now().Add(time.Hour), "example.com"), [32]byte{1}}
}

// serve returns a generation, of which change may change the configuration.
func (l *tlsLine) serve(ln net.Listener, opts server.Options, change func(*tls.Config)) *served {
	l.t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{l.signed.TLS(l.t)}}
	config.SetSessionTicketKeys([][32]byte{l.key})
	if change != nil {
		change(config)
	}
	return serveConfig(l.t, ln, opts, config)
}

// dial returns a connection to a generation over which protocol is spoken.
func (l *tlsLine) dial(s *served, protocol string) *client {
	return (&servedTLS{s, l.signed}).dialTLS(protocol)
}

// shown is what a handler sees of a handshake.
func shown(t *testing.T, state *tls.ConnectionState) string {
	if _, err := state.ExportKeyingMaterial("label", nil, 16); err != nil && !strings.Contains(err.Error(), "unavailable") {
		t.Errorf("export keying material: %v", err)
	}
	var names []string
	for _, c := range state.PeerCertificates {
		names = append(names, c.Subject.CommonName)
	}
	for _, chain := range state.VerifiedChains {
		names = append(names, fmt.Sprint("chain of ", len(chain)))
	}
	return fmt.Sprintf("%s %s %v %q %q %t %t %t %v", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.CurveID,
		state.NegotiatedProtocol, state.ServerName, state.HandshakeComplete, state.DidResume, state.HelloRetryRequest, names)
}

// withTLS is a handler that answers with a generation's name and what it sees of TLS.
func withTLS(t *testing.T, name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name+" "+shown(t, r.TLS)) })
}

func TestTLSMigrates(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			l := newTLSLine(t)
			listen := func() net.Listener {
				if network == "tcp" {
					return listen(t)
				}
				ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
				if err != nil {
					t.Fatal(err)
				}
				return ln
			}
			m := &movers{first: l.serve(listen(), server.Options{Handler: withTLS(t, "first")}, nil),
				second: l.serve(listen(), server.Options{Handler: withTLS(t, "second")}, nil)}
			mute, fresh, used := m.first.dial(), l.dial(m.first, "http/1.1"), l.dial(m.first, "http/1.1")
			_, before := used.get("/")
			await(t, "three connections", func() bool { return m.first.Load().Connections == upgrade.Connections{New: 2, Idle: 1} })
			if d := <-m.handOff(patience); d.Migrated != 3 || d.Connections != (upgrade.Closed{}) {
				t.Errorf("got %+v, want 3 migrated and none closed", d)
			}
			if got := m.second.Load().Connections; got != (upgrade.Connections{New: 2, Idle: 1}) {
				t.Errorf("the successor has %+v, want 2 new and 1 idle", got)
			}
			config := l.signed.Client()
			config.NextProtos = []string{"http/1.1"}
			want := strings.Replace(before, "first", "second", 1)
			for range 2 {
				for _, c := range []*client{fresh, used} {
					if resp, got := c.get("/"); got != want || resp.Close {
						t.Errorf("got %q, close %t, want %q on a connection that stays open", got, resp.Close, want)
					}
				}
			}
			if _, got := mute.shake(config).get("/"); got != want {
				t.Errorf("with a handshake after the migration: got %q, want %q", got, want)
			}
			if d := m.end(); d.Connections != (upgrade.Closed{IdleGrace: 3}) {
				t.Errorf("the successor's drain: got %+v, want 3 closed after the grace", d)
			}
		})
	}
}

// A client with a certificate keeps its connection only where it would also be admitted now.
func TestTLSStaysWithThePredecessor(t *testing.T) {
	t.Parallel()
	l := newTLSLine(t)
	client := selfsigned.New(t, time.Now().Add(time.Hour), "client")
	trusting := func(pairs ...selfsigned.Pair) *x509.CertPool {
		pool := x509.NewCertPool()
		for _, pair := range pairs {
			pool.AddCert(pair.Leaf)
		}
		return pool
	}
	verify := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, trusting(client) }
	tests := map[string]struct {
		certificate bool
		second      func(*tls.Config)
		migrates    bool
	}{
		"the same":                    {true, verify, true},
		"without a certificate":       {false, verify, true},
		"chosen for the client":       {true, func(c *tls.Config) { chooses(t, c, verify) }, true},
		"asked for, and not verified": {true, func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }, true},
		"verified as well":            {true, func(c *tls.Config) { verify(c); c.VerifyConnection = sees(t, 1) }, true},
		"not trusted any more":        {true, func(c *tls.Config) { verify(c); c.ClientCAs = trusting(l.signed) }, false},
		"nor by who chooses": {true, func(c *tls.Config) {
			verify(c)
			chooses(t, c, func(c *tls.Config) { verify(c); c.ClientCAs = trusting() })
		}, false},
		"expired":                    {true, func(c *tls.Config) { verify(c); c.Time = func() time.Time { return time.Now().Add(2 * time.Hour) } }, false},
		"not asked for":              {true, func(c *tls.Config) { c.ClientAuth = tls.NoClientCert }, false},
		"required":                   {false, func(c *tls.Config) { verify(c); c.ClientAuth = tls.RequireAndVerifyClientCert }, false},
		"required, and not verified": {false, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, false},
		"rejected by VerifyConnection": {true, func(c *tls.Config) {
			verify(c)
			c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
		}, false},
		"no configuration for the client": {true, func(c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("no") }
		}, false},
		"without TLS 1.3":  {true, func(c *tls.Config) { verify(c); c.MaxVersion = tls.VersionTLS12 }, false},
		"without HTTP/1.1": {true, func(c *tls.Config) { verify(c); c.NextProtos = []string{"h2"} }, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := *l
			l.t = t
			m := &movers{first: l.serve(listen(t), server.Options{Handler: withTLS(t, "first")}, verify),
				second: l.serve(listen(t), server.Options{Handler: withTLS(t, "second")}, test.second)}
			config := l.signed.Client()
			config.NextProtos = []string{"http/1.1"}
			if test.certificate {
				config.Certificates = []tls.Certificate{client.TLS(t)}
			}
			c := m.first.dial().shake(config)
			_, before := c.get("/")
			if want := map[bool]string{true: "[client chain of 1]", false: "[]"}[test.certificate]; !strings.HasSuffix(before, want) {
				t.Fatalf("got %q, want the certificates %s", before, want)
			}
			drained := m.handOff(patience)
			await(t, "an offer", func() bool { return m.offered.Load() == 1 })
			if !test.migrates {
				if resp, got := c.get("/"); got != before || !resp.Close {
					t.Errorf("refused: got %q, close %t, want %q and the announcement", got, resp.Close, before)
				}
				c.closedCleanly()
			} else if resp, got := c.get("/"); !strings.HasPrefix(got, "second TLS 1.3") || resp.Close || name == "the same" && got != strings.Replace(before, "first", "second", 1) {
				t.Errorf("got %q, close %t, after %q", got, resp.Close, before)
			}
			if d := <-drained; d.Migrated != map[bool]int{true: 1}[test.migrates] {
				t.Errorf("got %+v, want migrated %t", d, test.migrates)
			}
			m.end()
		})
	}
}

// chooses has a configuration choose another one, for a client of which everything is known.
func chooses(t *testing.T, config *tls.Config, change func(*tls.Config)) {
	chosen := config.Clone()
	change(chosen)
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName != "example.com" || hello.Conn.RemoteAddr().String() == "" || hello.Conn.LocalAddr().Network() != "tcp" {
			t.Errorf("got a hello for %q on %v", hello.ServerName, hello.Conn.LocalAddr())
		}
		return chosen, nil
	}
}

// sees returns a VerifyConnection that wants a number of verified chains.
func sees(t *testing.T, chains int) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.VerifiedChains) != chains || !state.HandshakeComplete {
			t.Errorf("got %s, want %d chains", shown(t, &state), chains)
		}
		return nil
	}
}

// The listener of a successor may be one for plaintext now, or the other way.
func TestNothingMigratesBetweenTLSAndPlaintext(t *testing.T) {
	t.Parallel()
	l := newTLSLine(t)
	secured := func(name string) *served { return l.serve(listen(t), server.Options{Handler: names(name)}, nil) }
	plain := func(name string) *served { return serve(t, server.Options{Handler: names(name)}) }
	for name, m := range map[string]*movers{
		"TLS":       {first: secured("first"), second: plain("second")},
		"plaintext": {first: plain("first"), second: secured("second")},
	} {
		fresh, used := m.first.dial(), (*client)(nil)
		if name == "TLS" {
			used = l.dial(m.first, "http/1.1")
		} else {
			used = m.first.dial()
		}
		used.isFrom("first")
		await(t, "both connections", func() bool { return m.first.Load().Connections == upgrade.Connections{New: 1, Idle: 1} })
		drained := m.handOff(patience)
		fresh.closedCleanly()
		used.closedCleanly()
		if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{IdleGrace: 2}) || m.offered.Load() != 2 {
			t.Errorf("%s: got %+v after %d offers, want 2 refused and closed", name, d, m.offered.Load())
		}
		m.end()
	}
}

// What crypto/tls keeps is drained as before.
func TestTLSDoesNotMigrate(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(m *movers, opts *server.Options, client *tls.Config){
		"TLS 1.2":                       func(_ *movers, _ *server.Options, client *tls.Config) { client.MaxVersion = tls.VersionTLS12 },
		"disabled":                      func(_ *movers, opts *server.Options, _ *tls.Config) { opts.DisableMigration = true },
		"crypto/tls not what it seems":  nil,
		"a successor of another kind":   func(m *movers, _ *server.Options, _ *tls.Config) { m.stateless = true },
		"a successor that has disabled": func(m *movers, _ *server.Options, _ *tls.Config) { m.second.DisableTLSMigration() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newTLSLine(t)
			m := &movers{second: l.serve(listen(t), server.Options{Handler: names("second")}, nil)}
			opts, client := server.Options{Handler: names("first")}, l.signed.Client()
			client.NextProtos = []string{"http/1.1"}
			if set != nil {
				set(m, &opts, client)
			}
			m.first = l.serve(listen(t), opts, nil)
			if set == nil {
				m.first.DisableTLSMigration()
			}
			idle, speaker := m.first.dial().shake(client), m.first.dial().shake(client)
			idle.isFrom("first")
			speaker.isFrom("first")
			await(t, "idleness", func() bool { return m.first.Load().Connections == upgrade.Connections{Idle: 2} })
			drained := m.handOff(patience)
			m.first.awaitDraining()
			if name == "a successor that has disabled" {
				await(t, "the offers", func() bool { return m.offered.Load() == 2 })
			}
			if resp, body := speaker.get("/"); !resp.Close || body != "first" {
				t.Errorf("within the grace: got close %t and %q, want the announcement", resp.Close, body)
			}
			speaker.closedCleanly()
			idle.closedCleanly()
			if d := <-drained; d.Migrated != 0 || d.Connections != (upgrade.Closed{ConnectionClose: 1, IdleGrace: 1}) {
				t.Errorf("got %+v, want one sent the announcement and one closed after the grace", d)
			}
			m.end()
		})
	}
}

// What is offered belongs to whoever has it at the end: at the deadline of the drain nothing is
// written to it, no close_notify and no FIN.
func TestTLSDeadlineWhileOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTLSLine(t)
		m := &movers{
			first:  l.serve(memory(), server.Options{Handler: names("first")}, nil),
			second: l.serve(memory(), server.Options{Handler: names("second")}, nil),
		}
		m.first.Check(t.Context())
		m.gate = func(ctx context.Context, conns []upgrade.Connection) []bool {
			conns[0].Conn = dup(t, conns[0].Conn) // as it is in a message
			<-ctx.Done()
			time.Sleep(time.Second) // longer than the drain waits
			return everything(conns)
		}
		counted := &counting{Conn: m.first.dial().Conn}
		c := (&client{t, counted, nil}).shake(l.signed.Client())
		c.isFrom("first")
		before := counted.n
		<-m.handOff(time.Second)
		time.Sleep(2 * time.Second)
		if counted.n != before {
			t.Errorf("%d bytes came from the predecessor", counted.n-before)
		}
		c.isFrom("second")
		c.isFrom("second")
		m.end()
	})
}
