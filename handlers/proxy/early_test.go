package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/middleware"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// early is Baton with a rule for backends that answer as soon as they have a header,
// and go on to read or not, and a count of the requests that it has got.
type early struct {
	addr net.Addr
	log  *testserver.Log

	mu   sync.Mutex
	seen []string // by Baton
}

func (e *early) list() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.seen...)
}

func startEarly(t testing.TB) *early {
	t.Helper()
	e := new(early)
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu        sync.Mutex
		conns     []net.Conn
		answering sync.WaitGroup
	)
	t.Cleanup(func() { // the proxy keeps connections to it
		backend.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		answering.Wait()
	})
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	answering.Go(func() {
		for {
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			answering.Go(func() { answerEarly(conn) })
		}
	})
	reading := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	t.Cleanup(reading.Close)
	log, logger := testserver.Capture()
	e.log = log
	rule := func(prefix string, addr net.Addr) Rule {
		return Rule{prefix, &url.URL{Scheme: "http", Host: addr.String()}}
	}
	proxied := start(t, Options{Logger: slog.New(slog.DiscardHandler), MaxBody: 100_000, Next: http.NotFoundHandler(),
		Rules: []Rule{rule("/early", backend.Addr()), rule("/reading", reading.Listener.Addr()), rule("/dead", dead.Addr())}})
	s := server.New(server.Options{Logger: logger, Handler: middleware.Log(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		e.seen = append(e.seen, r.Method+" "+r.URL.Path)
		e.mu.Unlock()
		proxied.ServeHTTP(w, r)
	}), slog.New(slog.DiscardHandler))})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.addr = ln.Addr()
	s.Add(ln)
	s.Serve()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return false }})
	})
	return e
}

// answerEarly answers each request when its header has come, and then reads the body.
func answerEarly(conn net.Conn) {
	defer conn.Close()
	for in := bufio.NewReader(conn); ; {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
	}
}

func (e *early) dial(t testing.TB) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", e.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { conn.Close() })
	return conn, bufio.NewReader(conn)
}

// final reads a final response.
func final(in *bufio.Reader) (*http.Response, error) {
	for {
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadAll(response.Body); err != nil || response.StatusCode >= 200 {
			return response, err
		}
	}
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

// earlyBody returns the header fields of a body and the body, all of requests of their own.
func earlyBody(kind byte) (fields, body string) {
	data := strings.Repeat(smuggled, 1+int(kind>>4))
	chunked := fmt.Sprintf("%x\r\n%s\r\n%x;a=\"b\"\r\n%s\r\n0\r\n", len(data), data, len(smuggled), smuggled)
	switch kind % 7 {
	case 1:
		return fmt.Sprintf("Content-Length: %d\r\n", len(data)), data
	case 2:
		return "Transfer-Encoding: chunked\r\n", chunked + "\r\n"
	case 3:
		return "Trailer: T\r\nTransfer-Encoding: chunked\r\n", chunked + "T: v\r\n\r\n"
	case 4:
		return fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n", len(data)), data
	case 5:
		return "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", chunked + "\r\n"
	case 6:
		return fmt.Sprintf("Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: %d\r\n", len(data)), data
	}
	return "", ""
}

// Whatever is answered before its body has come, and in whatever pieces that comes:
// Baton handles the requests that were sent, in order, to the one that it answers with
// "Connection: close", and takes nothing of a body for one.
func FuzzEarlyAnswer(f *testing.F) {
	for kind := range byte(7) {
		for target := range byte(3) {
			f.Add([]byte{kind, target, kind + 16, target}, uint16(70+7*int(kind)), uint16(3))
		}
	}
	f.Add([]byte{2, 0, 1, 0, 3, 0}, uint16(90), uint16(1))
	e := startEarly(f)
	targets := []string{"/early", "/dead", "/none"}
	var number int
	var mu sync.Mutex
	f.Fuzz(func(t *testing.T, in []byte, first, second uint16) {
		mu.Lock()
		number++
		id := fmt.Sprint(number)
		mu.Unlock()
		var raw strings.Builder
		var sent []string
		for ; len(in) >= 2 && len(sent) < 4; in = in[2:] {
			fields, body := earlyBody(in[0])
			path := fmt.Sprintf("%s/%s/%d", targets[int(in[1])%len(targets)], id, len(sent))
			fmt.Fprintf(&raw, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s", path, fields, body)
			sent = append(sent, "POST "+path)
		}
		if len(sent) == 0 {
			return
		}
		conn, answers := e.dial(t)
		rest := raw.String()
		answered := 0
		var last *http.Response
		send := func(n int) {
			io.WriteString(conn, rest[:n])
			rest = rest[n:]
		}
		send(min(int(first), len(rest)))
		if strings.Contains(raw.String()[:len(raw.String())-len(rest)], "\r\n\r\n") { // a whole header: there may be an answer
			conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := answers.Peek(1); err == nil {
				conn.SetReadDeadline(time.Now().Add(time.Minute))
				response, err := final(answers)
				if err != nil {
					t.Fatalf("first answer: %v", err)
				}
				answered, last = 1, response
			}
			conn.SetReadDeadline(time.Now().Add(time.Minute))
		}
		send(min(int(second), len(rest)))
		send(len(rest))
		for answered < len(sent) && (last == nil || !last.Close) {
			response, err := final(answers)
			if err != nil {
				t.Fatalf("answer %d: %v", answered, err)
			}
			answered, last = answered+1, response
		}
		conn.(*net.TCPConn).CloseWrite()
		if more, err := io.ReadAll(answers); len(more) > 0 {
			t.Errorf("after the last answer: got %q, %v", more, err)
		}
		var got []string
		for _, request := range e.list() {
			if strings.Contains(request, "smuggled") {
				t.Fatalf("Baton took a body for a request: %q", request)
			}
			if strings.Contains(request, "/"+id+"/") {
				got = append(got, request)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(sent[:answered]) {
			t.Errorf("Baton got %q, and answered %d; sent were %q", got, answered, sent)
		}
		if panics := e.log.With("http: panic serving"); len(panics) > 0 {
			t.Errorf("logged: %v", panics)
		}
	})
}

func TestMalformedBodyIsTheClientsFault(t *testing.T) {
	e := startEarly(t)
	for name, body := range map[string]string{
		"size":              "zz\r\nabc\r\n0\r\n\r\n",
		"no size":           "\r\n\r\n",
		"negative size":     "-1\r\n\r\n",
		"large size":        "ffffffffffffffffff\r\n",
		"longer chunk":      "1\r\nabc\r\n0\r\n\r\n",
		"bare line feed":    "1\na\n0\n\n",
		"malformed trailer": "0\r\nno colon\r\n\r\n",
		"endless size":      strings.Repeat("0", 5000) + "\r\n",
		"endless trailer":   "0\r\nT: " + strings.Repeat("x", 5000) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, in := e.dial(t)
			io.WriteString(conn, "POST /reading HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
			response, err := final(in)
			if err != nil {
				t.Fatal(err)
			}
			testserver.Equal(t, "status", response.StatusCode, http.StatusBadRequest)
			testserver.Equal(t, "close", response.Close, true)
		})
	}
}
