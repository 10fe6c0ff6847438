package deploy

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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
		{"all addresses", "/", []string{at, tls, "unix:" + socket}, at + " answers 200 without a body, " + tls + " answers 200 without a body, unix:" + socket + " answers 200 without a body", ""},
		{"path", "/absent", []string{at}, at + "/absent answers 404", ""},
		{"redirection", "/moved", []string{at}, at + "/moved answers 302", ""},
		{"a 400 of its own", "/own", []string{at}, at + "/own answers 400", ""},
		{"a bad moment", "/once", []string{at}, at + "/once answers 200 without a body", ""},
		{"odd query", `/odd?x='$HOME"&y=\;*`, []string{at}, at + `/odd?x='$HOME"&y=\;* answers 200 without a body`, ""},
		{"any address", "/", []string{"0.0.0.0:" + port}, "0.0.0.0:" + port + " answers 200 without a body", ""},
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
			got, err := check{[]string{tt.what}, tt.addresses, time.Minute}.run(nil)
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

// A release answers no worse than the one before it.
func TestJudge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		before, now reply
		want        string // the reason; empty: good
	}{
		{"nothing before", reply{}, reply{Label: "x", Code: 404}, ""},
		{"the same", reply{Label: "x", Code: 200}, reply{Label: "x", Code: 200}, ""},
		{"created", reply{Label: "x", Code: 200}, reply{Label: "x", Code: 201}, ""},
		{"absent after good", reply{Label: "x", Code: 200}, reply{Label: "x", Code: 404}, "x answers 404, and the release before answered 200"},
		{"redirection after good", reply{Label: "x", Code: 200}, reply{Label: "x", Code: 302}, "x answers 302, and the release before answered 200"},
		{"nothing after something", reply{Label: "x", Code: 200}, reply{Label: "x", Code: 200, Empty: true}, "x answers 200 without a body, and the release before answered 200 with one"},
		{"something after nothing", reply{Label: "x", Code: 204, Empty: true}, reply{Label: "x", Code: 200}, ""},
		{"absent after redirection", reply{Label: "x", Code: 301}, reply{Label: "x", Code: 404}, "x answers 404, and the release before answered 301"},
		{"absent as before", reply{Label: "x", Code: 404}, reply{Label: "x", Code: 403}, ""},
		{"sick as before", reply{Label: "x", Code: 503}, reply{Label: "x", Code: 503}, "x answers 503"},
		{"well again", reply{Label: "x", Code: 503}, reply{Label: "x", Code: 200}, ""},
	}
	for _, tt := range tests {
		got := ""
		if err := tt.now.judge(tt.before); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReplies(t *testing.T) {
	t.Parallel()
	all := []reply{{Label: "127.0.0.1:80/a b?x=1 2", Code: 200}, {Label: "http://x/", Code: 404, Empty: true}}
	if got := parseReplies(format(append(all, reply{Label: "silent", Err: io.EOF}))); !slices.Equal(got, all) {
		t.Errorf("got %+v, want %+v", got, all)
	}
	if got := parseReplies("no code\n\n200\n"); len(got) != 0 {
		t.Errorf("malformed: got %+v", got)
	}
}

// An answer that takes longer than it may is none.
func TestCheckWithin(t *testing.T) {
	t.Parallel()
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}))
	t.Cleanup(slow.Close)
	for _, path := range []string{"/", "/body"} {
		_, err := check{[]string{slow.URL + path}, nil, 50 * time.Millisecond}.run(nil)
		if want := slow.URL + path + " does not answer: not within 50ms"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
