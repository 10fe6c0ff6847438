package middleware

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/baton/handlers/forwarded"
	"example.com/baton/handlers/internal/testserver"
)

// The scheme and host that a trusted proxy reports count, those of others do not.
func TestRedirectHTTPSBehindProxy(t *testing.T) {
	tcp, unix := &net.TCPAddr{Port: 8080}, &net.UnixAddr{Net: "unix"}
	for name, test := range map[string]struct {
		peer     string
		local    net.Addr
		tls      bool
		header   http.Header
		location string // empty: served
	}{
		"https":                      {"10.0.0.1:1", tcp, false, http.Header{"X-Forwarded-Proto": {"https"}}, ""},
		"http":                       {"10.0.0.1:1", tcp, false, http.Header{"X-Forwarded-Proto": {"http"}}, "https://a.example/x"},
		"http, over TLS":             {"10.0.0.1:1", tcp, true, http.Header{"X-Forwarded-Proto": {"http"}}, "https://a.example/x"},
		"http, another host":         {"10.0.0.1:1", tcp, false, http.Header{"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"b.example"}}, "https://b.example/x"},
		"the client claims https":    {"10.0.0.1:1", tcp, false, http.Header{"X-Forwarded-Proto": {"https, http"}}, "https://a.example/x"},
		"no scheme":                  {"10.0.0.1:1", tcp, false, http.Header{"X-Forwarded-Host": {"b.example"}}, "https://a.example:8443/x"},
		"https, from somebody":       {"192.0.2.1:1", tcp, false, http.Header{"X-Forwarded-Proto": {"https"}}, "https://a.example:8443/x"},
		"http, from somebody":        {"192.0.2.1:1", tcp, true, http.Header{"X-Forwarded-Proto": {"http"}}, ""},
		"a unix socket":              {"@", unix, false, nil, ""},
		"http, through unix sockets": {"@", unix, false, http.Header{"X-Forwarded-Proto": {"http"}}, "https://a.example/x"},
	} {
		var trusted forwarded.Trusted
		trusted.Add("10.0.0.0/8")
		trusted.Add("unix:")
		r := httptest.NewRequest("GET", "/x", nil)
		r.Host, r.RemoteAddr, r.TLS = "a.example:8080", test.peer, nil
		for name, values := range test.header {
			r.Header[name] = values
		}
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		w := httptest.NewRecorder()
		trusted.Handler(RedirectHTTPS(8443, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))).ServeHTTP(w,
			r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, test.local)))
		testserver.Equal(t, name, w.Header().Get("Location"), test.location)
	}
}

// The access log has the client, and the proxy between.
func TestLogBehindProxy(t *testing.T) {
	for list, want := range map[string]string{"127.0.0.9, 203.0.113.7": "203.0.113.7", "garbage\" status=200": "127.0.0.1", "": "127.0.0.1"} {
		var trusted forwarded.Trusted
		trusted.Add("127.0.0.0/8")
		logged, logger := testserver.Capture()
		server := testserver.Serve(t, trusted.Handler(Log(http.NotFoundHandler(), logger)))
		testserver.Do(t, server, "GET", "/", "X-Forwarded-For", list)
		got := logged.Await(t, "request")
		testserver.Equal(t, list, got["remote"], any(want))
		via, _ := got["via"].(string)
		host, _, _ := net.SplitHostPort(via)
		testserver.Equal(t, "via", host, "127.0.0.1")
	}
}
