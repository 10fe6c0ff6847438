package handlers

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPrefersHTML(t *testing.T) {
	for _, test := range []struct {
		name, accept string
		want         bool
	}{
		{"none", "", false},
		{"curl", "*/*", false},
		{"Firefox", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true},
		{"Chrome", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7", true},
		{"axios", "application/json, text/plain, */*", false},
		{"both", "application/json, text/html", true},
		{"rather JSON", "text/html;q=0.5, application/json", false},
		{"rather HTML", "application/json;q=0.5, text/html;q=0.6", true},
		{"HTML refused", "text/html;q=0, */*", false},
		{"any text", "text/*", true},
		{"any text, JSON better", "text/*;q=0.4, application/json", false},
		{"specific beats wildcard", "*/*;q=1, text/html;q=0.2", false},
		{"upper case", "TEXT/HTML", true},
		{"parameters", "text/html;level=1;q=0.7, application/json;q=0.6", true},
		{"broken weight", "text/html;q=x, application/json;q=0.1", false},
		{"weight out of range", "text/html;q=7, application/json;q=0.1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			equal(t, "prefers HTML", prefersHTML([]string{test.accept}), test.want)
		})
	}
	equal(t, "two header lines", prefersHTML([]string{"application/json;q=0.1", "text/html"}), true)
}

func TestWriteError(t *testing.T) {
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "7")
		w.Header().Set("Content-Encoding", "gzip")
		WriteError(w, r, http.StatusBadGateway, "no <b>answer</b>")
	}))

	response, body := do(t, server, "GET", "/", "X-Request-Id", "id-1")
	equal(t, "status", response.StatusCode, 502)
	equal(t, "Content-Type", response.Header.Get("Content-Type"), "application/json")
	equal(t, "Content-Encoding", response.Header.Get("Content-Encoding"), "")
	equal(t, "Server", response.Header.Get("Server"), "baton")
	equal(t, "Vary", response.Header.Get("Vary"), "Accept")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "error", got["error"], any("no <b>answer</b>"))
	equal(t, "status member", got["status"], any(502.0))
	equal(t, "request_id", got["request_id"], any("id-1"))

	_, body = do(t, server, "GET", "/", "X-Request-Id", "no id!")
	equal(t, "echoes an id that is none", strings.Contains(body, "request_id"), false)

	response, body = do(t, server, "GET", "/", "Accept", "text/html", "X-Request-Id", "id-1")
	equal(t, "Content-Type", response.Header.Get("Content-Type"), "text/html; charset=utf-8")
	for _, want := range []string{"<h1>502</h1>", "no &lt;b&gt;answer", "id-1"} {
		equal(t, "page has "+want, strings.Contains(body, want), true)
	}
	checkPolicy(t, response, body)
}

// checkPolicy computes what a browser would, from the page as it was sent.
func checkPolicy(t *testing.T, response *http.Response, body string) {
	t.Helper()
	got := response.Header.Get("Content-Security-Policy")
	equal(t, "Content-Security-Policy", got, policy(body))
	equal(t, "policy forbids the rest", strings.HasPrefix(got, "default-src 'none'"), true)
	equal(t, "policy is unsafe", strings.Contains(got, "unsafe"), false)
	for _, element := range []string{"script", "style"} {
		if n := strings.Count(body, "<"+element); n > 1 {
			t.Errorf("%d <%s> elements, of which the policy allows one", n, element)
		}
	}
	for _, outside := range []string{"https://", "//cdn", " style=", " onclick=", "innerHTML"} {
		equal(t, "page has "+outside, strings.Contains(body, outside), false)
	}
}

func TestWriteErrorHead(t *testing.T) {
	recorder := httptest.NewRecorder()
	WriteError(recorder, httptest.NewRequest("GET", "/", nil), 404, "not found")
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { WriteError(w, r, 404, "not found") }))
	response, _ := do(t, server, "HEAD", "/")
	equal(t, "length for HEAD", response.ContentLength, int64(recorder.Body.Len()))
}
