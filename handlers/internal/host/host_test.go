package host

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

// A name that somebody else can point at this address gets nothing to read.
func TestKnown(t *testing.T) {
	const ok, refused, invalid = http.StatusOK, http.StatusMisdirectedRequest, http.StatusBadRequest
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	handler := Known("Admin.Example.com", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(ok) }))
	loopback, other := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	for host, want := range map[string]struct {
		scraped, seen int // from another machine: /metrics and probes, the rest
		local         int // at a loopback address, but probes
	}{
		"127.0.0.1":                         {ok, ok, ok},
		"127.0.0.1:9180":                    {ok, ok, ok},
		"192.0.2.1:9180":                    {ok, ok, ok},
		"[::1]:9180":                        {ok, ok, ok},
		"[2001:db8::1]":                     {ok, ok, ok},
		"localhost":                         {ok, ok, ok},
		"LocalHost:9180":                    {ok, ok, ok},
		"localhost.":                        {ok, ok, ok},
		"a.localhost":                       {ok, ok, ok},
		"baton:9180":                        {ok, ok, ok},
		machine + ":9180":                   {ok, ok, ok},
		"admin.example.com":                 {ok, ok, ok},
		"ADMIN.example.com.:80":             {ok, ok, ok},
		"":                                  {ok, ok, ok}, // HTTP/1.0
		"evil.example":                      {ok, refused, refused},
		"evil.example:9180":                 {ok, refused, refused},
		"evil.example.":                     {ok, refused, refused},
		"localhost.evil.example":            {ok, refused, refused},
		"evillocalhost.example":             {ok, refused, refused},
		"127.0.0.1.evil.example":            {ok, refused, refused},
		"127.0.0.1.":                        {ok, ok, ok},
		machine + ".evil.example":           {ok, refused, refused},
		"admin.example.com.evil.example":    {ok, refused, refused},
		"127.0.0.1@evil.example":            {invalid, invalid, invalid},
		"evil.example/127.0.0.1":            {invalid, invalid, invalid},
		"evil.example#.localhost":           {invalid, invalid, invalid},
		"[::1].evil.example":                {invalid, invalid, invalid},
		"[::ffff:127.0.0.1%25.evil.exampl]": {invalid, invalid, invalid},
	} {
		get := func(path string, local net.Addr) int {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = host
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local)))
			if w.Code == refused && !strings.Contains(w.Body.String(), "-admin NAME:PORT") {
				t.Errorf("%q: got %s, want what to do", host, w.Body)
			}
			return w.Code
		}
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			testserver.Equal(t, path+" of "+host, get(path, other), want.scraped)
			if path == "/metrics" {
				want.scraped = want.local
			}
			testserver.Equal(t, path+" of "+host+" at loopback", get(path, loopback), want.scraped)
		}
		for _, path := range []string{"/", "/status", "/events"} {
			testserver.Equal(t, path+" of "+host, get(path, other), want.seen)
			testserver.Equal(t, path+" of "+host+" at loopback", get(path, loopback), want.local)
			testserver.Equal(t, path+" of "+host+" at a unix socket", get(path, &net.UnixAddr{Name: "x"}), ok)
		}
	}
}
