package deploy

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestCheckHealth(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sick":
			w.WriteHeader(503)
		case "/absent":
			w.WriteHeader(404)
		case "/moved":
			http.Redirect(w, r, "/sick", http.StatusFound)
		case "/own":
			http.Error(w, "my own", http.StatusBadRequest)
		case "/once":
			if asked.Add(1) == 1 {
				w.WriteHeader(502)
			}
		case "/odd":
			if r.URL.RawQuery != `x='$HOME"&y=\;*` {
				w.WriteHeader(500)
			}
		}
	})
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	secret := httptest.NewUnstartedServer(handler)
	secret.Config.ErrorLog = log.New(io.Discard, "", 0)
	secret.StartTLS()
	t.Cleanup(secret.Close)
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	unix := &http.Server{Handler: handler}
	go unix.Serve(ln)
	t.Cleanup(func() { unix.Close() })
	gone := httptest.NewServer(handler)
	gone.Close()

	at, tls := plain.Listener.Addr().String(), secret.Listener.Addr().String()
	_, port, _ := net.SplitHostPort(at)
	tests := []struct {
		name, what    string
		addresses     []string
		want, problem string
	}{
		{"all addresses", "/", []string{at, tls, "unix:" + socket}, at + " answers 200, " + tls + " answers 200, unix:" + socket + " answers 200", ""},
		{"path", "/absent", []string{at}, at + "/absent answers 404", ""},
		{"redirection", "/moved", []string{at}, at + "/moved answers 302", ""},
		{"a 400 of its own", "/own", []string{at}, at + "/own answers 400", ""},
		{"a bad moment", "/once", []string{at}, at + "/once answers 200", ""},
		{"odd query", `/odd?x='$HOME"&y=\;*`, []string{at}, at + `/odd?x='$HOME"&y=\;* answers 200`, ""},
		{"any address", "/", []string{"0.0.0.0:" + port}, "0.0.0.0:" + port + " answers 200", ""},
		{"no address", "/", nil, "no address is known for the health check; --health names one", ""},
		{"sick", "/sick", []string{at}, "", at + "/sick answers 503"},
		{"sick in TLS", "/sick", []string{at, tls}, "", at + "/sick answers 503"},
		{"whole URL", plain.URL + "/absent", []string{"ignored"}, plain.URL + "/absent answers 404", ""},
		{"sick URL", plain.URL + "/sick", nil, "", plain.URL + "/sick answers 503"},
		{"nobody there", gone.URL, nil, "", gone.URL + " does not answer: "},
		{"certificate that cannot be verified", secret.URL, nil, "", "certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := checkHealth(tt.what, tt.addresses)
			if got != tt.want || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("got %q, %v, want %q, %s", got, err, tt.want, tt.problem)
			}
		})
	}
}

func TestDialable(t *testing.T) {
	t.Parallel()
	for address, want := range map[string][2]string{
		"127.0.0.1:80": {"127.0.0.1:80", ""}, "[::]:80": {"[::1]:80", ""}, "0.0.0.0:80": {"127.0.0.1:80", ""},
		"*:80": {"127.0.0.1:80", ""}, ":80": {"127.0.0.1:80", ""}, "[fe80::1]:80": {"[fe80::1]:80", ""}, "unix:/run/x": {"localhost", "/run/x"},
	} {
		if authority, socket := dialable(address); authority != want[0] || socket != want[1] {
			t.Errorf("%s: got %s, %s, want %s", address, authority, socket, want)
		}
	}
}
