package reply

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
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
			testserver.Equal(t, "prefers HTML", PrefersHTML([]string{test.accept}), test.want)
		})
	}
	testserver.Equal(t, "two header lines", PrefersHTML([]string{"application/json;q=0.1", "text/html"}), true)
}

func TestWriteError(t *testing.T) {
	server := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "7")
		w.Header().Set("Content-Encoding", "gzip")
		Error(w, r, http.StatusBadGateway, "no <b>answer</b>")
	}))

	response, body := testserver.Do(t, server, "GET", "/", "X-Request-Id", "id-1")
	testserver.Equal(t, "status", response.StatusCode, 502)
	testserver.Equal(t, "Content-Type", response.Header.Get("Content-Type"), "application/json")
	testserver.Equal(t, "Content-Encoding", response.Header.Get("Content-Encoding"), "")
	testserver.Equal(t, "Server", response.Header.Get("Server"), "baton")
	testserver.Equal(t, "Vary", response.Header.Get("Vary"), "Accept")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	testserver.Equal(t, "error", got["error"], any("no <b>answer</b>"))
	testserver.Equal(t, "status member", got["status"], any(502.0))
	testserver.Equal(t, "request_id", got["request_id"], any("id-1"))

	_, body = testserver.Do(t, server, "GET", "/", "X-Request-Id", "no id!")
	testserver.Equal(t, "echoes an id that is none", strings.Contains(body, "request_id"), false)

	response, body = testserver.Do(t, server, "GET", "/", "Accept", "text/html", "X-Request-Id", "id-1")
	testserver.Equal(t, "Content-Type", response.Header.Get("Content-Type"), "text/html; charset=utf-8")
	for _, want := range []string{"<h1>502</h1>", "no &lt;b&gt;answer", "id-1"} {
		testserver.Equal(t, "page has "+want, strings.Contains(body, want), true)
	}
	testserver.CheckPolicy(t, response, body)
}

func TestWriteErrorHead(t *testing.T) {
	recorder := httptest.NewRecorder()
	Error(recorder, httptest.NewRequest("GET", "/", nil), 404, "not found")
	server := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { Error(w, r, 404, "not found") }))
	response, _ := testserver.Do(t, server, "HEAD", "/")
	testserver.Equal(t, "length for HEAD", response.ContentLength, int64(recorder.Body.Len()))
}
