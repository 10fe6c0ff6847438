package backend

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/exchange"
)

func body(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestEcho(t *testing.T) {
	url := Start(t, http.HandlerFunc(Echo))
	for _, query := range []string{"", "?chunked"} {
		resp, err := http.Get(url + "/fixed/700" + query)
		if got := body(t, resp, err); got != string(exchange.Pattern(700)) {
			t.Errorf("GET %s: got %d bytes, want 700 of the pattern", query, len(got))
		}
		resp, err = http.Post(url+"/echo"+query, "", strings.NewReader("said"))
		if got := body(t, resp, err); got != "said" {
			t.Errorf("POST %s: got %q, want what was said", query, got)
		}
	}
}

func TestGate(t *testing.T) {
	g := NewGate(t)
	url := Start(t, g)
	resp, err := http.Get(url + "/")
	if got := body(t, resp, err); got != "open" {
		t.Errorf("beside the gate: got %q, want open", got)
	}
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get(url + "/begun")
		answered <- body(t, resp, err)
	}()
	g.Await(t, 1)
	select {
	case got := <-answered:
		t.Fatalf("before the gate was opened: got %q", got)
	default:
	}
	g.Open()
	if got := <-answered; got != "hello, world" {
		t.Errorf("through the gate: got %q, want hello, world", got)
	}
}
