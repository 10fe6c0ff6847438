package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/middleware"
	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// throughHTTP2 starts backend and, as main would, a server that passes requests on to it. The client that is
// returned makes all requests on one connection.
func throughHTTP2(t *testing.T, backend http.Handler) (url string, client *http.Client, logged *testserver.Log) {
	t.Helper()
	app := testserver.Serve(t, backend)
	logged, logger := testserver.Capture()
	srv := server.New(server.Options{Handler: middleware.Log(start(t, Options{Rules: rules(t, "/="+app.URL), Logger: logger, OnDrain: server.OnDrain}), logger), Logger: logger})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.Add(ln)
	srv.Serve()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	// By itself the transport dials again if it gets a request before it has put the connection among its idle ones.
	conn, err := transport.NewClientConn(t.Context(), "http", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		srv.Drain(ctx, upgrade.Handoff{Kept: func(net.Listener) bool { return false }})
		testserver.Equal(t, "connections of the client", srv.Accepted(), 1)
	})
	return "http://" + ln.Addr().String(), &http.Client{Transport: conn}, logged
}

// send makes a request and returns its response, of which the header has come.
func send(t *testing.T, client *http.Client, ctx context.Context, method, url string, body io.Reader) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	testserver.Equal(t, "protocol", response.ProtoMajor, 2)
	return response
}

func TestProxyHTTP2HeadersAndTrailers(t *testing.T) {
	seen := make(chan *http.Request, 1)
	trailer := make(chan string, 1)
	url, client, logged := throughHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		io.Copy(io.Discard, r.Body)
		trailer <- r.Trailer.Get("X-Sum")
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "of the backend's connection")
		w.Header().Set("Trailer", "X-Announced")
		io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set("X-Announced", "1")
		w.Header().Set(http.TrailerPrefix+"X-Surprise", "2")
	}))
	hints := ""
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hints += fmt.Sprint(code, " ", header.Get("Link"))
		return nil
	}})
	request, _ := http.NewRequestWithContext(ctx, "POST", url+"/a%2Fb?q=1;2", io.MultiReader(strings.NewReader("of no known length")))
	request.Host = "app.example"
	request.Header["Cookie"] = []string{"a=1; b=2", "c=3"}
	request.Header.Set("Te", "trailers")
	request.Trailer = http.Header{"X-Sum": {"42"}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	testserver.Equal(t, "body", string(body), "body")
	testserver.Equal(t, "end", err, nil)
	got := <-seen
	testserver.Equal(t, "protocol to the backend", got.Proto, "HTTP/1.1")
	testserver.Equal(t, "Host", got.Host, "app.example")
	testserver.Equal(t, "target", got.RequestURI, "/a%2Fb?q=1;2")
	for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "app.example",
		"X-Forwarded-Proto": "http", "Cookie": "a=1; b=2; c=3", "Te": "trailers", "Upgrade": ""} {
		testserver.Equal(t, name, strings.Join(got.Header[name], " | "), want)
	}
	testserver.Equal(t, "trailer of the request", <-trailer, "42")
	testserver.Equal(t, "hints", hints, "103 </style.css>; rel=preload")
	for _, name := range []string{"Connection", "X-Hop", "Keep-Alive", "Transfer-Encoding"} {
		testserver.Equal(t, name, len(response.Header[name]), 0)
	}
	testserver.Equal(t, "announced trailer", response.Trailer.Get("X-Announced"), "1")
	testserver.Equal(t, "unannounced trailer", response.Trailer.Get("X-Surprise"), "2")
	testserver.Equal(t, "protocol logged", logged.Await(t, "request")["protocol"], any("HTTP/2.0"))
}

// Both bodies go on at once, and neither waits for the end of the other.
func TestProxyHTTP2BodiesBothWays(t *testing.T) {
	url, client, _ := throughHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		buffer := make([]byte, 100)
		for {
			n, err := r.Body.Read(buffer)
			w.Write(buffer[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	}))
	in, out := io.Pipe()
	response := send(t, client, t.Context(), "POST", url, in)
	for _, word := range []string{"first", "second", "third"} {
		io.WriteString(out, word)
		hear(t, response.Body, word)
	}
	out.Close()
	rest, err := io.ReadAll(response.Body)
	testserver.Equal(t, "rest", string(rest), "")
	testserver.Equal(t, "end", err, nil)
}

// A stream that the client resets is a request that is cancelled, and its
// connection goes on.
func TestProxyHTTP2ClientCancels(t *testing.T) {
	entered, left := make(chan struct{}, 1), make(chan struct{}, 1)
	url, client, logged := throughHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			return
		}
		io.WriteString(w, "begun")
		if r.URL.Path == "/answering" {
			w.(http.Flusher).Flush()
		}
		entered <- struct{}{}
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		left <- struct{}{}
	}))
	for path, body := range map[string]io.Reader{"/waiting": nil, "/answering": nil, "/sending": struct{ io.Reader }{zeros{}}} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			request, _ := http.NewRequestWithContext(ctx, "POST", url+path, body)
			response, err := client.Do(request)
			if err == nil {
				_, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			done <- err
		}()
		<-entered
		cancel()
		testserver.Equal(t, path+" is cancelled", errors.Is(<-done, context.Canceled), true)
		select {
		case <-left:
		case <-time.After(time.Minute):
			t.Errorf("%s: the backend does not learn of it", path)
		}
		testserver.Equal(t, "the next request", send(t, client, t.Context(), "GET", url, nil).StatusCode, 200)
	}
	logged.AwaitAll(t, "request", 6)
	testserver.Equal(t, "backend failures", len(logged.With("backend failed")), 0)
}

// A response that breaks off at the backend is a stream that is reset, not one that has ended.
func TestProxyHTTP2TruncatedResponse(t *testing.T) {
	url, client, _ := throughHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			return
		}
		conn, _, _ := w.(http.Hijacker).Hijack()
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
	}))
	body, err := io.ReadAll(send(t, client, t.Context(), "GET", url+"/events", nil).Body)
	testserver.Equal(t, "body", string(body), "data: 1\n\n")
	if err == nil {
		t.Error("got an end in order, want the break to be seen")
	}
	testserver.Equal(t, "the next request", send(t, client, t.Context(), "GET", url, nil).StatusCode, 200)
}

// A download that nobody reads and uploads that the backend does not read leave
// room on their connection for all others.
func TestProxyHTTP2FlowControl(t *testing.T) {
	const size, stalled = 6 << 20, 2
	pause, entered := make(chan struct{}), make(chan struct{}, stalled)
	url, client, _ := throughHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stalled" {
			entered <- struct{}{}
			<-pause
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		sum := sha256.New()
		if n, err := io.Copy(sum, r.Body); err != nil || n != size {
			t.Errorf("backend: got %d bytes, %v, want %d", n, err, size)
		}
		w.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
		w.Write(bytes.Repeat([]byte("down"), size/4))
	}))
	up := bytes.Repeat([]byte("up"), size/2)
	want := fmt.Sprintf("%x", sha256.Sum256(up))
	unread := send(t, client, t.Context(), "POST", url, bytes.NewReader(up)) // of which nothing is read until later
	all := make(chan *http.Response, stalled)
	for range stalled {
		go func() {
			request, _ := http.NewRequestWithContext(t.Context(), "POST", url+"/stalled", bytes.NewReader(up))
			response, err := client.Do(request)
			if err != nil {
				t.Error(err)
				response = httptest.NewRecorder().Result()
			}
			all <- response
		}()
		<-entered
	}
	check := func(response *http.Response) {
		t.Helper()
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if n != size || err != nil || response.Header.Get("X-Sum") != want {
			t.Errorf("got %d bytes, %v, and a sum of %s; want %d and %s", n, err, response.Header.Get("X-Sum"), size, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request, _ := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(up))
	response, err := client.Do(request)
	if err != nil {
		t.Errorf("an upload beside those that stall: %v", err)
	} else {
		check(response)
	}
	close(pause)
	for range stalled {
		check(<-all)
	}
	check(unread)
}
