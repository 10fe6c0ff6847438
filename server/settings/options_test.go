package settings_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/files"
	"example.com/baton/handlers/page"
	"example.com/baton/handlers/proxy"
	"example.com/baton/server/settings"
)

// A 0 that somebody asks for is not the default of the packages that get it.
func TestOptionsOfZero(t *testing.T) {
	s, err := settings.Read(settings.Input{Args: []string{"-idle-grace", "0", "-max-draining", "0", "-drain-timeout", "4s", "-shutdown-delay", "2s"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Connections; got.IdleGrace >= 0 || got.DisableMigration {
		t.Errorf("got %+v, want no grace, and migration", got)
	}
	if got := s.Lifecycle; got.MaxDraining >= 0 || got.DrainTimeout != 4*time.Second {
		t.Errorf("got %+v, want no predecessor that drains, and 4 seconds to drain", got)
	}
	if got, want := s.StopTime(), 26*time.Second; got != want {
		t.Errorf("a stop: got %v, want %v", got, want)
	}
}

func TestHandler(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a"), []byte("file"), 0o644); err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("application")) }))
	defer backend.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	rule, err := proxy.ParseRule("/app=" + backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	directory, applications := files.Options{Root: root}, proxy.Options{Rules: []proxy.Rule{rule}, HeaderTimeout: time.Minute, MaxBody: 1}
	secured := settings.Addresses{{Address: "unix:/x", TLS: true}, {Address: "127.0.0.1:0", TLS: true}}
	for _, tt := range []struct {
		name string
		settings.Settings
		path, want string
	}{
		{"a page about itself", settings.Settings{}, "/", "200 <!DOCTYPE html>"},
		{"files", settings.Settings{Files: directory}, "/a", "200 file"},
		{"no application among files", settings.Settings{Files: directory}, "/app", "404 "},
		{"an application", settings.Settings{Proxy: applications}, "/app", "200 application"},
		{"an application beside files", settings.Settings{Proxy: applications, Files: directory}, "/app", "200 application"},
		{"files beside an application", settings.Settings{Proxy: applications, Files: directory}, "/a", "200 file"},
		{"no file beside an application", settings.Settings{Proxy: applications}, "/a", "404 "},
		{"redirected", settings.Settings{Listen: secured, TLS: settings.TLS{RedirectHTTPS: true}}, "/a", "308 https://x:" + port(ln)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			handler, proxied, err := tt.Handler(page.Options{}, []net.Listener{nil, ln}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer proxied.Close()
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "http://x"+tt.path, nil)
			handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, ln.Addr())))
			body := w.Body.String()
			if location := w.Header().Get("Location"); location != "" {
				body = location
			}
			if got := w.Result().Status[:4] + strings.TrimSpace(body); !strings.HasPrefix(strings.ToLower(got), strings.ToLower(tt.want)) {
				t.Errorf("got %.60s, want %s", got, tt.want)
			}
		})
	}
	if _, _, err := (settings.Settings{Files: files.Options{Root: "/nosuch"}}).Handler(page.Options{}, nil, nil); err == nil {
		t.Error("got no error for a directory that is gone")
	}
}

func port(ln net.Listener) string {
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}
