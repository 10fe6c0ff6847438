package settings

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/handlers/proxy"
	"example.com/baton/server"
)

func TestCheck(t *testing.T) {
	answers := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
		took    time.Duration
	}{
		"200":              {answers(200, "fine"), "", 0},
		"no body":          {func(http.ResponseWriter, *http.Request) {}, "", 0},
		"a redirection":    {answers(302, ""), "", 0},
		"404":              {answers(404, "404 page not found\n"), `-check /health?deep=1: got 404 Not Found: "404 page not found"`, 9 * time.Second},
		"503":              {answers(503, "\n database is down \r\nsince 12:00"), `-check /health?deep=1: got 503 Service Unavailable: "database is down"`, 9 * time.Second},
		"more than a line": {answers(500, string(make([]byte, 5000))), `-check /health?deep=1: got 500 Internal Server Error: "` + repeated(`\x00`, 200) + `"`, 9 * time.Second},
		"a panic":          {func(http.ResponseWriter, *http.Request) { panic("no such table") }, "-check /health?deep=1: its handler panicked: no such table", 9 * time.Second},
		"no answer":        {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "-check /health?deep=1: got no answer", 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				s := Settings{Checks: []string{"/health?deep=1"}}
				begun := time.Now()
				err := s.Check(ctx, test.handler)
				if got := message(err); got != test.want {
					t.Errorf("got  %s\nwant %s", got, test.want)
				}
				if took := time.Since(begun); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
			})
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func repeated(s string, n int) (all string) {
	for range n {
		all += s
	}
	return all
}

// A path is requested again until its answer is good, and then the next one.
func TestCheckTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Settings{Checks: []string{"/a", "/b"}}
		s.TLS.RedirectHTTPS = true
		var asked []string
		err := s.Check(t.Context(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path)
			if r.TLS == nil || r.Host != "localhost" || r.URL.Host != "" {
				t.Errorf("got TLS %v, host %q and URL %v", r.TLS, r.Host, r.URL)
			}
			if len(asked) < 3 {
				w.WriteHeader(http.StatusBadGateway)
			}
		}))
		if err != nil || len(asked) != 4 || asked[3] != "/b" {
			t.Errorf("got %v after requests of %v", err, asked)
		}
	})
}

// The proxy serves such a request as any other.
func TestCheckThroughTheProxy(t *testing.T) {
	var asked atomic.Int64
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			http.Error(w, "warming up", http.StatusServiceUnavailable)
		}
	}))
	defer backend.Close()
	rule, err := proxy.ParseRule("/=" + backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := Settings{Checks: []string{"/"}, Proxy: proxy.Options{Rules: []proxy.Rule{rule}, OnDrain: server.OnDrain}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Check(ctx, proxy.New(s.Proxy)); err != nil || asked.Load() != 2 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
}
