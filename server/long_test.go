package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// wire keeps what a client gets.
type wire struct {
	net.Conn
	got []byte
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.got = append(w.got, p[:n]...)
	return n, err
}

// endsInAlert tells whether the last record has the length of an encrypted alert of
// TLS 1.3: its two bytes, one for the type of content, and 16 of the cipher.
func (w *wire) endsInAlert() bool {
	last := 0
	for rest := w.got; len(rest) >= 5; rest = rest[min(5+last, len(rest)):] {
		last = int(binary.BigEndian.Uint16(rest[3:]))
	}
	return last == 2+1+16
}

// hijacking serves h, whose connections are taken over, with TLS or without.
func hijacking(t *testing.T, h http.HandlerFunc, test func(t *testing.T, s *served, c *client, raw *wire)) {
	for _, secure := range []bool{false, true} {
		name := map[bool]string{false: "plaintext", true: "TLS"}[secure]
		t.Run(name, inBubble(func(t *testing.T) {
			opts := server.Options{Handler: h}
			var s *served
			var config *tls.Config
			if secure {
				over := serveTLSOn(t, memory(), opts)
				s, config = over.served, over.signed.Client()
			} else {
				s = serveOn(t, memory(), opts)
			}
			raw := &wire{Conn: s.dial().Conn}
			c := &client{t, raw, bufio.NewReader(raw)}
			if secure {
				c = c.shake(config)
			}
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if line, err := c.in.ReadString('\n'); line != "mine\n" {
				t.Fatalf("got %q, %v, want mine", line, err)
			}
			if got := s.Load().Connections; got != (upgrade.Connections{Hijacked: 1}) {
				t.Errorf("connections: got %+v, want one that is hijacked", got)
			}
			test(t, s, c, raw)
		}))
	}
}

func TestHijackedSaysGoodbye(t *testing.T) {
	hijacking(t, func(w http.ResponseWriter, r *http.Request) {
		echoed := make(chan struct{})
		nc, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		defer server.OnDrain(r.Context(), 50*time.Millisecond, func(context.Context) {
			<-echoed // the time has come, also on a busy machine
			io.WriteString(nc, "bye\n")
			nc.Close()
		})()
		io.WriteString(nc, "mine\n")
		for {
			line, err := buf.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(nc, line)
			close(echoed)
		}
	}, func(t *testing.T, s *served, c *client, raw *wire) {
		drained := s.drain(patience, all)
		s.awaitDraining()
		c.send("still here\n")
		for _, want := range []string{"still here\n", "bye\n"} {
			if line, err := c.in.ReadString('\n'); line != want {
				t.Fatalf("got %q, %v, want %q", line, err, want)
			}
		}
		c.closedCleanly()
		if _, secure := c.Conn.(*tls.Conn); secure && !raw.endsInAlert() {
			t.Error("TLS: closed without an alert")
		}
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
			t.Errorf("got %+v, want one request finished and one connection closed by its handler", d)
		}
	})
}

// A handler that has registered nothing, and is not interested, is cut at the deadline.
func TestHijackedWithoutHookIsClosedForcibly(t *testing.T) {
	ended := make(chan error, 1)
	hijacking(t, func(w http.ResponseWriter, r *http.Request) {
		nc, buf, _ := w.(http.Hijacker).Hijack()
		io.WriteString(nc, "mine\n")
		_, err := buf.ReadByte()
		ended <- err
	}, func(t *testing.T, s *served, c *client, _ *wire) {
		began := time.Now()
		d := <-s.drain(200*time.Millisecond, all)
		if took := time.Since(began); took > 200*time.Millisecond+2*slack || d.Requests != 0 || d.Connections != (upgrade.Closed{DrainTimeout: 1}) {
			t.Errorf("got %+v after %v, want one connection closed forcibly after 200 ms", d, took)
		}
		if err := <-ended; err == nil {
			t.Error("handler: got something, want the end of its connection")
		}
	})
}

// A client that has closed its side is heard to have done so, and still hears.
func TestHijackedHalfClosed(t *testing.T) {
	hijacking(t, func(w http.ResponseWriter, r *http.Request) {
		nc, buf, _ := w.(http.Hijacker).Hijack()
		defer nc.Close()
		io.WriteString(nc, "mine\n")
		heard, err := io.ReadAll(buf)
		if err != nil {
			t.Errorf("handler: %v, want the end of what the client sends", err)
		}
		<-server.Draining(r.Context())
		nc.Write(append(heard, '\n'))
		nc.(interface{ CloseWrite() error }).CloseWrite()
	}, func(t *testing.T, s *served, c *client, _ *wire) {
		c.send("all I have")
		type halfCloser interface{ CloseWrite() error }
		if over, ok := c.Conn.(halfCloser); ok {
			over.CloseWrite()
		} else {
			c.Conn.(*wire).Conn.(halfCloser).CloseWrite()
		}
		drained := s.drain(patience, all)
		if line, err := c.in.ReadString('\n'); line != "all I have\n" {
			t.Errorf("got %q, %v, want what was sent", line, err)
		}
		c.closedCleanly()
		if d := <-drained; d.Requests != 1 || d.Connections.DrainTimeout != 0 {
			t.Errorf("got %+v, want one request finished", d)
		}
	})
}

// Streams and long polls are notified at once, and end in order, while what else is
// under way on their connection goes on.
func TestLongOnesAreTold(t *testing.T) {
	const soon = 100 * time.Millisecond
	for _, tt := range []struct {
		name   string
		secure bool
		http2  bool
	}{{"HTTP/1.1", false, false}, {"HTTP/1.1 over TLS", true, false}, {"HTTP/2", false, true}, {"HTTP/2 over TLS", true, true}} {
		t.Run(tt.name, inBubble(func(t *testing.T) {
			if took := tellLongOnes(t, tt.secure, tt.http2); took > soon {
				t.Errorf("ended %v after the drain began, want %v", took, soon)
			}
		}))
	}
}

// tellLongOnes returns how long it took until all had ended.
func tellLongOnes(t *testing.T, secure, http2 bool) time.Duration {
	held := newGate()
	held.before, held.after = "before", " and after"
	mux := http.NewServeMux()
	mux.Handle("/held", held)
	mux.HandleFunc("/poll", func(w http.ResponseWriter, r *http.Request) {
		<-server.Draining(r.Context())
		io.WriteString(w, "nothing new")
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-server.Draining(r.Context())
	})
	opts := server.Options{Handler: mux}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	defer transport.CloseIdleConnections()
	var s *served
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return s.connect() }
	url := "http://"
	if secure {
		over := serveTLSOn(t, memory(), opts)
		s, transport.TLSClientConfig, url = over.served, over.signed.Client(), "https://"
	} else {
		s = serveOn(t, memory(), opts)
	}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2 && secure)
	transport.Protocols.SetUnencryptedHTTP2(http2 && !secure)

	type end struct {
		body string
		err  error
		at   time.Time
	}
	begin := func(path string) <-chan end {
		ended := make(chan end, 1)
		go func() {
			var e end
			resp, err := (&http.Client{Transport: transport}).Get(url + s.addr.String() + path)
			if e.err = err; err == nil {
				defer resp.Body.Close()
				var body strings.Builder
				_, e.err = io.Copy(&body, resp.Body)
				e.body = body.String()
				if want := map[bool]int{false: 1, true: 2}[http2]; resp.ProtoMajor != want {
					e.err = errors.Join(e.err, errors.New("got "+resp.Proto))
				}
			}
			e.at = time.Now()
			ended <- e
		}()
		return ended
	}
	rest := begin("/held")
	<-held.entered // and so there is a connection of HTTP/2 for all
	poll, events := begin("/poll"), begin("/events")
	await(t, "all requests", func() bool { return s.Load().Requests == 3 })
	if got := s.Accepted(); http2 && got != 1 {
		t.Errorf("got %d connections, want one", got)
	}
	began := time.Now()
	drained := s.drain(patience, all)
	var took time.Duration
	for what, want := range map[<-chan end]string{poll: "nothing new", events: "data: 1\n\n"} {
		e := <-what
		if e.err != nil || e.body != want {
			t.Errorf("got %q, %v, want %q and its end in order", e.body, e.err, want)
		}
		took = max(took, e.at.Sub(began))
	}
	close(held.open)
	if e := <-rest; e.err != nil || e.body != "before and after" {
		t.Errorf("got %q, %v, want what was under way whole", e.body, e.err)
	}
	if d := <-drained; d.Requests != 3 || d.Connections.DrainTimeout+d.Connections.Error+d.Connections.Timeout != 0 {
		t.Errorf("got %+v, want three requests finished and nothing closed forcibly", d)
	}
	return took
}

// A client that has long not read does not keep the good-bye waiting, nor the drain.
func TestHijackedDeafClient(t *testing.T) {
	hijacking(t, func(w http.ResponseWriter, r *http.Request) {
		nc, _, _ := w.(http.Hijacker).Hijack()
		defer nc.Close()
		defer server.OnDrain(r.Context(), 100*time.Millisecond, func(context.Context) { nc.Close() })()
		io.WriteString(nc, "mine\n")
		for {
			if _, err := nc.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}, func(t *testing.T, s *served, c *client, _ *wire) {
		began := time.Now()
		d := <-s.drain(patience, all)
		if took := time.Since(began); took > 100*time.Millisecond+2*slack || d.Requests != 1 || d.Connections != (upgrade.Closed{Hijacked: 1}) {
			t.Errorf("got %+v after %v, want one connection closed by its handler after 100 ms", d, took)
		}
	})
}

// A stream that ends shortly before the deadline leaves a connection of HTTP/2
// behind, which net/http closes a second later. Nothing of it is cut.
func TestHTTP2StreamAtTheDeadline(t *testing.T) {
	opts := server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			<-r.Context().Done()
			return
		}
		over := make(chan struct{})
		defer server.OnDrain(r.Context(), 0, func(context.Context) { close(over) })()
		io.WriteString(w, "to the end")
		w.(http.Flusher).Flush()
		<-over
	})}
	both(t, opts, func(t *testing.T, s *served, dial func() *http2Client) {
		c, busy := dial(), dial()
		c.answers = true
		c.request(1, "/")
		busy.request(1, "/cut")
		await(t, "the requests", func() bool { return s.Load().Requests == 2 })
		drained := s.drain(500*time.Millisecond, all)
		c.gets(1, "to the end")
		c.closes()
		if d := <-drained; d.Requests != 1 || d.Connections != (upgrade.Closed{ConnectionClose: 1, DrainTimeout: 1}) {
			t.Errorf("got %+v, want one connection sent Connection: close, and one closed forcibly, which has a request", d)
		}
	})
}
