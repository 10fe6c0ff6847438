package middleware

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRedirectHTTPS(t *testing.T) {
	tcp, unix := &net.TCPAddr{Port: 8080}, &net.UnixAddr{Name: "x"}
	for name, test := range map[string]struct {
		method, target, host string
		local                net.Addr
		tls                  bool
		port                 int
		status               int
		location             string
	}{
		"plain":            {"GET", "/a/b%2Fc?q=%20", "example.com:8080", tcp, false, 8443, 308, "https://example.com:8443/a/b%2Fc?q=%20"},
		"usual port":       {"POST", "/", "example.com:8080", tcp, false, 443, 308, "https://example.com/"},
		"no port":          {"GET", "/", "example.com", tcp, false, 443, 308, "https://example.com/"},
		"IPv6":             {"GET", "/", "[::1]:8080", tcp, false, 443, 308, "https://[::1]/"},
		"IPv6, other port": {"GET", "/", "[::1]", tcp, false, 8443, 308, "https://[::1]:8443/"},
		"two slashes":      {"GET", "//evil.example/", "example.com", tcp, false, 443, 308, "https://example.com//evil.example/"},
		"absolute":         {"GET", "http://example.com/x", "example.com", tcp, false, 443, 308, "https://example.com/x"},
		"no host":          {"GET", "/", "", tcp, false, 443, 400, ""},
		"backslash":        {"GET", `/\evil.example`, "example.com", tcp, false, 443, 308, "https://example.com/%5Cevil.example"},
		"backslash later":  {"GET", `/?a\b`, "example.com", tcp, false, 443, 308, `https://example.com/?a\b`},
		"fragment":         {"GET", "/a?b#c", "example.com", tcp, false, 443, 400, ""},
		"no path":          {"GET", "mailto:a", "example.com", tcp, false, 443, 400, ""},
		"TLS":              {"GET", "/", "example.com", tcp, true, 443, 200, ""},
		"unix":             {"GET", "/", "example.com", unix, false, 443, 200, ""},
	} {
		r := httptest.NewRequest(test.method, test.target, nil)
		r.Host, r.TLS = test.host, nil
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, test.local))
		w := httptest.NewRecorder()
		RedirectHTTPS(test.port, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		if got := w.Header().Get("Location"); w.Code != test.status || got != test.location {
			t.Errorf("%s: got %d to %q, want %d to %q", name, w.Code, got, test.status, test.location)
		}
	}
}

// Whatever a client sends as its host, it is led to that host or nowhere.
func TestRedirectHTTPSHosts(t *testing.T) {
	for host, want := range map[string]string{
		"example.com":             "example.com",
		"EXAMPLE.com":             "EXAMPLE.com",
		"example.com.":            "example.com.",
		"example.com:1":           "example.com",
		"example.com:65535":       "example.com",
		"my_host-1":               "my_host-1",
		"xn--bcher-kva.example":   "xn--bcher-kva.example",
		"192.0.2.1:80":            "192.0.2.1",
		"[2001:db8::1]":           "[2001:db8::1]",
		"[2001:db8::1]:80":        "[2001:db8::1]",
		"":                        "",
		".":                       "",
		"..":                      "",
		".example.com":            "",
		"a..b":                    "",
		":80":                     "",
		"example.com:":            "",
		"example.com:0":           "",
		"example.com:65536":       "",
		"example.com:+1":          "",
		"example.com:80:81":       "",
		"example.com:http":        "",
		"example.com:80/x":        "",
		"example.com:80@evil.net": "",
		"example.com/":            "",
		"evil.net/.example.com":   "",
		"evil.net?.example.com":   "",
		"evil.net#.example.com":   "",
		"evil.net .example.com":   "",
		`evil.net\.example.com`:   "",
		"evil.net%2f.example.com": "",
		"example.com@evil.net":    "",
		"a:b@evil.net":            "",
		"evil.net\t":              "",
		"evil.net\r\nX: y":        "",
		"evil.net\x00":            "",
		"b\u00fccher.example":     "",
		"evil.net,example.com":    "",
		"evil.net;example.com":    "",
		"<b>":                     "",
		`"x"`:                     "",
		"2001:db8::1":             "",
		"[2001:db8::1":            "",
		"2001:db8::1]":            "",
		"[2001:db8::1]x":          "",
		"[2001:db8::1]:x":         "",
		"[fe80::1%25eth0]":        "",
		"[fe80::1%eth0]":          "",
		"[192.0.2.1]":             "",
		"[]":                      "",
		"[evil.net]":              "",
		"[::1]@evil.net":          "",
		strings.Repeat("a", 300):  "",
	} {
		r := httptest.NewRequest("GET", "/x?y", nil)
		r.Host = host
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{Port: 8080}))
		w := httptest.NewRecorder()
		RedirectHTTPS(443, http.NotFoundHandler()).ServeHTTP(w, r)
		status, location := 308, "https://"+want+"/x?y"
		if want == "" {
			status, location = 400, ""
		}
		if got := w.Header().Get("Location"); w.Code != status || got != location {
			t.Errorf("%q: got %d to %q, want %d to %q", host, w.Code, got, status, location)
		}
	}
}
