package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/middleware"
)

// A response that comes at once goes to the client in one write, one that comes in pieces in as many.
func TestProxyWrites(t *testing.T) {
	const known, chunked = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	type part struct{ sent, body string }
	for _, test := range []struct {
		name  string
		parts []part // each is sent when the client has the body of the one before
	}{
		{"length", []part{{known + "hi", "hi"}}},
		{"no body", []part{{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""}}},
		{"chunks", []part{{chunked + "1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", "hi"}}},
		{"header first", []part{{known, ""}, {"hi", "hi"}}},
		{"two parts", []part{{known + "h", "h"}, {"i", "i"}}},
		{"chunks in parts", []part{{chunked, ""}, {"1\r\nh\r\n", "h"}, {"1\r\ni\r\n0\r\n\r\n", "i"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			next := make(chan struct{}, 1)
			app := testserver.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				conn, _, _ := http.NewResponseController(w).Hijack()
				defer conn.Close()
				for i, part := range test.parts {
					if i > 0 {
						<-next
					}
					io.WriteString(conn, part.sent)
				}
			}))
			logger := testserver.Discard()
			server := httptest.NewUnstartedServer(middleware.Log(New(Options{Rules: rules(t, "/="+app.URL), Logger: logger}), logger))
			writes := &countingListener{Listener: server.Listener}
			server.Listener = writes
			server.Start()
			t.Cleanup(server.Close)
			client, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			io.WriteString(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			in := bufio.NewReader(client)
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, part := range test.parts {
				if i > 0 {
					next <- struct{}{}
				}
				body := make([]byte, len(part.body))
				_, err := io.ReadFull(response.Body, body)
				testserver.Equal(t, "error", err, nil)
				testserver.Equal(t, "body", string(body), part.body)
			}
			io.Copy(io.Discard, response.Body) // the end
			testserver.Equal(t, "writes", writes.n.Load(), int32(len(test.parts)))
		})
	}
}

// countingListener counts the writes to its connections.
type countingListener struct {
	net.Listener
	n atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &countingConn{conn, l}, err
}

type countingConn struct {
	net.Conn
	listener *countingListener
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.listener.n.Add(1)
	return c.Conn.Write(p)
}
