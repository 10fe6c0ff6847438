package server_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// seen notes the requests that reach the handler.
type seen struct {
	mu    sync.Mutex
	paths []string
}

func (s *seen) note(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paths = append(s.paths, r.Method+" "+r.URL.Path)
}

func (s *seen) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.paths...)
}

// early answers as a proxy does whose backend answers at once: another goroutine reads the
// body meanwhile, and is not waited for. The path says how.
type early struct {
	seen
	readers sync.WaitGroup
}

func (e *early) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.note(r)
	if r.ContentLength != 0 && r.URL.Path != "/plain" {
		http.NewResponseController(w).EnableFullDuplex()
		began := make(chan struct{})
		switch r.URL.Path {
		case "/closed": // a backend that is down
			r.Body.Close()
		case "/unread":
		default:
			e.readers.Go(func() {
				close(began)
				io.Copy(io.Discard, r.Body)
			})
			<-began
		}
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
	}
	if r.URL.Path == "/silent" {
		return
	}
	io.WriteString(w, "early "+r.URL.Path)
	if r.URL.Path == "/flush" {
		w.(http.Flusher).Flush()
		io.WriteString(w, strings.Repeat("x", 10000))
	}
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

// bodies are requests without their first line, in two parts: the handler has answered
// when the second one is sent.
var bodies = map[string][2]string{
	"length":         {fmt.Sprintf("Content-Length: %d\r\n\r\n", len(smuggled)), smuggled},
	"length, begun":  {fmt.Sprintf("Content-Length: %d\r\n\r\nab", len(smuggled)+2), smuggled},
	"large length":   {fmt.Sprintf("Content-Length: %d\r\n\r\n", 1<<20), smuggled + strings.Repeat(smuggled, 1000)},
	"chunked":        {fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", len(smuggled)), smuggled + "\r\n0\r\n\r\n"},
	"before a chunk": {"Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n", len(smuggled)) + smuggled + "\r\n0\r\n\r\n"},
	"within a size":  {"Transfer-Encoding: chunked\r\n\r\n0", "0\r\n\r\n" + smuggled},
	"extension":      {"Transfer-Encoding: chunked\r\n\r\n1;a=", "b\r\nx\r\n0\r\n\r\n" + smuggled},
	"trailer":        {"Trailer: T\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "T: v\r\n\r\n"},
	"broken chunk":   {"Transfer-Encoding: chunked\r\n\r\n1\r\n", smuggled},
	"expected":       {fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(smuggled)), smuggled},
	"expected chunk": {"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n", len(smuggled)) + smuggled + "\r\n0\r\n\r\n"},
}

// A client that gets an answer before it has sent its request's body may go on with the
// body: nothing of that is a request. The connection ends, and says so, unless the body
// has been read to its end.
func TestEarlyAnswerLeavesNoBody(t *testing.T) {
	t.Parallel()
	tier.Slow(t, "waits for each kind of body")
	for _, path := range []string{"/read", "/unread", "/closed", "/silent", "/flush", "/plain"} {
		for name, parts := range bodies {
			if waits := path == "/closed" || path == "/silent" || path == "/plain"; waits && !slices.Contains([]string{"length", "chunked", "expected", "broken chunk"}, name) {
				continue // for the rest of the body, for a while
			}
			t.Run(path[1:]+", "+name, func(t *testing.T) {
				t.Parallel()
				var logged syncBuffer
				h := new(early)
				s := serve(t, server.Options{Handler: h, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
				c := s.dial()
				c.send("POST " + path + " HTTP/1.1\r\nHost: x\r\n" + parts[0])
				announced := false
				for {
					resp, body := c.answer()
					if resp.StatusCode == http.StatusContinue {
						continue
					}
					want := "early " + path
					if path == "/silent" {
						want = ""
					}
					if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, want) || path == "/flush" && len(body) < 10000 {
						t.Errorf("got %d, %q, want the whole answer", resp.StatusCode, body)
					}
					announced = resp.Close
					break
				}
				if !announced {
					t.Error("no Connection: close, although the body is not read to its end")
				}
				io.WriteString(c, parts[1])
				c.Conn.(*net.TCPConn).CloseWrite()
				if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
					t.Errorf("after the answer: got %q, %v, want a FIN", rest, err)
				}
				c.Close()
				<-s.drain(patience, none)
				h.readers.Wait()
				if got := h.list(); len(got) != 1 {
					t.Errorf("the handler got %q, want one request", got)
				}
				if strings.Contains(logged.String(), "panic") {
					t.Errorf("logged: %s", logged.String())
				}
			})
		}
	}
}

// A body that has arrived costs no connection, whatever the handler makes of it.
func TestEarlyAnswerAfterTheWholeBody(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/closed", "/silent", "/plain"} { // while another goroutine may read it, it does

		for name, body := range map[string]string{
			"length":  "Content-Length: 5\r\n\r\nabcde",
			"chunked": "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
			"trailer": "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\nT: v\r\n\r\n",
		} {
			t.Run(path[1:]+", "+name, func(t *testing.T) {
				t.Parallel()
				h := new(early)
				s := serve(t, server.Options{Handler: h})
				c := s.dial()
				for i := range 3 {
					c.send("POST " + path + " HTTP/1.1\r\nHost: x\r\n" + body)
					if resp, _ := c.answer(); resp.StatusCode != http.StatusOK || resp.Close {
						t.Errorf("request %d: got %d, close %v, want 200 and an open connection", i, resp.StatusCode, resp.Close)
					}
				}
				<-s.drain(patience, none)
				h.readers.Wait()
			})
		}
	}
}

// syncBuffer is what a logger writes to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Full duplex goes on: both directions at once, in chunks and to the end.
func TestFullDuplex(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "T")
		if r.URL.Path == "/copy" {
			io.Copy(w, r.Body)
			return
		}
		control.Flush()
		for buffer := make([]byte, 64); ; {
			n, err := r.Body.Read(buffer)
			w.Write(buffer[:n])
			control.Flush()
			if err != nil {
				w.Header().Set("T", r.Trailer.Get("T"))
				return
			}
		}
	})})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(resp.Body)
	for i := range 3 {
		line := fmt.Sprintf("line %d\n", i)
		c.send(fmt.Sprintf("%x\r\n%s\r\n", len(line), line))
		if got, err := in.ReadString('\n'); got != line || err != nil {
			t.Fatalf("got %q, %v, want %q", got, err, line)
		}
	}
	c.send("0\r\nT: end\r\n\r\n")
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v, want the end", rest, err)
	}
	if got := resp.Trailer.Get("T"); got != "end" {
		t.Errorf("got trailer %q, want that of the request, which it had not announced", got)
	}
	c.closedCleanly()

	c = s.dial()
	for range 2 {
		c.send("POST /copy HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde")
		if resp, body := c.answer(); resp.Close || body != "abcde" {
			t.Errorf("got close %v, %q, want an open connection and abcde", resp.Close, body)
		}
	}
	<-s.drain(patience, none)
}

// Who sends the whole body before looking for an answer, as many clients do, gets it.
func TestAnswerArrivesThroughALargeBody(t *testing.T) {
	t.Parallel()
	h := new(early)
	s := serve(t, server.Options{Handler: h})
	c := s.dial()
	const size = 20 << 20
	c.send(fmt.Sprintf("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size))
	block := strings.Repeat("x", 1<<20)
	for range size / len(block) {
		c.send(block)
	}
	if resp, body := c.answer(); resp.StatusCode != http.StatusOK || body != "early /unread" {
		t.Errorf("got %d, %q", resp.StatusCode, body)
	}
	c.Close()
	<-s.drain(patience, none)
}

// A handler that gives up, or a client that does, leaves nothing behind either.
func TestAbortLeavesNoBody(t *testing.T) {
	t.Parallel()
	for name, parts := range bodies {
		h := new(early)
		s := serve(t, server.Options{Handler: h})
		for _, path := range []string{"/abort", "/read"} {
			c := s.dial()
			c.send("POST " + path + " HTTP/1.1\r\nHost: x\r\n" + parts[0])
			if path == "/abort" {
				io.WriteString(c, parts[1])
				io.ReadAll(c.in)
			}
			c.Close()
		}
		await(t, "no connection", func() bool { return s.Load().Connections == upgrade.Load{}.Connections })
		<-s.drain(patience, none)
		h.readers.Wait()
		for _, got := range h.list() {
			if strings.Contains(got, "smuggled") {
				t.Errorf("%s: the handler got %q", name, got)
			}
		}
	}
}

// Somebody who still reads the body would take what belongs to the new protocol.
func TestHijackOfAnUnreadBody(t *testing.T) {
	failed := make(chan error, 1)
	s := serve(t, server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		_, _, err := http.NewResponseController(w).Hijack()
		failed <- err
		w.WriteHeader(http.StatusBadGateway)
	})})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\na")
	if resp, _ := c.answer(); resp.StatusCode != http.StatusBadGateway || !resp.Close {
		t.Errorf("got %d, close %v, want 502 and the end", resp.StatusCode, resp.Close)
	}
	if err := <-failed; err == nil {
		t.Error("hijacked a connection with an unread body")
	}
	c.Close()
	<-s.drain(patience, none)
}

// A connection whose request's body has not been read to its end stays where it is, and one
// whose body has been goes on.
func TestUnreadBodyDoesNotMove(t *testing.T) {
	t.Parallel()
	duplex := func(g *gate) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			if r.URL.Path == "/read" {
				io.Copy(io.Discard, r.Body)
			}
			g.ServeHTTP(w, r)
			io.WriteString(w, "first")
		})
	}
	for name, parts := range bodies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate()
			m := newMovers(t, duplex(g))
			c := m.first.dial()
			c.send("POST / HTTP/1.1\r\nHost: x\r\n" + parts[0])
			<-g.entered
			drained := m.handOff(patience)
			m.first.awaitDraining()
			close(g.open)
			if resp, body := c.answer(); body != "first" || !resp.Close {
				t.Errorf("got %q, close %v, want the first's answer and the end", body, resp.Close)
			}
			io.WriteString(c, parts[1])
			c.Conn.(*net.TCPConn).CloseWrite()
			if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
				t.Errorf("after the answer: got %q, %v, want a FIN", rest, err)
			}
			if d := <-drained; d.Migrated != 0 || d.Connections.ConnectionClose != 1 {
				t.Errorf("got %+v, want none moved", d)
			}
			m.end()
		})
	}
	t.Run("read", func(t *testing.T) {
		g := newGate()
		m := newMovers(t, duplex(g))
		c := m.first.dial()
		c.send("POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
		<-g.entered
		drained := m.handOff(patience)
		m.first.awaitDraining()
		close(g.open)
		if resp, body := c.answer(); body != "first" || resp.Close {
			t.Errorf("got %q, close %v, want an open connection", body, resp.Close)
		}
		if d := <-drained; d.Migrated != 1 {
			t.Errorf("got %+v, want one moved", d)
		}
		c.isFrom("second")
		c.Close()
		m.end()
	})
}
