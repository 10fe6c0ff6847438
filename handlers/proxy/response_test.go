package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

// What a backend does not send, clients do not get.
func TestProxyAddsNothing(t *testing.T) {
	t.Parallel()
	html := "<!DOCTYPE html>" + strings.Repeat("<p>text</p>", 10_000)
	added := []string{"Content-Type", "Content-Length", "Date", "Server", "Last-Modified", "Cache-Control", "Vary", "Etag", "Content-Encoding"}
	for _, test := range []struct{ name, method, response, body, has string }{
		{"page", "GET", "HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\nContent-Length: " + fmt.Sprint(len(html)) + "\r\n\r\n" + html, html, "Content-Length"},
		{"page that ends with the connection", "GET", "HTTP/1.1 200 OK\r\n\r\n" + html, html, ""},
		{"page of HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\n<html>", "<html>", ""},
		{"short chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n<html>\r\n0\r\n\r\n", "<html>", ""},
		{"empty chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", ""},
		{"empty until the end", "GET", "HTTP/1.1 200 OK\r\n\r\n", "", ""},
		{"empty of length 0", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", "Content-Length"},
		{"empty type", "GET", "HTTP/1.1 200 OK\r\nContent-Type:\r\nContent-Length: 6\r\n\r\n<html>", "<html>", "Content-Type Content-Length"},
		{"encoded", "GET", "HTTP/1.1 200 OK\r\nContent-Encoding: x\r\nContent-Length: 6\r\n\r\n<html>", "<html>", "Content-Length Content-Encoding"},
		{"error", "GET", "HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\n<html>", "<html>", "Content-Length"},
		{"no content", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", ""},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"1\"\r\n\r\n", "", "Etag"},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", "", ""},
		{"HEAD with a length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "", "Content-Length"},
		{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", ""},
		{"HEAD of a file not modified", "HEAD", "HTTP/1.1 304 Not Modified\r\n\r\n", "", ""},
		{"all of it", "GET", "HTTP/1.1 200 OK\r\nDate: then\r\nServer: x\r\nContent-Type: a/b\r\nContent-Length: 1\r\n\r\na", "a", "Content-Type Content-Length Date Server"},
	} {
		check := func(t *testing.T, response *http.Response, body string) {
			t.Helper()
			testserver.Equal(t, "body", body == test.body, true)
			for _, name := range added {
				_, got := response.Header[name]
				testserver.Equal(t, "has "+name, got, slices.Contains(strings.Fields(test.has), name))
			}
			testserver.Equal(t, "X-Request-Id fields", len(response.Header["X-Request-Id"]), 1)
		}
		t.Run(test.name, func(t *testing.T) {
			server, _, _ := through(t, testserver.Says(test.response), Options{})
			for range 5 { // what is added may depend on who is faster
				response, body := testserver.Do(t, server, test.method, "/")
				check(t, response, body)
			}
		})
		t.Run(test.name+", HTTP/2", func(t *testing.T) {
			url, client, _ := throughHTTP2(t, testserver.Says(test.response))
			for range 5 {
				response := send(t, client, t.Context(), test.method, url, nil)
				body, err := io.ReadAll(response.Body)
				testserver.Equal(t, "error", err, nil)
				check(t, response, string(body))
			}
		})
	}
}

// What Baton answers itself it is the origin of.
func TestProxyErrorsHaveDates(t *testing.T) {
	for _, response := range []string{"nonsense", "HTTP/1.1 000 OK\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nnonsense"} {
		server, _, _ := through(t, testserver.Says(response), Options{})
		got, _ := testserver.Do(t, server, "GET", "/")
		testserver.Equal(t, "status", got.StatusCode, 502)
		for _, name := range []string{"Date", "Content-Type", "Content-Length", "Server", "X-Request-Id"} {
			testserver.Equal(t, name+" fields", len(got.Header[name]), 1)
		}
		testserver.Equal(t, "Link fields", len(got.Header["Link"]), 0)
	}
}

func TestProxyStatusCodes(t *testing.T) {
	for status, want := range map[string]int{"000": 502, "099": 502, "001": 502, "+12": 502, "-12": 502, "-1": 502, "600": 502, "999": 502, "1000": 502,
		"20": 502, "abc": 502, "": 502, "2 0": 502, "0x1": 502, "\u0662\u0660\u0660": 502, "200": 200, "299": 299, "599": 599, "101": 502} {
		server, logged, _ := through(t, testserver.Says("HTTP/1.1 "+status+" OK\r\nContent-Length: 2\r\n\r\nhi"), Options{})
		response, _ := testserver.Do(t, server, "GET", "/")
		testserver.Equal(t, status, response.StatusCode, want)
		testserver.Equal(t, status+": status logged", logged.Await(t, "request")["status"], any(float64(want)))
		failures := 0
		if want == 502 {
			failures = 1
		}
		testserver.Equal(t, status+": backend failures", len(logged.With("backend failed")), failures)
		testserver.Equal(t, status+": panics", len(logged.With("handler panicked")), 0)
	}
}
