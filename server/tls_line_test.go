package server_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// Clients keep the connection with which they began through many generations, while they make
// requests: downloads and uploads.
func TestTLSThroughManyGenerations(t *testing.T) {
	t.Parallel()
	const generations, clients = 20, 4
	l := newTLSLine(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || r.TLS.ServerName != "example.com" || !r.TLS.HandshakeComplete {
			t.Errorf("got %+v, want the state of a TLS connection", r.TLS)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(body)
	})
	generation := func() *served { return l.serve(listen(t), server.Options{Handler: handler}, nil) }
	s := generation()
	var stopped atomic.Bool
	var asking sync.WaitGroup
	var answered atomic.Int64
	for i := range clients {
		c := l.dial(s, "http/1.1")
		body := strings.Repeat(string(rune('a'+i)), 1+i*50_000)
		post := fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		asking.Go(func() {
			for !stopped.Load() {
				io.WriteString(c, post)
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != body || resp.Close {
					t.Errorf("got %d bytes and %v, close %t, want %d", len(got), err, resp.Close, len(body))
					return
				}
				answered.Add(1)
			}
		})
	}
	more := func() {
		before := answered.Load()
		await(t, "requests", func() bool { return answered.Load() >= before+2*clients || t.Failed() })
	}
	more()
	for range generations {
		m := &movers{first: s, second: generation()}
		if d := <-m.handOff(hang); d.Migrated != clients || d.Connections != (upgrade.Closed{}) {
			t.Errorf("got %+v, want all %d migrated", d, clients)
		}
		s = m.second
		more()
	}
	stopped.Store(true)
	asking.Wait()
	<-s.drain(patience, all)
}

// A part of a record does not migrate: the request is answered where it began to arrive.
func TestPartOfARecordDoesNotMigrate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTLSLine(t)
		m := &movers{
			first:  l.serve(memory(), server.Options{Handler: names("first"), IdleGrace: time.Minute}, nil),
			second: l.serve(memory(), server.Options{Handler: names("second")}, nil),
		}
		m.first.Check(t.Context())
		var clients []*client
		var cuts []*splitting
		for _, split := range []int{1, 4, 5, 6, 30} {
			cut := &splitting{Conn: m.first.dial().Conn}
			c := (&client{t, cut, nil}).shake(l.signed.Client())
			c.isFrom("first")
			cut.split = split
			c.send(request)
			clients, cuts = append(clients, c), append(cuts, cut)
		}
		synctest.Wait()
		drained := m.handOff(time.Minute)
		time.Sleep(time.Second)
		if n := m.offered.Load(); n != 0 {
			t.Errorf("%d connections were offered", n)
		}
		for i, c := range clients {
			if _, err := cuts[i].Conn.Write(cuts[i].rest); err != nil {
				t.Error(err)
			}
			cuts[i].split = 0
			if resp, body := c.answer(); body != "first" || resp.Close {
				t.Errorf("got %q, close %t, want first without the announcement", body, resp.Close)
			}
			synctest.Wait()
			c.isFrom("second")
		}
		if d := <-drained; d.Migrated != len(clients) {
			t.Errorf("got %+v, want all %d migrated", d, len(clients))
		}
		m.end()
	})
}

// A client may send its first request together with the end of its handshake: crypto/tls leaves
// it where it is.
func TestRequestThatComesWithTheHandshake(t *testing.T) {
	inMemoryTLS(t, server.Options{Handler: http.HandlerFunc(hello)}, func(t *testing.T, s *servedTLS) {
		gathered := &gathering{Conn: s.dial().Conn}
		over := tls.Client(hidden{gathered}, s.signed.Client())
		if err := over.Handshake(); err != nil { // of which the end is kept back
			t.Fatal(err)
		}
		c := &client{t, over, bufio.NewReader(over)}
		for range 3 {
			c.send(request)
		}
		gathered.Conn.Write(gathered.all)
		for range 3 {
			if resp, body := c.answer(); body != "hello" || resp.Close {
				t.Errorf("got %q, close %t", body, resp.Close)
			}
		}
		<-s.drain(patience, all)
	})
}

// hidden keeps back what follows on the first Write.
type hidden struct{ *gathering }

func (h hidden) Write(p []byte) (int, error) {
	n, err := h.gathering.Write(p)
	h.on = true
	return n, err
}

// What arrives first at an adopted connection need not be a request.
func TestFirstRecordAfterAMigration(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		send func(c *client, raw net.Conn)
		want server.Reason
	}{
		"close_notify":  {func(c *client, _ net.Conn) { c.Conn.(*tls.Conn).CloseWrite() }, server.ByClient},
		"FIN":           {func(_ *client, raw net.Conn) { raw.(*memoryConn).CloseWrite() }, server.ByClient},
		"half a record": {func(_ *client, raw net.Conn) { raw.Write([]byte{23, 3, 3, 0, 100, 1}); raw.(*memoryConn).CloseWrite() }, server.ByClient},
		"garbage":       {func(_ *client, raw net.Conn) { io.WriteString(raw, request) }, server.Failed},
		"another key":   {func(_ *client, raw net.Conn) { raw.Write(append([]byte{23, 3, 3, 0, 30}, make([]byte, 30)...)) }, server.Failed},
		"nothing":       {func(*client, net.Conn) {}, server.TimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newTLSLine(t)
				opts := server.Options{Handler: names("second"), Logger: slog.New(slog.DiscardHandler)}
				m := &movers{first: l.serve(memory(), server.Options{Handler: names("first")}, nil), second: l.serve(memory(), opts, nil)}
				m.first.Check(t.Context())
				raw := m.first.dial().Conn
				c := (&client{t, raw, nil}).shake(l.signed.Client())
				c.isFrom("first")
				synctest.Wait()
				if d := <-m.handOff(patience); d.Migrated != 1 {
					t.Errorf("got %+v, want one migrated", d)
				}
				test.send(c, raw)
				io.Copy(io.Discard, c)
				synctest.Wait()
				if n := m.second.Closed()[test.want]; n != 1 {
					t.Errorf("got %v, want one closed by reason %v", m.second.Closed(), test.want)
				}
				m.end()
			})
		})
	}
}

// The times of a connection over TLS go on in the successor as those of any other.
func TestMigratedTLSConnectionHasTheTimeThatIsLeft(t *testing.T) {
	const idle, header = 700 * time.Millisecond, 500 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		l := newTLSLine(t)
		m := &movers{
			first:  l.serve(memory(), server.Options{Handler: names("first"), IdleTimeout: idle, ReadHeaderTimeout: header}, nil),
			second: l.serve(memory(), server.Options{Handler: names("second"), IdleTimeout: 2 * idle, ReadHeaderTimeout: 2 * header}, nil),
		}
		m.first.Check(t.Context())
		begin := time.Now()
		mute, fresh, used := m.first.dial(), l.dial(m.first, "http/1.1"), l.dial(m.first, "http/1.1")
		used.isFrom("first")
		time.Sleep(200 * time.Millisecond)
		if d := <-m.handOff(patience); d.Migrated != 3 {
			t.Errorf("got %+v, want 3 migrated", d)
		}
		for _, c := range []struct {
			*client
			timeout time.Duration
		}{{mute, header}, {fresh, header}, {used, idle}} {
			c.closedCleanly()
			if took := time.Since(begin); took != c.timeout {
				t.Errorf("closed after %v, want %v", took, c.timeout)
			}
		}
		m.end()
	})
}

// A session is resumed whichever generation has made it, and with the keys that crypto/tls makes
// by itself; a connection that has resumed one migrates as well.
func TestResumptionAfterAMigration(t *testing.T) {
	t.Parallel()
	l := newTLSLine(t)
	m := &movers{first: l.serve(listen(t), server.Options{Handler: withTLS(t, "first")}, nil),
		second: l.serve(listen(t), server.Options{Handler: names("second")}, nil)}
	config := l.signed.Client()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	config.NextProtos = []string{"http/1.1"}
	m.first.dial().shake(config).get("/")
	resumed := m.first.dial().shake(config)
	if _, got := resumed.get("/"); !strings.Contains(got, "true true false") {
		t.Errorf("got %q, want a resumed session", got)
	}
	await(t, "idleness", func() bool { return m.first.Load().Connections == upgrade.Connections{Idle: 2} })
	if d := <-m.handOff(patience); d.Migrated != 2 {
		t.Errorf("got %+v, want 2 migrated", d)
	}
	resumed.isFrom("second")
	again := m.second.dial().shake(config)
	again.isFrom("second")
	if !again.Conn.(*tls.Conn).ConnectionState().DidResume {
		t.Error("the session was not resumed by the successor")
	}
	m.end()
}

// What a configuration asks for in a handshake is done, and the record layer begins with the
// right sequence numbers.
func TestHandshakes(t *testing.T) {
	t.Parallel()
	l := newTLSLine(t)
	var lines bytes.Buffer // crypto/tls writes one at a time
	tests := map[string]struct {
		server  func(*tls.Config)
		client  func(*tls.Config)
		resumes bool
		state   string // a part of what is shown
	}{
		"keys of its own":   {server: func(c *tls.Config) { *c = tls.Config{Certificates: c.Certificates} }, resumes: true},
		"keys of the line":  {resumes: true},
		"without tickets":   {server: func(c *tls.Config) { c.SessionTicketsDisabled = true }},
		"a client without":  {client: func(c *tls.Config) { c.SessionTicketsDisabled = true }},
		"HelloRetryRequest": {server: func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }, resumes: true, state: "true false true"},
		"another certificate": {server: func(c *tls.Config) {
			own := c.Certificates[0]
			c.Certificates = nil
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil }
		}, resumes: true},
		"chosen, without keys": {server: func(c *tls.Config) {
			own := c.Certificates
			c.Certificates = nil
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return &tls.Config{Certificates: own}, nil }
		}, resumes: true},
		"chosen, without tickets": {server: func(c *tls.Config) {
			chosen := c.Clone()
			chosen.SessionTicketsDisabled = true
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return chosen, nil }
		}},
		"nothing chosen": {server: func(c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
		}, resumes: true},
		"tickets of its own": {server: wrapsSessions, resumes: true},
		"a long ticket":      {server: func(c *tls.Config) { padsTickets(c, 30_000) }, resumes: true},
		"a certificate of the client": {
			server: func(c *tls.Config) {
				c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
				c.ClientCAs.AddCert(l.signed.Leaf)
			},
			client: func(c *tls.Config) { c.Certificates = []tls.Certificate{l.signed.TLS(t)} }, resumes: true, state: "[example.com chain of 1]",
		},
		"no certificate of the client": {server: func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }, resumes: true},
		"a key log":                    {server: func(c *tls.Config) { c.KeyLogWriter = &lines }, resumes: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := *l
			l.t = t
			m := &movers{first: l.serve(listen(t), server.Options{Handler: withTLS(t, "first")}, test.server),
				second: l.serve(listen(t), server.Options{Handler: withTLS(t, "second")}, test.server)}
			config := l.signed.Client()
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			if test.client != nil {
				test.client(config)
			}
			for i := range 2 {
				c := m.first.dial().shake(config)
				_, got := c.get("/")
				if resumed := c.Conn.(*tls.Conn).ConnectionState().DidResume; resumed != (i == 1 && test.resumes) {
					t.Errorf("connection %d: resumed %t", i+1, resumed)
				}
				if i == 0 && !strings.Contains(got, test.state) {
					t.Errorf("got %q, want %q in it", got, test.state)
				}
			}
			await(t, "idleness", func() bool { return m.first.Load().Connections == upgrade.Connections{Idle: 2} })
			if d := <-m.handOff(patience); d.Migrated != 2 {
				t.Errorf("got %+v, want 2 migrated", d)
			}
			m.end()
		})
	}
	for _, label := range []string{"CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 ", "CLIENT_HANDSHAKE_TRAFFIC_SECRET "} {
		if got := strings.Count(lines.String(), label); got != 2 {
			t.Errorf("%d lines of the configuration's key log have %q, want 2", got, label)
		}
	}
}

// wrapsSessions has a configuration make its tickets itself.
func wrapsSessions(c *tls.Config) {
	var mu sync.Mutex
	sessions := make(map[string]*tls.SessionState)
	c.WrapSession = func(_ tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		id := string(rune('a' + len(sessions)))
		sessions[id] = s
		return []byte(id), nil
	}
	c.UnwrapSession = func(id []byte, _ tls.ConnectionState) (*tls.SessionState, error) {
		mu.Lock()
		defer mu.Unlock()
		return sessions[string(id)], nil
	}
}

// padsTickets makes tickets longer than a record.
func padsTickets(c *tls.Config, n int) {
	base := c.Clone()
	c.WrapSession = func(state tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
		ticket, err := base.EncryptTicket(state, s)
		return append(ticket, make([]byte, n)...), err
	}
	c.UnwrapSession = func(id []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		return base.DecryptTicket(id[:max(len(id)-n, 0)], state)
	}
}
