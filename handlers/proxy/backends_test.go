package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

func TestBackends(t *testing.T) {
	hold := make(chan struct{})
	app := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			<-hold
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	gone := "unix:" + filepath.Join(t.TempDir(), "gone")
	p := start(t, Options{Rules: rules(t, "/a/="+app.URL+"/x/", "/="+app.URL, "/="+gone), Logger: testserver.Discard()})
	server := testserver.Serve(t, p)
	for range 4 {
		response, _ := testserver.Do(t, server, "GET", "/")
		testserver.Equal(t, "status", response.StatusCode, http.StatusTeapot)
	}
	held := make(chan struct{})
	go func() {
		defer close(held)
		testserver.Try(t, server, "GET", "/hold")
	}()
	await(t, "a request in progress", func() bool { return p.Backends()[0].InProgress == 1 })
	got := fmt.Sprint(p.Backends())
	want := fmt.Sprint([]Backend{
		{Name: app.URL, Prefixes: []string{"/a/", "/"}, State: "up", InProgress: 1, Requests: map[int]uint64{418: 4}},
		{Name: gone, Prefixes: []string{"/"}, State: "down", Requests: map[int]uint64{}, Errors: 1},
	})
	testserver.Equal(t, "backends", got, want)
	close(hold)
	<-held
	await(t, "none in progress", func() bool { return p.Backends()[0].InProgress == 0 })
}

// An upgraded connection is in progress until it ends.
func TestBackendsOfTunnels(t *testing.T) {
	app := testserver.Serve(t, echo(make(chan error, 2)))
	p := start(t, Options{Rules: rules(t, "/="+app.URL), Logger: testserver.Discard()})
	address, _ := serve(t, p)
	var conns []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %v, %v", response, err)
		}
		conns = append(conns, conn)
	}
	testserver.Equal(t, "in progress", p.Backends()[0].InProgress, 2)
	testserver.Equal(t, "answered 101", p.Backends()[0].Requests[101], 2)
	conns[0].Close()
	await(t, "one in progress", func() bool { return p.Backends()[0].InProgress == 1 })
	conns[1].Close()
	await(t, "none in progress", func() bool { return p.Backends()[0].InProgress == 0 })
}

// A unix socket is a target like any other. The path of requests stays, and so does their Host.
func TestUnixTarget(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a b%20c.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	app := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.RequestURI)
	})}
	go app.Serve(listener)
	t.Cleanup(func() { app.Close() })
	proxied := start(t, Options{Rules: rules(t, "/app/=unix:"+socket), Logger: testserver.Discard()})
	server := testserver.Serve(t, proxied)
	_, body := testserver.Do(t, server, "GET", "/app/x%2Fy?q")
	testserver.Equal(t, "what the application sees", body, "GET "+strings.TrimPrefix(server.URL, "http://")+" /app/x%2Fy?q")
	got := testserver.Exchange(t, strings.TrimPrefix(server.URL, "http://"), "GET /app/ HTTP/1.0\r\n\r\n")
	testserver.Equal(t, "without a Host", strings.HasSuffix(got, "GET localhost /app/"), true)
	response, _ := testserver.Do(t, server, "GET", "/app/../x")
	testserver.Equal(t, "path that leads elsewhere", response.StatusCode, http.StatusBadRequest)
}

func TestParseUnixRule(t *testing.T) {
	for _, test := range []struct{ rule, problem string }{
		{"/=unix:/run/app.sock", ""},
		{"/=unix:/run/a?b#c%2e", ""},
		{"/=unix:", "no absolute path"},
		{"/=unix:app.sock", "no absolute path"},
		{"/=unix:@abstract", "no absolute path"},
		{"/=unix:/" + strings.Repeat("x", 106), ""},
		{"/=unix:/" + strings.Repeat("x", 107), "more than 107 bytes"},
		{"/=unix:/a\x00b", "zero byte"},
	} {
		rule, err := ParseRule(test.rule)
		if test.problem != "" {
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("%q: got %v, want an error with %q", test.rule, err, test.problem)
			}
			continue
		}
		network, address := rule.Address()
		if err != nil || "/="+rule.Name() != test.rule || network != "unix" || "/=unix:"+address != test.rule {
			t.Errorf("%q: got %v, %s %s, %v", test.rule, rule.Name(), network, address, err)
		}
	}
}

func TestCheckRules(t *testing.T) {
	for _, test := range []struct{ rules, problem string }{
		{"", ""},
		{"/=http://a /=http://b /=https://a /=unix:/a", ""},
		{"/=http://a/x /=http://b/x /y/=http://a/z", ""},
		{"/=http://a /=http://b /=http://a", "backend http://a twice"},
		{"/=unix:/a /=unix:/a", "backend unix:/a twice"},
		{"/=http://a/x /=http://b", "different paths"},
		{"/=http://a/x /=http://b/x/", "different paths"},
		{"/b/=http://a/x /b/=unix:/x", "different paths"},
	} {
		err := CheckRules(rules(t, strings.Fields(test.rules)...))
		if test.problem == "" && err != nil || test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
			t.Errorf("%s: got %v, want %q", test.rules, err, test.problem)
		}
	}
}

func TestRuleAddress(t *testing.T) {
	for target, want := range map[string]string{
		"http://app": "tcp app:80", "https://app/x": "tcp app:443", "http://[::1]:3000": "tcp [::1]:3000", "http://[::1]": "tcp [::1]:80",
		"http://b\u00fccher.example": "tcp xn--bcher-kva.example:80", "unix:/a": "unix /a",
	} {
		u := &url.URL{Scheme: "unix", Path: "/a"}
		if target != "unix:/a" {
			u, _ = url.Parse(target)
		}
		network, address := Rule{Target: u}.Address()
		testserver.Equal(t, target, network+" "+address, want)
	}
}

// A backend that is out of order for its health path gets nothing, and one that is not has all.
func TestHealthPath(t *testing.T) {
	t.Parallel()
	sick := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, "sick")
	}))
	well := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "well") }))
	logged, logger := testserver.Capture()
	p := start(t, Options{Rules: rules(t, "/="+sick.URL, "/="+well.URL), HealthPath: "/healthz", Wait: time.Minute, Logger: logger})
	server := testserver.Serve(t, p)
	line := logged.Await(t, "backend gets no new requests")
	testserver.Equal(t, "state", line["state"], any("sick"))
	testserver.Equal(t, "backend", line["backend"], any(sick.URL))
	for range 10 {
		_, body := testserver.Do(t, server, "GET", "/")
		testserver.Equal(t, "body", body, "well")
	}
}

// A tunnel to a unix socket migrates with it.
func TestUnixTunnelMigrates(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "app.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		}
		accepted <- conn
	}()
	l := &line{t: t, target: "unix:" + socket}
	l.serving, l.listener = l.generation(func(options Options) http.Handler { return start(t, options) })
	client, err := net.Dial("tcp", l.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if response, err := http.ReadResponse(bufio.NewReader(client), nil); err != nil || response.StatusCode != 101 {
		t.Fatalf("got %v, %v", response, err)
	}
	backend := <-accepted
	defer backend.Close()
	for _, c := range []net.Conn{client, backend} {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	for range 3 {
		expectMigrated(t, l)
		io.WriteString(client, "ping")
		expect(t, "at the backend", backend, []byte("ping"))
		io.WriteString(backend, "pong")
		expect(t, "at the client", client, []byte("pong"))
	}
	client.Close()
	expectEnd(t, "at the backend", backend)
	backend.Close()
	l.stop(time.Minute)
}

// A backend that stops gracefully, and says so, gets no more than one request that it does not want.
func TestBackendThatLeaves(t *testing.T) {
	var leaving, refusals atomic.Int64
	a := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leaving.Load() > 0 {
			refusals.Add(1)
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	b := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	p := start(t, Options{Rules: rules(t, "/="+a.URL, "/="+b.URL), Wait: time.Minute, Logger: testserver.Discard()})
	server := testserver.Serve(t, p)
	for i := range 50 {
		if i == 10 {
			leaving.Store(1)
		}
		testserver.Do(t, server, "GET", "/")
	}
	testserver.Equal(t, "refusals", refusals.Load(), 1)
	testserver.Equal(t, "state", p.Backends()[0].State, "leaving")
}
