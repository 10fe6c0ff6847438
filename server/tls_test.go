package server_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/server/tlskeys"
	"example.com/baton/upgrade"
)

func TestTLSIsSeenByHandlers(t *testing.T) {
	t.Parallel()
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

// A record's beginning that has come along with a request is one's own beginning.
func TestHalfARecordHasTheTimeOfAHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveTLSOn(t, memory(), server.Options{Handler: http.HandlerFunc(hello), ReadHeaderTimeout: time.Second})
		gathered := &gathering{Conn: s.dial().Conn}
		c := (&client{t, gathered, nil}).shake(s.signed.Client())
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

func TestPlainHTTPToTLS(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
				over := tls.Client(s.dial().Conn, test.config(s.signed.Client()))
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
	t.Parallel()
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

func TestResumption(t *testing.T) {
	certificate := selfsigned.New(t, time.Now().Add(time.Hour), "example.com")
	generation := func(secret []byte) (*served, *tlskeys.TicketKeys) {
		keys, err := tlskeys.NewTicketKeys(secret)
		if err != nil {
			t.Fatal(err)
		}
		config := &tls.Config{Certificates: []tls.Certificate{certificate.TLS(t)}}
		keys.Use(config)
		return serveConfig(t, listen(t), server.Options{Handler: http.HandlerFunc(hello)}, config), keys
	}
	first, keys := generation(nil)
	heir, _ := generation(keys.Secret())
	stranger, _ := generation(nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := certificate.Client()
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

// The end of a body without a length is known by the end within TLS alone: close_notify
// follows a whole one, however slowly that is read, and not a part.
func TestTLSEndOfBodyWithoutLength(t *testing.T) {
	tier.Slow(t, "waits for the end of bodies")
	t.Parallel()
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
		config := s.signed.Client()
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

// Certificates in use by a server are replaced under its connections.
func TestCertificatesAreReplacedWhileServing(t *testing.T) {
	t.Parallel()
	old, fresh := selfsigned.New(t, time.Now().Add(time.Hour), "example.com"), selfsigned.New(t, time.Now().Add(time.Hour), "example.com")
	dir := t.TempDir()
	files := tlskeys.CertificateFiles{Certificate: filepath.Join(dir, "pem"), Key: filepath.Join(dir, "key")}
	put := func(pair selfsigned.Pair) {
		for path, content := range map[string][]byte{files.Certificate: pair.Certificate, files.Key: pair.Key} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(old)
	set, err := tlskeys.LoadCertificates([]tlskeys.CertificateFiles{files}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := serveConfig(t, listen(t), server.Options{Handler: names("here")}, &tls.Config{GetCertificate: set.Get})
	before := s.dial().shake(old.Client())
	before.isFrom("here")
	put(fresh)
	set.Refresh()
	s.dial().shake(fresh.Client()).isFrom("here")
	before.isFrom("here")
	<-s.drain(patience, all)
}
