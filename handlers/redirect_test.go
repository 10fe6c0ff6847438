package handlers

// This file tests the redirect to https: addresses.

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
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
