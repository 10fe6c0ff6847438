package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
	"example.com/baton/handlers/middleware"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// through starts backend and, as main would, a proxy in front of it with log and metrics.
func through(t *testing.T, backend http.Handler, options Options) (server *httptest.Server, logged *testserver.Log, m *metrics.Metrics) {
	t.Helper()
	app := httptest.NewUnstartedServer(backend)
	app.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	app.Start()
	t.Cleanup(app.Close)
	options.Rules = rules(t, "/="+app.URL)
	return inFront(t, options)
}

// start returns a proxy that is closed with the test.
func start(t testing.TB, options Options) *Proxy {
	t.Helper()
	p := New(options)
	t.Cleanup(p.Close)
	return p
}

func inFront(t *testing.T, options Options) (server *httptest.Server, logged *testserver.Log, m *metrics.Metrics) {
	t.Helper()
	logged, options.Logger = testserver.Capture()
	m = metrics.New(metrics.Options{Source: func() metrics.Snapshot { return metrics.Snapshot{} }})
	return testserver.Serve(t, middleware.Log(m.Count(start(t, options)), options.Logger)), logged, m
}

// deaf returns the address of a listener that accepts what comes but never reads.
func deaf(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return listener.Addr().String()
}

func refused(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	return listener.Addr().String()
}

func TestProxyBackendFails(t *testing.T) {
	nonsense := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		io.WriteString(conn, "SSH-2.0-nonsense\r\n")
		conn.Close()
	}))
	t.Cleanup(nonsense.Close)

	for _, test := range []struct {
		name, backend string
		status        int
	}{
		{"refused", "http://" + refused(t), 503},
		{"no socket", "unix:" + filepath.Join(t.TempDir(), "app.sock"), 503},
		{"nonsense", nonsense.URL, 502},
		{"no response header", "http://" + deaf(t), 504},
	} {
		t.Run(test.name, func(t *testing.T) {
			logged, logger := testserver.Capture()
			proxied := start(t, Options{Rules: rules(t, "/="+test.backend), HeaderTimeout: 50 * time.Millisecond, Logger: logger})
			server := testserver.Serve(t, middleware.Log(proxied, logger))
			for accept, contentType := range map[string]string{"*/*": "application/json", "text/html": "text/html; charset=utf-8"} {
				response, body := testserver.Do(t, server, "GET", "/x", "Accept", accept, "X-Request-Id", "id-1")
				testserver.Equal(t, "status", response.StatusCode, test.status)
				testserver.Equal(t, "Retry-After", response.Header.Get("Retry-After") != "", test.status == 503)
				testserver.Equal(t, "Content-Type", response.Header.Get("Content-Type"), contentType)
				testserver.Equal(t, "Server", strings.Join(response.Header["Server"], "; "), "baton")
				testserver.Equal(t, "X-Request-Id", strings.Join(response.Header["X-Request-Id"], "; "), "id-1")
				testserver.Equal(t, "body has the id", strings.Contains(body, "id-1"), true)
				testserver.Equal(t, "body names the backend", strings.Contains(body, test.backend), false)
			}
			got := logged.Await(t, "backend failed")
			testserver.Equal(t, "level", got["level"], any("WARN"))
			testserver.Equal(t, "backend", got["backend"], any(test.backend))
			testserver.Equal(t, "status logged", got["status"], any(float64(test.status)))
		})
	}
}

func TestProxyBackendThatStopsReading(t *testing.T) {
	t.Parallel()
	server, logged, _ := inFront(t, Options{Rules: rules(t, "/=http://"+deaf(t)), HeaderTimeout: 100 * time.Millisecond})
	endless := io.LimitReader(zeros{}, 1<<40)
	request, err := http.NewRequestWithContext(t.Context(), "POST", server.URL, endless)
	if err != nil {
		t.Fatal(err)
	}
	// The answer may be lost under the body that is still on its way: see the log.
	if response, err := server.Client().Do(request); err == nil {
		response.Body.Close()
	}
	testserver.Equal(t, "status", logged.Await(t, "backend failed")["status"], any(504.0))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestProxyClientGoesAway(t *testing.T) {
	var entered, left chan struct{}
	waiting := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(left)
	})
	for _, test := range []struct {
		name, request string
	}{
		{"while it waits", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"in its body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nonly this"},
	} {
		t.Run(test.name, func(t *testing.T) {
			entered, left = make(chan struct{}), make(chan struct{})
			server, logged, m := through(t, waiting, Options{})
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, test.request)
			<-entered
			conn.Close()
			<-left // the backend learns of it
			testserver.Equal(t, "status", logged.Await(t, "request")["status"], any(499.0))
			testserver.Equal(t, "level", logged.Await(t, "client went away")["level"], any("DEBUG"))
			testserver.Equal(t, "backend failures", len(logged.With("backend failed")), 0)
			for series := range m.Own() {
				testserver.Equal(t, series+" counted", strings.HasPrefix(series, "baton_http_requests_total"), false)
			}
		})
	}
}

func TestProxyBodyTooLarge(t *testing.T) {
	server, logged, _ := through(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}), Options{MaxBody: 10})
	for _, test := range []struct {
		name string
		body io.Reader // one that is no *strings.Reader is sent in chunks
		want int
	}{
		{"just right", strings.NewReader("ten bytes!"), 200},
		{"just right, chunked", io.MultiReader(strings.NewReader("ten bytes!")), 200},
		{"too large", strings.NewReader("more than ten bytes"), 413},
		{"too large, chunked", io.MultiReader(strings.NewReader("more than ten bytes")), 413},
	} {
		response, err := server.Client().Post(server.URL, "", test.body)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		response.Body.Close()
		testserver.Equal(t, test.name, response.StatusCode, test.want)
	}
	testserver.Equal(t, "backend failures", len(logged.With("backend failed")), 0)
}

func TestProxyTruncatedResponse(t *testing.T) {
	for _, test := range []struct{ name, response string }{
		{"with a length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, logged, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, _ := w.(http.Hijacker).Hijack()
				io.WriteString(conn, test.response)
				conn.Close()
			}), Options{})
			_, body, err := testserver.Try(t, server, "GET", "/")
			testserver.Equal(t, "body", body, "half")
			testserver.Equal(t, "body ends early", errors.Is(err, io.ErrUnexpectedEOF), true)
			testserver.Equal(t, "status logged", logged.Await(t, "request")["status"], any(200.0))
			testserver.Equal(t, "panics logged", len(logged.With("handler panicked")), 0)
		})
	}
}

func TestProxyStreams(t *testing.T) {
	release := make(chan struct{})
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10") // net/http itself flushes only what has none
		w.Header().Set("Trailer", "X-Announced")
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-release
		io.WriteString(w, "later")
	}), Options{})
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	first := make([]byte, 5)
	_, err = io.ReadFull(response.Body, first) // waits forever if it is held back
	close(release)
	testserver.Equal(t, "read", err, nil)
	testserver.Equal(t, "first part", string(first), "first")
	rest, _ := io.ReadAll(response.Body)
	testserver.Equal(t, "rest", string(rest), "later")
}

// A backend may begin to answer while the client still sends: what is left of
// the body must reach the backend, and the beginning of the answer the client.
func TestProxyAnswerOverlapsRequest(t *testing.T) {
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	}), Options{})
	client, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfirst")
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatalf("read the beginning of the answer: %v", err)
	}
	_, _ = io.WriteString(client, "-half")
	body, err := io.ReadAll(response.Body)
	if err != nil || string(body) != "first-half" {
		t.Errorf("got %q, %v, want the whole body", body, err)
	}
}

func TestProxyTrailers(t *testing.T) {
	server, _, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Announced", "1")
		w.Header().Set(http.TrailerPrefix+"X-Surprise", "2")
	}), Options{})
	response, body := testserver.Do(t, server, "GET", "/")
	testserver.Equal(t, "body", body, "body")
	testserver.Equal(t, "announced trailer", response.Trailer.Get("X-Announced"), "1")
	testserver.Equal(t, "unannounced trailer", response.Trailer.Get("X-Surprise"), "2")
}

func TestProxyEarlyHints(t *testing.T) {
	server, logged, _ := through(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
	}), Options{})
	hints := ""
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hints = fmt.Sprint(code, " ", header.Get("Link"))
		return nil
	}})
	request, _ := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	testserver.Equal(t, "hints", hints, "103 </style.css>; rel=preload")
	testserver.Equal(t, "status", response.StatusCode, http.StatusTeapot)
	testserver.Equal(t, "status logged", logged.Await(t, "request")["status"], any(418.0))
	testserver.Equal(t, "X-Request-Id fields", len(response.Header["X-Request-Id"]), 1)
}

// What HTTP/2 can carry and HTTP/1.1 cannot reaches no backend.
func TestProxyUnspeakableRequests(t *testing.T) {
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answering := make(chan struct{})
	go func() { // answers with the line that begins a request
		defer close(answering)
		for {
			conn, err := app.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			line = strings.TrimSpace(line)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(line), line)
			conn.Close()
		}
	}()
	t.Cleanup(func() { app.Close(); <-answering })
	server := httptest.NewUnstartedServer(nil)
	logged, logger := testserver.Capture()
	server.Config.Handler = start(t, Options{Rules: rules(t, "/=http://"+app.Addr().String()), Logger: logger})
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	for _, test := range []struct{ name, method, path, host, want string }{
		{"a version in the query", "GET", "/?a HTTP/1.1", "h", "400"},
		{"a space in the query", "GET", "/?a b", "h", "400"},
		{"a request line as the method", "GET /other HTTP/1.1", "/", "h", "400"},
		{"a method that is none", "G\u00e9T", "/", "h", "400"},
		{"a host that is none", "GET", "/", "a b", "400"},
		{"a space in the path", "GET", "/a b", "h", "200GET /a%20b HTTP/1.1"},
		{"odd, but possible", "ge-t", "/\u00e9?\u00e9=%20&\"<", "h:1", "200ge-t /%C3%A9?\u00e9=%20&\"< HTTP/1.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var block bytes.Buffer
			encoder := hpack.NewEncoder(&block)
			for pair := range slices.Chunk([]string{":method", test.method, ":scheme", "http", ":authority", test.host, ":path", test.path}, 2) {
				encoder.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]})
			}
			io.WriteString(conn, http2.ClientPreface)
			framer := http2.NewFramer(conn, conn)
			framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			framer.WriteSettings()
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			var got string
			for ended := false; !ended; {
				frame, err := framer.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch frame := frame.(type) {
				case *http2.MetaHeadersFrame:
					got, ended = frame.PseudoValue("status"), frame.StreamEnded()
				case *http2.DataFrame:
					if got += string(frame.Data()); got[0] == '4' {
						got = got[:3]
					}
					ended = frame.StreamEnded()
				case *http2.RSTStreamFrame, *http2.GoAwayFrame:
					t.Fatalf("got %v", frame)
				}
			}
			testserver.Equal(t, "answer", got, test.want)
		})
	}
	testserver.Equal(t, "warnings", len(logged.With("backend failed")), 0)
}
