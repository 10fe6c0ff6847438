package server_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/server"
	"example.com/baton/server/internal/selfsigned"
	"example.com/baton/upgrade"
	"golang.org/x/net/http2"
)

func proto(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %t", r.Proto, r.TLS != nil)
}

func TestHTTP2(t *testing.T) {
	both(t, server.Options{Handler: http.HandlerFunc(proto)}, func(t *testing.T, s *served, dial func() *http2Client) {
		c := dial()
		_, over := c.Conn.(*tls.Conn)
		for stream := uint32(1); stream < 20; stream += 2 {
			c.request(stream, "/")
		}
		for stream := uint32(1); stream < 20; stream += 2 {
			c.gets(stream, fmt.Sprintf("HTTP/2.0 %t", over))
		}
		await(t, "idleness", func() bool { return s.Load().Connections == upgrade.Connections{Idle: 1} })
		c.Close()
		await(t, "the account of it", func() bool { return s.Closed()[server.ByClient] == 1 })
		<-s.drain(patience, all)
	})
}

// One that becomes HTTP/2 in the drain is sent a GOAWAY as well, and served.
func TestHTTP2BeginsInDrain(t *testing.T) {
	inMemory(t, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: patience}, func(t *testing.T, s *served) {
		splits := []int{0, 1, 13, 14, 15, 23}
		var clients []*client
		for _, begun := range splits {
			c := s.dial()
			io.WriteString(c, preface[:begun])
			clients = append(clients, c)
		}
		await(t, "the connections", func() bool { return s.Accepted() == uint64(len(splits)) })
		drained := s.drain(2*patience, all)
		s.awaitDraining()
		var told []*http2Client
		for i, c := range clients {
			io.WriteString(c, preface[splits[i]:])
			h := newHTTP2Client(t, prefaced{c.Conn})
			h.isFrom("hello")
			h.toldOnce()
			h.pong()
			h.toldTwice(1)
			told = append(told, h)
		}
		for _, h := range told {
			h.closes()
		}
		if d := <-drained; d.Connections != (upgrade.Closed{ConnectionClose: len(splits)}) {
			t.Errorf("got %+v, want all sent Connection: close or a GOAWAY", d)
		}
	})
}

// Bytes of a preface, or of a request as short, are not left behind by a move.
func TestBegunConnectionsDoNotMove(t *testing.T) {
	t.Parallel()
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	m := newMovers(t, names("first"))
	<-m.first.drain(patience, all)
	counted := &countedListener{Listener: listen(t)}
	m.first = serveOn(t, counted, server.Options{Handler: names("first")})
	var sent int64
	type begun struct {
		*client
		rest string
	}
	var clients []begun
	for i := 1; i < len(request); i++ {
		c := m.first.dial()
		c.send(request[:i])
		sent += int64(i)
		clients = append(clients, begun{c, request[i:]})
	}
	var known []begun
	for i := 1; i < len(preface); i++ {
		c := m.first.dial()
		c.send(preface[:i])
		sent += int64(i)
		known = append(known, begun{c, preface[i:]})
	}
	total := len(clients) + len(known)
	await(t, "the connections", func() bool { return m.first.Accepted() == uint64(total) && counted.read.Load() == sent })
	drained := m.handOff(2 * patience)
	m.first.awaitDraining()
	time.Sleep(50 * time.Millisecond) // in which none moves
	for _, c := range clients {
		c.send(c.rest)
		if resp, body := c.answer(); body != "first" || resp.Close {
			t.Errorf("before %q: got %q, close %t, want first, and to move then", c.rest, body, resp.Close)
		}
		c.movesOn()
	}
	for _, c := range known {
		c.send(c.rest)
		h := newHTTP2Client(t, prefaced{c.Conn})
		h.isFrom("first")
		h.Close()
	}
	if d := <-drained; d.MigratedBy["http/1.1"] != len(clients) {
		t.Errorf("got %+v, want %d of HTTP/1.1 moved", d, len(clients))
	}
	m.end()
}

func TestHTTP2Reasons(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do   func(c *http2Client)
		want server.Reason
	}{
		"client closes":  {func(c *http2Client) { c.isFrom(""); c.Close() }, server.ByClient},
		"client says so": {func(c *http2Client) { c.isFrom(""); c.WriteGoAway(0, http2.ErrCodeNo, nil); c.closes() }, server.ByClient},
		"idle timeout":   {func(c *http2Client) { c.isFrom(""); c.closes() }, server.TimedOut},
		"handler closes": {func(c *http2Client) { c.request(1, "/close"); c.closes() }, server.ConnectionClose},
		"protocol error": {func(c *http2Client) { c.isFrom(""); c.WriteWindowUpdate(2, 1); io.Copy(io.Discard, c.Conn) }, server.Failed},
		"half a header":  {func(c *http2Client) { c.isFrom(""); c.Conn.Write([]byte{0, 0, 9, 1}); io.Copy(io.Discard, c.Conn) }, server.TimedOut},
		"header goes on": {func(c *http2Client) {
			c.isFrom("")
			c.Conn.Write([]byte{0, 0, 1, 1, 0, 0, 0, 0, 3, 0x82})
			io.Copy(io.Discard, c.Conn)
		}, server.TimedOut},
		"half a DATA": {func(c *http2Client) {
			c.open(1, "POST", "/", false)
			c.Conn.Write([]byte{0, 0, 9, 0, 0, 0, 0, 0, 1})
			io.Copy(io.Discard, c.Conn)
		}, server.TimedOut},
		"handler panicked": {func(c *http2Client) { c.request(1, "/panic"); c.body(1); c.Close() }, server.ByClient},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			both(t, server.Options{IdleTimeout: 2 * time.Second, ReadHeaderTimeout: time.Second, ReadBodyTimeout: 500 * time.Millisecond,
				Logger: slog.New(slog.DiscardHandler),
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/panic":
						panic(http.ErrAbortHandler)
					case "/close":
						w.Header().Set("Connection", "close")
					}
					io.Copy(io.Discard, r.Body)
				})}, func(t *testing.T, s *served, dial func() *http2Client) {
				test.do(dial())
				await(t, "the connection's end", func() bool { return s.Load().Connections == upgrade.Connections{} && s.Accepted() == 1 })
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

// Half of something does not hold the drain beyond its timeouts.
func TestHTTP2HalfAFrameInDrain(t *testing.T) {
	both(t, server.Options{ReadHeaderTimeout: 400 * time.Millisecond, Handler: http.HandlerFunc(hello), Logger: slog.New(slog.DiscardHandler)}, func(t *testing.T, s *served, dial func() *http2Client) {
		for _, half := range [][]byte{{0, 0, 9, 1}, {0, 0, 9, 1, 5, 0, 0, 0, 3, 0x82}, {0, 0, 1, 1, 0, 0, 0, 0, 3, 0x82}} {
			c := dial()
			c.isFrom("hello")
			c.Conn.Write(half)
		}
		begin := time.Now()
		if d := <-s.drain(patience, all); d.Connections.DrainTimeout != 0 {
			t.Errorf("got %+v, want none closed forcibly", d)
		}
		if took := time.Since(begin); took > 1500*time.Millisecond {
			t.Errorf("took %v, want about the header timeout", took)
		}
	})
}

// The last stream of a GOAWAY is never raised by another.
func TestHTTP2DrainOfConnectionThatEnds(t *testing.T) {
	g := newGate()
	g.after = "done"
	both(t, server.Options{Handler: g}, func(t *testing.T, s *served, dial func() *http2Client) {
		g.open = make(chan struct{})
		c := dial()
		c.request(1, "/")
		<-g.entered
		if err := c.WriteGoAway(0, http2.ErrCodeNo, nil); err != nil {
			t.Fatal(err)
		}
		c.await("net/http's own", func() bool { return len(c.goAways) == 1 })
		drained := s.drain(patience, all)
		s.awaitDraining()
		time.Sleep(200 * time.Millisecond) // beyond the grace
		close(g.open)
		c.gets(1, "done")
		c.closes()
		if len(c.goAways) != 1 || c.goAways[0] != 1 {
			t.Errorf("got GOAWAY for %d, want one for stream 1", c.goAways)
		}
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Client: 1}) {
			t.Errorf("got %+v, want a connection that the client has ended", d)
		}
	})
}

// A net/http that does not take the second step announces the end with a response.
func TestHTTP2InOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServed(t, memory(), server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 10 * time.Millisecond})
		s.BreakHTTP2Drain()
		s.Serve()
		speaker, silent := s.dialHTTP2(), s.dialHTTP2()
		speaker.isFrom("hello")
		silent.isFrom("hello")
		drained := s.drain(2*time.Second, all)
		s.awaitDraining()
		speaker.request(3, "/")
		speaker.gets(3, "hello")
		speaker.closes()
		if len(speaker.goAways) != 1 || speaker.goAways[0] != 3 {
			t.Errorf("got GOAWAY for %d, want one for stream 3", speaker.goAways)
		}
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{ConnectionClose: 1, IdleGrace: 1}) {
			t.Errorf("got %+v, want one sent a GOAWAY, and the idle one closed at the deadline", d)
		}
	})
}

// Whoever turns HTTP/2 off in net/http gets HTTP/1.1, and connections that move.
func TestWithoutHTTP2(t *testing.T) {
	t.Setenv("GODEBUG", "http2server=0")
	var logged bytes.Buffer
	certificate := selfsigned.New(t, time.Now().Add(time.Hour), "example.com")
	m := newMovers(t, names("first"))
	<-m.first.drain(patience, all)
	over := listen(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("the handler got %s %s", r.Method, r.RequestURI)
		}
		names("first").ServeHTTP(w, r)
	})
	m.first = newServed(t, listen(t), server.Options{Handler: handler, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	m.first.AddTLS(over, &tls.Config{Certificates: []tls.Certificate{certificate.TLS(t)}})
	if err := m.first.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.first.Serve()
	config := certificate.Client()
	config.NextProtos = []string{"h2", "http/1.1"}
	secured := (&served{t: t, addr: over.Addr()}).dial().shake(config)
	if got := secured.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("negotiated %q, want http/1.1", got)
	}
	secured.isFrom("first")
	secured.Close()
	byPreface := m.first.dial()
	byPreface.send(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and SETTINGS
	if resp, _ := byPreface.answer(); resp.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("prior knowledge: got status %s, want 505", resp.Status)
	}
	byPreface.closedCleanly()
	fresh, used := m.first.dial(), m.first.dial()
	used.isFrom("first")
	await(t, "two connections", func() bool { return m.first.Load().Connections == upgrade.Connections{New: 1, Idle: 1} })
	if d := <-m.handOff(patience); d.Migrated != 2 {
		t.Errorf("got %+v, want both moved", d)
	}
	fresh.isFrom("second")
	used.isFrom("second")
	if n := strings.Count(logged.String(), "level=WARN"); n != 1 || !strings.Contains(logged.String(), "HTTP/2 is disabled") {
		t.Errorf("logged %s, want a warning that HTTP/2 is disabled", &logged)
	}
	m.end()
}
