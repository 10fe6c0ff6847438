package server_test

// This file tests connections over TLS that speak HTTP/1.1: that they are drained
// as those without, and what becomes of a handshake.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// signed is a certificate that signs itself, and its key.
type signed struct {
	certificate, key []byte // PEM
	leaf             *x509.Certificate
}

// sign makes a certificate for names that is good until then.
func sign(t testing.TB, until time.Time, names ...string) signed {
	t.Helper()
	return signOn(t, elliptic.P256(), until, names...)
}

// signOn does so with a key on a curve.
func signOn(t testing.TB, curve elliptic.Curve, until time.Time, names ...string) signed {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: until.Add(-30 * 24 * time.Hour), NotAfter: until,
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		leaf,
	}
}

// pair returns it as crypto/tls wants it.
func (s signed) pair(t testing.TB) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(s.certificate, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// trust is the configuration of a client that trusts in it.
func (s signed) trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.leaf)
	return &tls.Config{RootCAs: pool, ServerName: s.leaf.DNSNames[0]}
}

// served over TLS.
type servedTLS struct {
	*served
	signed signed
}

func serveTLS(t *testing.T, opts server.Options) *servedTLS {
	t.Helper()
	return serveTLSOn(t, listen(t), opts)
}

func serveTLSOn(t *testing.T, ln net.Listener, opts server.Options) *servedTLS {
	t.Helper()
	certificate := sign(t, time.Now().Add(time.Hour), "example.com")
	return &servedTLS{serveConfig(t, ln, opts, &tls.Config{
		Certificates: []tls.Certificate{certificate.pair(t)},
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
	config := s.signed.trust()
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

func TestTLSIsSeenByHandlers(t *testing.T) {
	s := serveTLS(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !r.TLS.HandshakeComplete || r.TLS.ServerName != "example.com" {
			t.Errorf("got %+v, want the state of a TLS connection", r.TLS)
		}
		io.WriteString(w, r.Proto)
	})})
	c := s.dialTLS("http/1.1")
	for range 3 {
		if resp, body := c.get("/"); resp.Close || body != "HTTP/1.1" {
			t.Errorf("got close %t and %q", resp.Close, body)
		}
	}
	await(t, "idleness", func() bool { return s.Load().Connections == upgrade.Connections{Idle: 1} })
	<-s.drain(patience, all)
}

func TestTLSDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = 300 * time.Millisecond
		g := newGate()
		g.after = "slow"
		s := serveTLSOn(t, memory(), server.Options{IdleGrace: grace, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				g.ServeHTTP(w, r)
				return
			}
			io.WriteString(w, "hello")
		})})
		mute, fresh, used, speaker, busy := s.dial(), s.dialTLS("http/1.1"), s.dialTLS("http/1.1"), s.dialTLS("http/1.1"), s.dialTLS("http/1.1")
		used.get("/")
		speaker.get("/")
		busy.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
		<-g.entered
		await(t, "the connections", func() bool {
			return s.Load().Connections == upgrade.Connections{New: 2, Idle: 2, Active: 1}
		})
		begin := time.Now()
		drained := s.drainBy(patience, upgrade.Handoff{Kept: all, Move: func(context.Context, []upgrade.Connection) []bool {
			t.Error("a connection over TLS was offered")
			return nil
		}})
		s.awaitDraining()
		if resp, body := speaker.get("/"); !resp.Close || body != "hello" {
			t.Errorf("within the grace: got close %t and %q, want the announcement", resp.Close, body)
		}
		speaker.closedCleanly()
		for _, c := range []*client{mute, fresh, used} {
			c.closedCleanly()
			if took := time.Since(begin); took < grace || took > grace+time.Second {
				t.Errorf("silent connection closed after %v, want %v", took, grace)
			}
		}
		close(g.open)
		if resp, body := busy.answer(); !resp.Close || body != "slow" {
			t.Errorf("busy: got close %t and %q, want the announcement", resp.Close, body)
		}
		busy.closedCleanly()
		if d := <-drained; d.Moved != 0 || d.Requests != 2 || d.Connections != (upgrade.Closed{Announced: 2, Grace: 3}) {
			t.Errorf("got %+v, want 2 requests finished, 2 told to close and 3 after the grace", d)
		}
	})
}

// On the same server, those without TLS move.
func TestTLSStaysWhilePlaintextMoves(t *testing.T) {
	m := newMovers(t, names("first"))
	<-m.first.drain(patience, all)
	certificate := sign(t, time.Now().Add(time.Hour), "example.com")
	plain, over := listen(t), listen(t)
	m.first = newServed(t, plain, server.Options{Handler: names("first"), IdleGrace: 100 * time.Millisecond})
	m.first.AddTLS(over, &tls.Config{Certificates: []tls.Certificate{certificate.pair(t)}})
	m.first.Serve()
	secured := &servedTLS{&served{Server: m.first.Server, t: t, addr: over.Addr()}, certificate}

	moves := m.first.dial()
	moves.isFrom("first")
	http1 := secured.dialTLS("http/1.1")
	http1.isFrom("first")
	http2 := secured.dialHTTP2("h2")
	http2.isFrom("first")
	known := m.first.dialHTTP2()
	known.isFrom("first")
	await(t, "the connections", func() bool { return m.first.Load().Connections == upgrade.Connections{Idle: 4} })
	drained := m.handOff(patience)
	moves.movesOn()
	http1.closedCleanly()
	http2.closes()
	known.closes()
	if d := <-drained; d.Moved != 1 || d.Connections != (upgrade.Closed{Grace: 1, Announced: 2}) {
		t.Errorf("got %+v, want one moved, one closed after the grace, and 2 told to close", d)
	}
	if n := m.offered.Load(); n != 1 {
		t.Errorf("%d connections were offered, want the plaintext HTTP/1.1 one", n)
	}
	m.end()
}

// Clients that never retry, around the beginning of a drain and the end of the grace.
func TestTLSClientsThatNeverRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients, grace = 40, 400 * time.Millisecond
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace})
		var failed, announced atomic.Int64
		var asking sync.WaitGroup
		started := make(chan struct{}, clients)
		for i := range clients {
			c := s.dialTLS("http/1.1")
			asking.Go(func() {
				for n := 0; ; n++ {
					if n == 3 {
						started <- struct{}{}
					}
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					resp, err := http.ReadResponse(c.in, nil)
					if err != nil {
						failed.Add(1)
						return
					}
					io.Copy(io.Discard, resp.Body)
					if resp.Close {
						announced.Add(1)
						return
					}
					time.Sleep(time.Duration(i+1) * time.Millisecond) // clients differ
				}
			})
		}
		for range clients {
			<-started
		}
		d := <-s.drain(patience, all)
		asking.Wait()
		if failed.Load() != 0 || announced.Load() != clients || d.Connections != (upgrade.Closed{Announced: clients}) {
			t.Errorf("%d requests failed, %d clients told to close, %+v; want all %d told", failed.Load(), announced.Load(), d, clients)
		}
	})
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

// The handoff comes while handshakes are under way.
func TestHandshakesUnderWayAreFinished(t *testing.T) {
	const clients = 200
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				grace := map[string]time.Duration{"http/1.1": time.Second, "h2": time.Minute}[protocol]
				s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace, ReadHeaderTimeout: time.Minute})
				paused, proceed := make(chan struct{}, clients), make(chan struct{})
				var asking sync.WaitGroup
				var answered atomic.Int64
				for range clients {
					c := s.dial()
					c.SetDeadline(time.Now().Add(time.Minute))
					config := s.signed.trust()
					config.NextProtos = []string{protocol}
					over := tls.Client(&pausing{c.Conn, paused, proceed, 0}, config)
					asking.Go(func() {
						if err := over.Handshake(); err != nil {
							t.Errorf("handshake: %v", err)
							paused <- struct{}{}
							return
						}
						if protocol == "h2" {
							h := newHTTP2Client(t, over)
							h.answers = true
							h.request(1, "/")
							if body, err := h.body(1); err != nil || body != "hello" {
								t.Errorf("got %q, %v", body, err)
								return
							}
							answered.Add(1)
							return
						}
						io.WriteString(over, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
						resp, err := http.ReadResponse(bufio.NewReader(over), nil)
						if err != nil || !resp.Close {
							t.Errorf("got %v, %v, want an answer with the announcement", resp, err)
							return
						}
						answered.Add(1)
					})
				}
				for range clients {
					<-paused
				}
				drained := s.drain(time.Minute, all)
				s.awaitDraining()
				time.Sleep(1200 * time.Millisecond) // the grace is no matter
				if got := s.Load().Connections; got != (upgrade.Connections{New: clients}) {
					t.Errorf("got %+v, want all %d", got, clients)
				}
				close(proceed)
				asking.Wait()
				d := <-drained
				if answered.Load() != clients || d.Connections.Announced+d.Connections.Client != clients {
					t.Errorf("%d of %d answered, %+v", answered.Load(), clients, d)
				}
			})
		})
	}
}

// A client that never finishes its handshake has the time of a header.
func TestHandshakeTimeout(t *testing.T) {
	const timeout = 300 * time.Millisecond
	for name, drains := range map[string]bool{"serving": false, "draining": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: timeout, IdleGrace: 10 * time.Millisecond})
				var clients []*client
				begin := time.Now()
				for _, hello := range []string{"\x16", "\x16\x03\x01\x00", "\x16\x03\x01\x02\x00\x01"} {
					c := s.dial()
					c.send(hello)
					clients = append(clients, c)
				}
				await(t, "the connections", func() bool { return s.Accepted() == 3 })
				if drains {
					drained := s.drain(patience, all)
					defer func() { <-drained }()
				}
				for _, c := range clients {
					io.Copy(io.Discard, c)
					if took := time.Since(begin); took < timeout || took > timeout+time.Second {
						t.Errorf("closed after %v, want %v", took, timeout)
					}
				}
				await(t, "the account of it", func() bool { return s.Closed()[server.TimedOut] == 3 })
				if !drains {
					<-s.drain(patience, all)
				}
			})
		})
	}
}

// What has begun to arrive in a record is not destroyed by the grace.
func TestGraceSparesBegunRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 20 * time.Millisecond, ReadHeaderTimeout: patience})
		for _, used := range []bool{false, true} {
			for _, split := range []int{1, 4, 5, 6, 30} {
				c := s.dial()
				cut := &splitting{Conn: c.Conn}
				over := (&client{t, cut, nil}).shake(s.signed.trust())
				if used {
					over.get("/")
				}
				cut.split = split
				over.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				defer func() {
					time.Sleep(50 * time.Millisecond)
					if _, err := c.Conn.Write(cut.rest); err != nil {
						t.Errorf("send the rest: %v", err)
					}
					if resp, body := over.answer(); !resp.Close || body != "hello" {
						t.Errorf("split at %d: got close %t and %q", split, resp.Close, body)
					}
				}()
			}
		}
		quiet := s.dial()
		await(t, "all connections", func() bool { return s.Accepted() == 11 })
		s.drain(2*patience, all)
		quiet.closedCleanly() // the grace is over
	})
}

// A record's beginning that has come along with a request is one's own beginning.
func TestHalfARecordHasTheTimeOfAHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: time.Second})
		gathered := &gathering{Conn: s.dial().Conn}
		c := (&client{t, gathered, nil}).shake(s.signed.trust())
		c.get("/")
		gathered.on = true
		for range 2 {
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		begin := time.Now()
		gathered.Conn.Write(gathered.all[:len(gathered.all)-1])
		c.answer()
		c.closedCleanly()
		if took := time.Since(begin); took < time.Second || took > 3*time.Second {
			t.Errorf("closed after %v, want the header timeout", took)
		}
		<-s.drain(patience, all)
	})
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

func TestPlainHTTPToTLS(t *testing.T) {
	var logged bytes.Buffer
	s := serveTLS(t, server.Options{Handler: http.HandlerFunc(hello),
		Logger: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c := s.dial()
	resp, body := c.get("/" + strings.Repeat("long", 10000))
	if resp.StatusCode != http.StatusBadRequest || body != "Client sent an HTTP request to an HTTPS server.\n" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	await(t, "the account of it", func() bool { return s.Closed()[server.Failed] == 1 })
	<-s.drain(patience, all)
	if !strings.Contains(logged.String(), "level=DEBUG msg=\"TLS handshake failed\"") || strings.Contains(logged.String(), "level=WARN") {
		t.Errorf("logged %s", &logged)
	}
}

func TestTLSReasons(t *testing.T) {
	trust := func(c *tls.Config) *tls.Config { return c }
	tests := map[string]struct {
		config func(*tls.Config) *tls.Config
		do     func(*client)
		fails  bool
		want   server.Reason
	}{
		"client closes":  {trust, func(c *client) { c.get("/"); c.Close() }, false, server.ByClient},
		"idle timeout":   {trust, func(c *client) { c.get("/"); c.closedCleanly() }, false, server.TimedOut},
		"header timeout": {trust, func(c *client) { c.send("GET"); c.answer() }, false, server.TimedOut},
		"handler panics": {trust, func(c *client) { c.send("GET /panic HTTP/1.1\r\nHost: x\r\n\r\n"); c.closedCleanly() }, false, server.Failed},
		"client is too old": {func(c *tls.Config) *tls.Config {
			c.MaxVersion = tls.VersionTLS11
			c.MinVersion = tls.VersionTLS10
			return c
		}, nil, true, server.Failed},
		"no protocol": {func(c *tls.Config) *tls.Config { c.NextProtos = []string{"smtp"}; return c }, nil, true, server.Failed},
		"HTTP/2 where HTTP/1.1 was negotiated": {func(c *tls.Config) *tls.Config { c.NextProtos = []string{"http/1.1"}; return c },
			func(c *client) { io.WriteString(c, preface); io.Copy(io.Discard, c) }, false, server.Failed},
		"HTTP/2 where nothing was negotiated": {trust,
			func(c *client) { io.WriteString(c, preface); io.Copy(io.Discard, c) }, false, server.Failed},
		"HTTP/1.1 where HTTP/2 was negotiated": {func(c *tls.Config) *tls.Config { c.NextProtos = []string{"h2"}; return c },
			func(c *client) { c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); io.Copy(io.Discard, c) }, false, server.Failed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := serveTLSOn(t, memory(), server.Options{IdleTimeout: 200 * time.Millisecond, ReadHeaderTimeout: 2 * time.Second,
					Logger: slog.New(slog.DiscardHandler),
					Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == "/panic" {
							panic(http.ErrAbortHandler)
						}
						if r.URL.Path != "/" || r.Method == "PRI" {
							t.Errorf("handler called for %s %s", r.Method, r.URL)
						}
					})})
				begin := time.Now()
				over := tls.Client(s.dial().Conn, test.config(s.signed.trust()))
				if err := over.Handshake(); (err != nil) != test.fails {
					t.Fatalf("handshake: got %v, want failure %t", err, test.fails)
				}
				if test.do != nil {
					test.do(&client{t, over, bufio.NewReader(over)})
				}
				await(t, "the connection's end", func() bool { return s.Load().Connections == upgrade.Connections{} && s.Accepted() == 1 })
				if took := time.Since(begin); test.want == server.Failed && took > 1500*time.Millisecond {
					t.Errorf("closed after %v, want at once", took)
				}
				for why, n := range s.Closed() {
					if want := map[bool]uint64{true: 1}[why == test.want]; n != want {
						t.Errorf("closed by reason %v: got %d, want %d", why, n, want)
					}
				}
				<-s.drain(patience, none)
			})
		})
	}
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Bodies are whole in both directions, whatever the handler uses to write them.
func TestTLSBodies(t *testing.T) {
	content := make([]byte, 3<<20)
	rand.Read(content)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s := serveTLS(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(w, r.Body)
			return
		}
		http.ServeFile(w, r, path)
	})})
	c := s.dialTLS("http/1.1")
	if _, body := c.get("/"); body != string(content) {
		t.Error("the body is not the file")
	}
	var sent sync.WaitGroup
	sent.Go(func() {
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: "+strconv.Itoa(len(content))+"\r\n\r\n")
		c.Write(content)
	})
	_, body := c.answer()
	sent.Wait()
	if body != string(content) {
		t.Errorf("got %d bytes back, want the body that was sent", len(body))
	}
	<-s.drain(patience, all)
}

// The deadline cuts without a word of goodbye, which would make half an answer a
// whole one, and without waiting for a client that does not read.
func TestTLSCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})})
		for range 3 {
			s.dialTLS("http/1.1").send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		await(t, "the requests", func() bool { return s.Load().Requests == 3 })
		time.Sleep(50 * time.Millisecond) // the sockets are full
		begin := time.Now()
		if d := <-s.drain(100*time.Millisecond, all); d.Connections != (upgrade.Closed{Cut: 3}) {
			t.Errorf("got %+v, want 3 cut", d)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %v, want 100 ms and a moment", took)
		}
		await(t, "the handlers' end", func() bool { return s.Load().Requests == 0 })
	})
}

func TestResumption(t *testing.T) {
	certificate := sign(t, time.Now().Add(time.Hour), "example.com")
	generation := func(secret []byte) (*served, *server.TicketKeys) {
		keys, err := server.NewTicketKeys(secret)
		if err != nil {
			t.Fatal(err)
		}
		config := &tls.Config{Certificates: []tls.Certificate{certificate.pair(t)}}
		keys.Use(config)
		return serveConfig(t, listen(t), server.Options{Handler: http.HandlerFunc(hello)}, config), keys
	}
	first, keys := generation(nil)
	heir, _ := generation(keys.Secret())
	stranger, _ := generation(nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := certificate.trust()
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		config.MinVersion, config.MaxVersion = version, version
		for _, step := range []struct {
			name string
			to   *served
			want bool
		}{{"first", first, false}, {"again", first, true}, {"with the keys", heir, true}, {"without", stranger, false}, {"what that gave", heir, false}} {
			c := step.to.dial().shake(config)
			c.get("/") // a ticket of TLS 1.3 comes after the handshake
			if got := c.Conn.(*tls.Conn).ConnectionState().DidResume; got != step.want {
				t.Errorf("%s, %s: resumed %t, want %t", tls.VersionName(version), step.name, got, step.want)
			}
			c.Close()
		}
	}
	for _, s := range []*served{first, heir, stranger} {
		<-s.drain(patience, all)
	}
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

// The end of a connection is said within TLS: a client could take a FIN alone for
// an attack.
func TestTLSSaysGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 200 * time.Millisecond})
		dial := func() (*client, *counting) {
			counted := &counting{Conn: s.dial().Conn}
			c := (&client{t, counted, nil}).shake(s.signed.trust())
			c.get("/")
			return c, counted
		}
		c, counted := dial()
		drained := s.drain(patience, all)
		before := counted.n
		c.closedCleanly()
		if counted.n == before {
			t.Error("closed without a word")
		}
		<-drained
	})
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

// The end of a body without a length is known by the end within TLS alone: it is
// told of after a whole one, however slowly that is read, and not after a part.
func TestTLSEndOfBodyWithoutLength(t *testing.T) {
	const size, alert, data = 16 << 20, 0x15, 0x17
	s := serveTLS(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range size >> 16 {
			w.Write(make([]byte, 64<<10))
		}
		if r.URL.Path == "/part" {
			panic(http.ErrAbortHandler)
		}
	})})
	for path, want := range map[string]byte{"/whole": alert, "/part": data} {
		config := s.signed.trust()
		config.MaxVersion = tls.VersionTLS12 // which shows the types
		raw := &recorded{Conn: s.dial().Conn}
		c := (&client{t, raw, nil}).shake(config)
		c.send("GET " + path + " HTTP/1.0\r\nHost: x\r\n\r\n")
		got, part := 0, make([]byte, 256<<10)
		for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
			var n int
			n, err = io.ReadFull(c.in, part)
			got += n
		}
		if kind := raw.last(); kind != want || path == "/whole" && got < size {
			t.Errorf("%s: the last record is of type %#x, after %d bytes; want %#x", path, kind, got, want)
		}
	}
	<-s.drain(patience, all)
}

// A client whose handshake ends when the grace of its silence before is almost over
// has a whole one for its request.
func TestGraceAfterHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = time.Second
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: grace})
		c := s.dial()
		await(t, "the connection", func() bool { return s.Load().Connections.New == 1 })
		drained := s.drain(patience, all)
		time.Sleep(grace * 7 / 10)
		over := c.shake(s.signed.trust())
		time.Sleep(grace * 7 / 10)
		if resp, body := over.get("/"); !resp.Close || body != "hello" {
			t.Errorf("got close %t and %q", resp.Close, body)
		}
		if d := <-drained; d.Connections != (upgrade.Closed{Announced: 1}) {
			t.Errorf("got %+v, want one told to close", d.Connections)
		}
	})
}
