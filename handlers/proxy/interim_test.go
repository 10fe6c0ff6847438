package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

const interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n" +
	"Proxy-Connection: x\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nTe: trailers\r\nTrailer: x\r\nContent-Length: 9\r\nX-Request-Id: theirs\r\n\r\n"

func TestProxyInterimResponses(t *testing.T) {
	const final = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
	for _, test := range []struct {
		name, response string
		status         int
		hints          int
	}{
		{"one", interim + final, 200, 1},
		{"some of all kinds", "HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n" + "HTTP/1.1 102 Processing\r\n\r\n" + interim + "HTTP/1.1 199 Odd\r\n\r\n" + final, 200, 4},
		{"as many as may be", strings.Repeat(interim, maxInterim) + final, 200, maxInterim},
		{"more than may be", strings.Repeat(interim, maxInterim+10) + final, 200, maxInterim},
		{"a large header", "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 2<<20) + "\r\n\r\n" + final, 502, 0},
		{"a broken header", "HTTP/1.1 103 Early Hints\r\nno field\r\n\r\n" + final, 502, 0},
	} {
		traced := func(t *testing.T, hints *int) context.Context {
			return httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				*hints++
				if code == 103 && strings.Join(header["Link"], "; ") != "</a>" {
					t.Errorf("%s: Link: got %q", test.name, header["Link"])
				}
				for _, name := range []string{"Connection", "Keep-Alive", "X-Hop", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "Te", "Trailer",
					"Content-Length", "X-Request-Id"} {
					if header[name] != nil {
						t.Errorf("%s: the interim response has %s: %q", test.name, name, header[name])
					}
				}
				return nil
			}})
		}
		check := func(t *testing.T, response *http.Response, hints int) {
			t.Helper()
			testserver.Equal(t, "status", response.StatusCode, test.status)
			testserver.Equal(t, "interim responses", hints, test.hints)
			testserver.Equal(t, "Link fields of the final one", len(response.Header["Link"]), 0)
			testserver.Equal(t, "X-Request-Id fields of the final one", len(response.Header["X-Request-Id"]), 1)
		}
		t.Run(test.name, func(t *testing.T) {
			server, logged, _ := through(t, testserver.Says(test.response), Options{})
			hints := 0
			request, _ := http.NewRequestWithContext(traced(t, &hints), "GET", server.URL, nil)
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			check(t, response, hints)
			testserver.Equal(t, "status logged", logged.Await(t, "request")["status"], any(float64(test.status)))
		})
		t.Run(test.name+", HTTP/2", func(t *testing.T) {
			url, client, _ := throughHTTP2(t, testserver.Says(test.response))
			hints := 0
			check(t, send(t, client, traced(t, &hints), "GET", url, nil), hints)
		})
		t.Run(test.name+", HTTP/1.0", func(t *testing.T) {
			server, _, _ := through(t, testserver.Says(test.response), Options{})
			for _, fields := range []string{"", "Expect: 100-continue\r\n"} {
				got := testserver.Exchange(t, server.Listener.Addr().String(), "POST / HTTP/1.0\r\n"+fields+"Content-Length: 4\r\n\r\nbody")
				if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.0 %d ", test.status)) || strings.Count(got, "HTTP/1.") != 1 || strings.Contains(got, "</a>") {
					t.Errorf("got %.100q, want the final response and no other", got)
				}
			}
		})
	}
}

// What was in the header before the proxy got it survives interim responses.
func TestProxyInterimResponseKeepsHeader(t *testing.T) {
	app := testserver.Serve(t, testserver.Says(interim+interim+"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
	proxied := start(t, Options{Rules: rules(t, "/="+app.URL), Logger: testserver.Discard()})
	server := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=1")
		proxied.ServeHTTP(w, r)
	}))
	response, _ := testserver.Do(t, server, "GET", "/")
	testserver.Equal(t, "Strict-Transport-Security", response.Header.Get("Strict-Transport-Security"), "max-age=1")
	testserver.Equal(t, "Link fields", len(response.Header["Link"]), 0)
}

// Expect: 100-continue works through the proxy as without: the backend decides.
func TestProxyExpectContinue(t *testing.T) {
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Refuse") != "" {
			w.WriteHeader(403)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}), Options{})
	for fields, want := range map[string]string{"": "HTTP/1.1 100 Continue", "X-Refuse: 1\r\n": "HTTP/1.1 403 Forbidden"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 4\r\n"+fields+"\r\n")
		reader := bufio.NewReader(conn)
		line, _ := reader.ReadString('\n')
		testserver.Equal(t, "first line", strings.TrimSpace(line), want)
		if fields == "" {
			_, _ = io.WriteString(conn, "body")
			rest, _ := io.ReadAll(reader)
			testserver.Equal(t, "100 again", strings.Contains(string(rest), " 100 "), false)
			testserver.Equal(t, "answer", strings.HasSuffix(string(rest), "body"), true)
		}
	}
}
