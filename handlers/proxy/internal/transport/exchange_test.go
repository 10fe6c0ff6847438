package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"example.com/baton/handlers/internal/testserver"
	"golang.org/x/sys/unix"
)

// What a backend reads is what was sent, whatever the body is.
func TestRequests(t *testing.T) {
	for _, test := range []struct {
		name   string
		method string
		body   io.Reader
		length int64
		want   string // fields and body
	}{
		{"none", "GET", nil, 0, ""},
		{"none, POST", "POST", nil, 0, "Content-Length: 0\n"},
		{"none, by NoBody", "PUT", http.NoBody, 0, "Content-Length: 0\n"},
		{"length", "POST", strings.NewReader("body"), 4, "Content-Length: 4\nbody"},
		{"length, GET", "GET", strings.NewReader("body"), 4, "Content-Length: 4\nbody"},
		{"more than the length", "POST", strings.NewReader("body and more"), 4, "Content-Length: 4\nbody"},
		{"chunks", "POST", strings.NewReader("body"), -1, "Transfer-Encoding: chunked\n4\nbody\n0\n\n"},
		{"no chunks", "POST", strings.NewReader(""), -1, "Transfer-Encoding: chunked\n0\n\n"},
		{"a piece and the end at once", "POST", &atOnce{"body"}, -1, "Transfer-Encoding: chunked\n4\nbody\n0\n\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := make(chan string, 1)
			b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
				text := new(bytes.Buffer)
				if _, err := http.ReadRequest(bufio.NewReader(io.TeeReader(in, text))); err != nil {
					t.Error(err)
				}
				for strings.Contains(test.want, "0\n\n") && !strings.HasSuffix(text.String(), "0\r\n\r\n") || strings.HasSuffix(test.want, "body") && !strings.HasSuffix(text.String(), "body") {
					next, err := in.ReadByte()
					if err != nil {
						t.Error(err)
						break
					}
					text.WriteByte(next)
				}
				more, _ := in.Peek(in.Buffered())
				got <- text.String() + string(more)
				io.WriteString(conn, plain)
			})
			r := request(t, test.method, nil)
			if test.body != nil {
				r.Body, r.ContentLength = io.NopCloser(test.body), test.length
				if test.body == http.NoBody {
					r.Body = http.NoBody
				}
			}
			r.Header["X-Two"] = []string{"1", "2"}
			r.Header.Set("User-Agent", "")         // what httputil sets if there is none
			r.Header.Set("Content-Length", "1000") // of net/http's server; what counts is ContentLength
			if _, body, err := b.get(t, r); body != "hi" {
				t.Fatalf("got %q, %v", body, err)
			}
			want := test.method + " /path?query HTTP/1.1\nHost: host\nX-Two: 1\nX-Two: 2\n"
			fields, body, _ := strings.Cut(test.want, "\n")
			if test.want != "" {
				want += fields + "\n"
			}
			want = strings.ReplaceAll(want+"\n"+body, "\n", "\r\n")
			testserver.Equal(t, "request", <-got, want)
		})
	}
}

// atOnce gives all and the end in one Read.
type atOnce struct{ text string }

func (a *atOnce) Read(p []byte) (int, error) { return copy(p, a.text), io.EOF }

func TestTrailersOfARequest(t *testing.T) {
	got := make(chan http.Header, 1)
	b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
		r, err := readRequest(in)
		if err != nil {
			t.Error(err)
			return
		}
		got <- r.Trailer
		io.WriteString(conn, plain)
	})
	r := request(t, "POST", nil)
	r.Trailer = http.Header{"A": nil, "B": nil}
	r.Body, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("body"), &calls{func() { r.Trailer["A"] = []string{"1", "2"} }})), -1
	if _, body, err := b.get(t, r); body != "hi" {
		t.Fatalf("got %q, %v", body, err)
	}
	testserver.Equal(t, "trailers", fmt.Sprint(<-got), "map[A:[1 2] B:[]]")
}

type calls struct{ f func() }

func (c *calls) Read([]byte) (int, error) { c.f(); return 0, io.EOF }

// A backend may answer before it has the request, and take the rest of it or not.
func TestEarlyResponse(t *testing.T) {
	for _, test := range []struct {
		name, response string
		status         int
	}{
		{"and closes", "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", 413},
		{"and closes without a word", "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", 413},
		{"and closes without a body", "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", 413},
		{"until the end", "HTTP/1.1 413 Too Large\r\n\r\nno", 413},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
				http.ReadRequest(in)
				io.WriteString(conn, test.response)
				conn.CloseWrite()
				conn.CloseRead() // a write of the proxy fails now or soon
			})
			r := request(t, "POST", io.LimitReader(rand.NewChaCha8([32]byte{}), 1<<40))
			response, err := b.transport.RoundTrip(r)
			if err != nil {
				t.Fatalf("got %v, want the response", err)
			}
			defer response.Body.Close()
			testserver.Equal(t, "status", response.StatusCode, test.status)
			body, _ := io.ReadAll(response.Body)
			testserver.Equal(t, "body", string(body), strings.Repeat("no", strings.Count(test.response, "no")))
		})
	}
}

// A backend that is too busy says so before it has read anything.
func TestResponseBeforeTheRequest(t *testing.T) {
	b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
		io.WriteString(conn, "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		conn.CloseWrite()
		io.Copy(io.Discard, in)
	})
	for range 20 {
		response, body, err := b.get(t, request(t, "POST", strings.NewReader("body")))
		if err != nil || response.StatusCode != 503 || body != "no" {
			t.Fatalf("got %v, %q, %v", response, body, err)
		}
	}
}

// The response to a request that is still being sent is not held up by it, nor the other way round.
func TestBothDirectionsAtOnce(t *testing.T) {
	b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
		io.Copy(conn, r.Body)
		if next, err := readRequest(in); err != nil || next.Method != "GET" { // the connection is used again
			t.Errorf("next request: %v", err)
		}
		io.WriteString(conn, plain)
	})
	up, writer := io.Pipe()
	r := request(t, "POST", up)
	r.ContentLength = 4
	response, err := b.transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		fmt.Fprint(writer, i)
		var got [1]byte
		if _, err := io.ReadFull(response.Body, got[:]); err != nil || got[0] != '0'+byte(i) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if n, err := response.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("at the end: got %d, %v", n, err)
	}
	if _, body, err := b.get(t, request(t, "GET", nil)); body != "hi" {
		t.Errorf("next: got %q, %v", body, err)
	}
}

// A response that is complete ends a request that is not.
func TestResponseIsCompleteFirst(t *testing.T) {
	for name, response := range map[string]string{"with a body": plain, "without": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
				http.ReadRequest(in)
				io.WriteString(conn, response)
				_, err := io.Copy(io.Discard, in)
				ended <- err
			})
			up, writer := io.Pipe()
			defer writer.Close()
			r := request(t, "POST", up)
			r.ContentLength = 4
			if _, _, err := b.get(t, r); err != nil {
				t.Fatal(err)
			}
			testserver.Equal(t, "idle connections", len(b.transport.idle.conns), 0)
			<-ended
		})
	}
}

func TestInterimResponses(t *testing.T) {
	big := "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("x", maxHeader/2) + "\r\n\r\n"
	b := listen(t, answer(big+big+big+plain))
	var codes []int
	refuse := errors.New("no more")
	trace := func(err error) context.Context {
		return httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			codes = append(codes, code)
			if len(header["X"]) != 1 {
				t.Errorf("header: got %d fields", len(header))
			}
			return err
		}})
	}
	_, body, err := b.get(t, request(t, "GET", nil).WithContext(trace(nil)))
	testserver.Equal(t, "body", body, "hi")
	testserver.Equal(t, "error", err, nil)
	testserver.Equal(t, "interim responses", fmt.Sprint(codes), "[103 103 103]")
	_, _, err = b.get(t, request(t, "GET", nil).WithContext(trace(refuse)))
	testserver.Equal(t, "error of the hook", errors.Is(err, refuse), true)
	testserver.Equal(t, "progress", ProgressOf(err), Aborted)
	_, _, err = b.get(t, request(t, "GET", nil)) // they count together if nobody looks at them
	testserver.Equal(t, "progress", ProgressOf(err), Answered)
}

// BeforeWait's function is called when there is nothing to read, and only then.
func TestBeforeWait(t *testing.T) {
	for _, test := range []struct {
		name  string
		parts []string // each comes when the one before was read, and there was a wait
		ends  bool
		waits int
	}{
		{"all at once", []string{plain}, false, 0},
		{"chunks at once", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"}, false, 0},
		{"header first", []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "hi"}, false, 1},
		{"in two", []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", "i"}, false, 1},
		{"within a chunk's size", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1", "\r\ni\r\n0\r\n\r\n"}, false, 1},
		{"before the last chunk", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "0\r\n\r\n"}, false, 1},
		{"each byte", []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "h", "i"}, false, 2},
		{"break", []string{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "hi"}, true, 2}, // a wait and the error
	} {
		t.Run(test.name, func(t *testing.T) {
			more := make(chan struct{}, len(test.parts)+1)
			b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
				readRequest(in)
				for i, part := range test.parts {
					if i > 0 {
						if _, ok := <-more; !ok {
							return
						}
					}
					io.WriteString(conn, part)
				}
				if test.ends {
					conn.CloseWrite()
				}
				<-more
			})
			defer close(more)
			response, err := b.transport.RoundTrip(request(t, "GET", nil))
			if err != nil {
				t.Fatal(err)
			}
			waits := 0
			response.Body.(interface{ BeforeWait(func()) }).BeforeWait(func() {
				waits++
				more <- struct{}{}
			})
			body, err := io.ReadAll(response.Body)
			testserver.Equal(t, "body", string(body), "hi")
			testserver.Equal(t, "failed", err != nil, test.ends)
			if test.ends { // the end may have to be waited for
				waits = min(waits, test.waits)
			}
			testserver.Equal(t, "waits", waits, test.waits)
			response.Body.Close()
		})
	}
}

// What has come already is read without a wait, though it has not been read with the header.
func TestNoWait(t *testing.T) {
	body := strings.Repeat("x", 20_000)
	b := listen(t, answer(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)))
	response, err := b.transport.RoundTrip(request(t, "GET", nil))
	if err != nil {
		t.Fatal(err)
	}
	x := response.Body.(*exchange)
	await(t, "the rest", func() (is bool) {
		x.conn.socket.raw.Control(func(fd uintptr) {
			n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
			is = err == nil && n+x.conn.in.Buffered() >= len(body)
		})
		return is
	})
	x.BeforeWait(func() { t.Error("waited") })
	got, err := io.ReadAll(response.Body)
	testserver.Equal(t, "error", err, nil)
	testserver.Equal(t, "body", string(got) == body, true)
}

// Who closes a body, maybe amid a Read, or leaves, ends the connection.
func TestResponseIsLeft(t *testing.T) {
	for name, leave := range map[string]func(body io.Closer, cancel func()){
		"closed":   func(body io.Closer, _ func()) { body.Close() },
		"canceled": func(_ io.Closer, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
				readRequest(in)
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhi")
				io.Copy(io.Discard, in)
				close(gone)
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			response, err := b.transport.RoundTrip(request(t, "GET", nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			waiting := make(chan struct{})
			response.Body.(interface{ BeforeWait(func()) }).BeforeWait(sync.OnceFunc(func() { close(waiting) }))
			read := make(chan error)
			go func() { _, err := io.ReadAll(response.Body); read <- err }()
			<-waiting
			leave(response.Body, cancel)
			if err := <-read; err == nil || name == "canceled" && !errors.Is(err, context.Canceled) {
				t.Errorf("read: got %v", err)
			}
			<-gone
			response.Body.Close()
			testserver.Equal(t, "idle connections", len(b.transport.idle.conns), 0)
		})
	}
}
