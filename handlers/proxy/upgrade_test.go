package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"github.com/coder/websocket"
)

// What is wrong with Upgrade is wrong with the request, not with the backend.
func TestProxyMalformedUpgrade(t *testing.T) {
	server, logged, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "answered") }), Options{})
	for _, test := range []struct {
		upgrade, want string // status
	}{
		{"\u00e9", "400"}, {"web\tsocket", "400"}, {"web socket", "400"}, {"h2c;q=1", "400"}, {"websocket/", "400"}, {"/1", "400"}, {"a/b/c", "400"},
		{`"websocket"`, "400"}, {"a, (b)", "400"}, {"a\r\nUpgrade: b c", "400"}, {"\x80", "400"},
		{"", "200"}, {",", "200"}, {"a/1.0 , b,", "200"}, {"a\r\nUpgrade: b", "200"},
	} {
		got := testserver.Exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, upgrade\r\nUpgrade: "+test.upgrade+"\r\n\r\n")
		testserver.Equal(t, fmt.Sprintf("status for %q", test.upgrade), strings.Fields(got)[1], test.want)
		for _, ignored := range []string{"GET / HTTP/1.0\r\nConnection: upgrade\r\n", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"} {
			got = testserver.Exchange(t, server.Listener.Addr().String(), ignored+"Upgrade: "+test.upgrade+"\r\n\r\n")
			testserver.Equal(t, fmt.Sprintf("status for %q where it is ignored", test.upgrade), strings.Fields(got)[1], "200")
		}
	}
	testserver.Equal(t, "backend failures", len(logged.With("backend failed")), 0)
}

func TestProxyWebSocket(t *testing.T) {
	server, logged, m := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil) // checks Origin against Host
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil || conn.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	}), Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, server.URL+"/chat", &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {server.URL}, "X-Request-Id": {"id-1"}}})
	if err != nil {
		t.Fatal(err)
	}
	testserver.Equal(t, "status", response.StatusCode, 101)
	testserver.Equal(t, "X-Request-Id", strings.Join(response.Header["X-Request-Id"], "; "), "id-1")
	for _, message := range []string{"one", "two"} {
		if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		_, got, err := conn.Read(ctx)
		testserver.Equal(t, "read", err, nil)
		testserver.Equal(t, "echo", string(got), message)
	}
	testserver.Equal(t, "lines before its end", len(logged.With("request")), 0)
	testserver.Equal(t, "close", conn.Close(websocket.StatusNormalClosure, ""), nil)
	testserver.Equal(t, "status logged", logged.Await(t, "request")["status"], any(101.0))
	_, scraped := testserver.Do(t, testserver.Serve(t, m.Handler()), "GET", "/metrics")
	testserver.Equal(t, "counted", strings.Contains(scraped, `requests_total{code="101",method="GET"} 1`), true)
}

func TestProxyOtherUpgrade(t *testing.T) {
	for asked, chosen := range map[string]string{"tunnel": "tunnel", "a/1, Tunnel": "tunnel"} {
		t.Run(asked, func(t *testing.T) { otherUpgrade(t, asked, chosen) })
	}
}

func otherUpgrade(t *testing.T, asked, chosen string) {
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buf, _ := http.NewResponseController(w).Hijack()
		defer conn.Close()
		testserver.Equal(t, "Upgrade at the backend", r.Header.Get("Upgrade"), asked)
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+chosen+"\r\n\r\n")
		line, _ := buf.ReadString('\n')
		io.WriteString(conn, "got "+line)
	}), Options{})
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: "+asked+"\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	testserver.Equal(t, "status", response.StatusCode, 101)
	testserver.Equal(t, "Upgrade", response.Header.Get("Upgrade"), chosen)
	io.WriteString(conn, "hello\n")
	rest, _ := io.ReadAll(reader) // until the backend closes
	testserver.Equal(t, "through the tunnel", string(rest), "got hello\n")
}

// A request that asks for HTTP/2 or TLS on the connection to the backend is one as any other.
func TestProxyKeepsProtocol(t *testing.T) {
	for _, test := range []struct {
		name, header string
		want         string // Upgrade, as the backend sees it
	}{
		{"h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", ""},
		{"h2c, settings not named", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", ""},
		{"settings alone", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", ""},
		{"upper case", "Connection: upgrade\r\nUpgrade: H2C\r\n", ""},
		{"with a version", "Connection: upgrade\r\nUpgrade: h2c/2\r\n", ""},
		{"TLS", "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n", ""},
		{"both", "Connection: upgrade\r\nUpgrade: TLS/1.3 , h2c\r\n", ""},
		{"one of many", "Connection: Upgrade\r\nUpgrade: websocket, h2c, other/1\r\n", ""},
		{"first of two", "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", ""},
		{"none of them", "Connection: Upgrade\r\nUpgrade: h2cx, tlsx/1\r\n", "h2cx, tlsx/1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := make(chan http.Header, 2)
			server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen <- r.Header
				io.WriteString(w, "answered")
			}), Options{})
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			reader := bufio.NewReader(conn)
			for _, header := range []string{test.header, ""} { // the connection is kept
				io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"+header+"\r\nhi")
				response, err := http.ReadResponse(reader, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(response.Body)
				testserver.Equal(t, "status and body", fmt.Sprint(response.StatusCode, string(body)), "200answered")
			}
			got := <-seen
			testserver.Equal(t, "Upgrade", strings.Join(got.Values("Upgrade"), "; "), test.want)
			testserver.Equal(t, "Connection", strings.Join(got.Values("Connection"), "; "), map[bool]string{true: "Upgrade"}[test.want != ""])
			testserver.Equal(t, "HTTP2-Settings", strings.Join(got.Values("HTTP2-Settings"), "; "), "")
		})
	}
}

// If a backend switches to a protocol that nobody has asked for, the client gets 502, and the backend's connection is closed.
func TestTunnelThatNobodyAskedFor(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\n"
	for name, tt := range map[string]struct{ asked, answer string }{
		"at all":                  {"", switching + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		"at all, nor named":       {"", switching + "\r\n"},
		"at all, for events":      {"", switching + "Content-Type: text/event-stream\r\n\r\n"},
		"and another was":         {"Connection: Upgrade\r\nUpgrade: tunnel\r\n", switching + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		"and one was, not named":  {"Connection: Upgrade\r\nUpgrade: tunnel\r\n", switching + "\r\n"},
		"without Connection":      {"Upgrade: tunnel\r\n", switching + "Connection: Upgrade\r\nUpgrade: tunnel\r\n\r\n"},
		"but HTTP/2":              {"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n", switching + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"},
		"but HTTP/2 or something": {"Connection: Upgrade\r\nUpgrade: tunnel, H2C\r\n", switching + "Connection: Upgrade\r\nUpgrade: tunnel, H2C\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			server, logged, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, _ := http.NewResponseController(w).Hijack()
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(time.Minute))
				io.WriteString(conn, tt.answer)
				_, err := conn.Read(make([]byte, 1))
				ended <- err
			}), Options{OnDrain: new(drain).onDrain})
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", tt.asked)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			testserver.Equal(t, "status", response.StatusCode, http.StatusBadGateway)
			if err := <-ended; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("backend's connection: got %v, want its end", err)
			}
			testserver.Equal(t, "backend failures", len(logged.With("backend failed")), 1)
		})
	}
}

// HTTP/1.0 has no upgrades (RFC 9110, 7.8).
func TestProxyPassesNoUpgradeOfHTTP10(t *testing.T) {
	seen := make(chan http.Header, 1)
	server, _, _ := through(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }), Options{})
	for _, tt := range []struct{ line, protocol, want string }{
		{"GET / HTTP/1.1", "tunnel", "tunnel"},
		{"GET / HTTP/1.0", "websocket", ""},
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", tt.line, tt.protocol)
		got := <-seen
		testserver.Equal(t, "Upgrade of "+tt.line+" to "+tt.protocol, got.Get("Upgrade"), tt.want)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != 200 {
			t.Errorf("%s: got %v, %v, want 200", tt.line, response, err)
		}
		conn.Close()
	}
}
