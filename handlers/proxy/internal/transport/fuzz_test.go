package transport

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

// FuzzResponses compares what this transport and that of net/http make of a backend that answers
// with any bytes, in two pieces, and then ends the connection or not.
func FuzzResponses(f *testing.F) {
	for i, response := range []string{
		plain, "", "H", "HTTP/1.1 200 OK\r\n\r\nuntil the end", "HTTP/1.0 200 OK\r\n\r\nold", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2;a=b\r\nhi\r\n0\r\nX: 1\r\nY: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plain, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n" + plain,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi", "HTTP/1.1 200\r\n\r\n", "HTTP/1.1 999 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", "HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 000 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nX: \x00\r\n\r\n", "HTTP/1.1 200 OK\r\nno field\r\n\r\n", "\r\n\r\n" + plain, "HTTP/1.1 099 x\r\n\r\n",
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000002\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n" + plain, "HTTP/1.1 205 Reset\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551617\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nContent-Length: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nhi\n0\n\n",
	} {
		f.Add([]byte(response), uint8(i), uint16(7*i))
	}
	said := make(chan [2][]byte, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	var serving sync.WaitGroup
	f.Cleanup(func() { listener.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			parts := <-said
			serving.Go(func() { speak(conn, parts) })
		}
	})
	model := &http.Transport{DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader}
	f.Fuzz(func(t *testing.T, response []byte, method uint8, split uint16) {
		at := min(int(split), len(response))
		parts := [2][]byte{response[:at], response[at:]}
		ask := func(transport http.RoundTripper) string {
			said <- parts
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return outcome(ctx, transport, []string{"GET", "HEAD", "POST"}[method%3], listener.Addr().String())
		}
		ours := New(Options{Network: "tcp", Address: listener.Addr().String(), HeaderTimeout: time.Minute, Logger: slog.New(slog.DiscardHandler)})
		defer ours.KeepIdle(false)
		if got, want := ask(ours), ask(model); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// speak reads the header of a request and answers.
func speak(conn net.Conn, parts [2][]byte) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	if _, err := http.ReadRequest(in); err != nil {
		slog.Error("read request", "error", err)
		return
	}
	for _, part := range parts {
		if _, err := conn.Write(part); err != nil {
			return
		}
	}
	conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, in)
}

// outcome says what a caller sees of a response.
func outcome(ctx context.Context, transport http.RoundTripper, method, host string) string {
	var text strings.Builder
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		fmt.Fprintln(&text, "interim:", code, header)
		return nil
	}})
	r, err := http.NewRequestWithContext(ctx, method, "http://"+host+"/", nil)
	if err != nil {
		return err.Error()
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		fmt.Fprintln(&text, "failed")
		return text.String()
	}
	defer response.Body.Close()
	fmt.Fprintln(&text, response.Proto, response.Status, response.StatusCode, response.Header, response.ContentLength, response.TransferEncoding, response.Uncompressed)
	if response.StatusCode == http.StatusSwitchingProtocols { // whose body is not the same where it is no upgrade
		return text.String()
	}
	if body, ok := response.Body.(interface{ BeforeWait(func()) }); ok {
		body.BeforeWait(func() {})
	}
	body, err := io.ReadAll(response.Body)
	fmt.Fprintf(&text, "body: %q, whole: %v, trailers: %v, none: %v", body, err == nil, response.Trailer, response.Body == http.NoBody)
	return text.String()
}
