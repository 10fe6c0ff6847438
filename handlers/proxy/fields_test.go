package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

func TestProxyRequestFields(t *testing.T) {
	seen := make(chan *http.Request, 1)
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header()["Connection"] = []string{"X-Request-Id, X-Hop"}
		w.Header().Set("X-Request-Id", "theirs")
		w.Header().Set("X-Hop", "1")
	}), Options{})
	got := testserver.Exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: app.example\r\nX-Request-Id: id-1\r\n"+
		"Connection: close, X-Request-Id, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Host, X-Hop\r\nX-Hop: 1\r\n"+
		"X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX.Forwarded.For: 6.6.6.6\r\nx_request_id: 6\r\n_: 6\r\nContent_Length: 6\r\nTransfer_Encoding: 6\r\n"+
		"X!Forwarded|For: 6.6.6.6\r\nProxy: 6.6.6.6\r\nX-Kept-1: kept\r\n\r\n")
	request := <-seen
	testserver.Equal(t, "Host", request.Host, "app.example")
	for name, want := range map[string]string{"X-Request-Id": "id-1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "app.example", "X-Forwarded-Proto": "http",
		"X-Kept-1": "kept", "X-Hop": "", "Proxy": ""} {
		testserver.Equal(t, name, strings.Join(request.Header[name], "; "), want)
	}
	for name, values := range request.Header {
		if !isPlain(name) || slices.Contains(values, "6.6.6.6") {
			t.Errorf("backend got %s: %s", name, values)
		}
	}
	testserver.Equal(t, "X-Request-Id of the response", strings.Contains(got, "\r\nX-Request-Id: id-1\r\n") && strings.Count(got, "X-Request-Id") == 1, true)
	testserver.Equal(t, "X-Hop of the response", strings.Contains(got, "X-Hop"), false)
}

// The request id is that of the access log also where the proxy answers itself.
func TestProxyRequestIDOfErrors(t *testing.T) {
	server, _, _ := inFront(t, Options{Rules: rules(t, "/=http://"+refused(t))})
	got := testserver.Exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: id-1\r\nConnection: close, X-Request-Id\r\n\r\n")
	testserver.Equal(t, "status", strings.HasPrefix(got, "HTTP/1.1 503 "), true)
	testserver.Equal(t, "header has the id", strings.Contains(got, "\r\nX-Request-Id: id-1\r\n"), true)
	testserver.Equal(t, "body has the id", strings.Contains(got, `"request_id":"id-1"`), true)
}

var forgedTrailers = []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "Forwarded", "Host", "Content-Type",
	"Connection", "Authorization", "Cookie", "Set-Cookie", "X-Request-Id", "X_Forwarded_For", "If-Match", "Upgrade", "Proxy", "Expect", "Content-Length", "Transfer-Encoding", "Trailer"}

func TestProxyRequestTrailers(t *testing.T) {
	trailers := make(chan http.Header, 1)
	server, _, _ := through(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		trailers <- r.Trailer
	}), Options{})
	for _, declared := range []string{"X-Sum", "X-Sum, X-Forwarded-For, Host, X_Forwarded_For, Cookie", ""} {
		fields := "X-Sum: 42\r\nX-Undeclared: 6\r\n"
		for _, name := range forgedTrailers {
			fields += name + ": 6\r\n"
		}
		trailer := ""
		if declared != "" {
			trailer = "Trailer: " + declared + "\r\n"
		}
		testserver.Exchange(t, server.Listener.Addr().String(), "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"+trailer+
			"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n"+fields+"\r\n")
		want := map[bool]string{true: "map[X-Sum:[42]]", false: "map[]"}[declared != ""]
		testserver.Equal(t, "trailers with Trailer: "+declared, fmt.Sprint(<-trailers), want)
	}
}

func TestProxyResponseTrailers(t *testing.T) {
	for _, declared := range []string{"X-Sum", "X-Sum, Set-Cookie, X-Request-Id", ""} {
		fields := "X-Sum: 42\r\n"
		for _, name := range forgedTrailers {
			fields += name + ": 6\r\n"
		}
		trailer := ""
		if declared != "" {
			trailer = "Trailer: " + declared + "\r\n"
		}
		backend := testserver.Says("HTTP/1.1 200 OK\r\n" + trailer + "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n" + fields + "\r\n")
		server, _, _ := through(t, backend, Options{})
		response, body := testserver.Do(t, server, "GET", "/")
		testserver.Equal(t, "body", body, "body")
		testserver.Equal(t, "trailers with Trailer: "+declared, fmt.Sprint(response.Trailer), "map[X-Sum:[42]]")
		testserver.Equal(t, "X-Request-Id fields", len(response.Header["X-Request-Id"]), 1)
		testserver.Equal(t, "Set-Cookie fields", len(response.Header["Set-Cookie"]), 0)

		url, client, _ := throughHTTP2(t, backend)
		response = send(t, client, t.Context(), "GET", url, nil)
		_, err := io.ReadAll(response.Body)
		testserver.Equal(t, "end", errors.Is(err, nil), true)
		testserver.Equal(t, "trailers over HTTP/2 with Trailer: "+declared, fmt.Sprint(response.Trailer), "map[X-Sum:[42]]")
	}
}

func TestProxySwitchingProtocolsFields(t *testing.T) {
	server, _, _ := through(t, testserver.Says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Hop, X-Request-Id\r\nUpgrade: x\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"+
		"X-Request-Id: theirs\r\nX-Kept: kept\r\n\r\nhello"), Options{})
	got := testserver.Exchange(t, server.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: id-1\r\nConnection: Upgrade, X-Request-Id\r\nUpgrade: x\r\n\r\n")
	want := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nX-Kept: kept\r\nX-Request-Id: id-1\r\n\r\nhello"
	testserver.Equal(t, "response", got, want)
}

func TestProxyHeaders(t *testing.T) {
	seen := make(chan *http.Request, 1)
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("X-Request-Id", "the backend's")
	}), Options{})
	response, _ := testserver.Do(t, server, "GET", "/", "Host", "app.example", "X-Request-Id", "id-1", "X-Forwarded-For", "6.6.6.6",
		"X-Forwarded-Host", "evil", "X-Forwarded-Proto", "https", "Forwarded", "for=6.6.6.6", "Accept-Encoding", "br")
	got := <-seen
	testserver.Equal(t, "Host", got.Host, "app.example")
	for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "app.example",
		"X-Forwarded-Proto": "http", "Forwarded": "", "X-Request-Id": "id-1", "Accept-Encoding": "br"} {
		testserver.Equal(t, name, strings.Join(got.Header[name], "; "), want)
	}
	testserver.Do(t, server, "GET", "/")
	testserver.Equal(t, "Accept-Encoding where the client sends none", strings.Join((<-seen).Header["Accept-Encoding"], "; "), "")
	testserver.Equal(t, "X-Request-Id of the response", strings.Join(response.Header["X-Request-Id"], "; "), "id-1")
}

func TestProxyServerHeader(t *testing.T) {
	for name, want := range map[string]string{"app/1": "app/1", "": ""} {
		server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if name != "" {
				w.Header().Set("Server", name)
			}
		}), Options{})
		response, _ := testserver.Do(t, server, "GET", "/")
		testserver.Equal(t, "Server", strings.Join(response.Header["Server"], "; "), want)
	}
}
