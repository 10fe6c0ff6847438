package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m) }

// backend is one that does on each connection what a test wants.
type backend struct {
	transport *Transport
	listener  net.Listener

	mu       sync.Mutex
	conns    []net.Conn
	serving  sync.WaitGroup
	accepted int
}

// listen starts a backend. serve gets the connections, the first one as number 1.
func listen(t testing.TB, serve func(number int, conn *net.TCPConn, in *bufio.Reader)) *backend {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{listener: listener}
	b.transport = New(Options{Network: "tcp", Address: listener.Addr().String(), HeaderTimeout: time.Minute, Logger: testserver.Discard()})
	b.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.accepted++
			number := b.accepted
			b.conns = append(b.conns, conn)
			b.mu.Unlock()
			b.serving.Go(func() {
				defer conn.Close()
				serve(number, conn.(*net.TCPConn), bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() {
		b.transport.KeepIdle(false)
		listener.Close()
		b.mu.Lock()
		for _, conn := range b.conns {
			conn.Close()
		}
		b.mu.Unlock()
		b.serving.Wait()
	})
	return b
}

// answer returns what reads requests with their bodies and gives each of them the next response, the
// last one to all that come then.
func answer(responses ...string) func(int, *net.TCPConn, *bufio.Reader) {
	return func(_ int, conn *net.TCPConn, in *bufio.Reader) {
		for i := 0; ; i++ {
			if _, err := readRequest(in); err != nil {
				return
			}
			response := responses[min(i, len(responses)-1)]
			io.WriteString(conn, strings.TrimSuffix(response, ends))
			if strings.HasSuffix(response, ends) {
				return
			}
		}
	}
}

// ends is behind a response with which the connection ends.
const ends = "<end>"

func readRequest(in *bufio.Reader) (*http.Request, error) {
	r, err := http.ReadRequest(in)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	return r, err
}

func request(t testing.TB, method string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://host/path?query", body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// get sends a request and reads the whole response.
func (b *backend) get(t testing.TB, r *http.Request) (response *http.Response, body string, err error) {
	t.Helper()
	response, err = b.transport.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	read, err := io.ReadAll(response.Body)
	response.Body.Close()
	return response, string(read), err
}

const plain = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

func TestConnectionIsUsedAgain(t *testing.T) {
	for _, test := range []struct {
		name, method, response string
		again                  bool
	}{
		{"length", "GET", plain, true},
		{"no body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", true},
		{"304 with the length of the file", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", true},
		{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true},
		{"HEAD without a length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", true},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\n\r\n", true},
		{"trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nhi\r\n0\r\nX: 1\r\n\r\n", true},
		{"interim", "GET", "HTTP/1.1 103 Early Hints\r\n\r\n" + plain, true},
		{"HTTP/1.0, keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", true},
		{"a long promise", "GET", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 2\r\n\r\nhi", true},
		{"no promise", "GET", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nhi", false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", false},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", false},
		{"close among others", "GET", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nhi", false},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nhi" + ends, false},
		{"more than the length", "GET", plain + "!", false},
		{"another response", "GET", plain + plain, false},
		{"more than the chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nmore", false},
		{"204 with a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", false},
		{"304 with a body", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi", false},
		{"HEAD with a body", "HEAD", plain, false},
		{"the end behind it", "GET", plain + ends, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := listen(t, answer(test.response))
			for range 3 {
				if _, _, err := b.get(t, request(t, test.method, nil)); err != nil {
					if test.name == "the end behind it" && ProgressOf(err) == Sent { // it has not come yet when the next request is sent
						continue
					}
					t.Fatal(err)
				}
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if got := b.accepted == 1; got != test.again {
				t.Errorf("%d connections for 3 requests, want them to be used again: %v", b.accepted, test.again)
			}
		})
	}
}

// The log says what a backend has sent on a connection that is not used again.
func TestUnsolicitedBytesAreLogged(t *testing.T) {
	for more, want := range map[string]string{"": "", "!": "!", plain: plain, "HTTP/1.1 408 Timeout\r\n\r\n": "", strings.Repeat("x", 1000): strings.Repeat("x", 64)} {
		for _, late := range []bool{false, true} {
			next := make(chan struct{})
			b := listen(t, func(number int, conn *net.TCPConn, in *bufio.Reader) {
				readRequest(in)
				if number > 1 {
					io.WriteString(conn, plain)
				} else if late {
					io.WriteString(conn, plain)
					<-next
					io.WriteString(conn, more)
				} else {
					io.WriteString(conn, plain+more)
				}
				readRequest(in)
			})
			logged, logger := testserver.Capture()
			b.transport.options.Logger = logger
			b.get(t, request(t, "GET", nil))
			close(next)
			if more != "" {
				await(t, "the bytes", func() bool {
					if len(b.transport.idle.conns) == 0 {
						return true
					}
					quiet, _ := b.transport.idle.conns[0].isQuiet()
					return !quiet
				})
			}
			b.get(t, request(t, "GET", nil))
			var got string
			for _, line := range logged.With("backend sent bytes that belong to no response") {
				got += line["begin"].(string)
			}
			testserver.Equal(t, fmt.Sprintf("logged for %.20q, late %v", more, late), got, want)
		}
	}
}

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: did not come", what)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestProgress(t *testing.T) {
	refused := listen(t, nil)
	refused.listener.Close()
	missing := &backend{transport: New(Options{Network: "unix", Address: t.TempDir() + "/socket", HeaderTimeout: time.Minute})}
	says := func(text string) *backend {
		return listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
			http.ReadRequest(in)
			io.WriteString(conn, text)
		})
	}
	silent := func() *backend {
		b := listen(t, func(_ int, _ *net.TCPConn, in *bufio.Reader) { io.Copy(io.Discard, in) })
		b.transport.options.HeaderTimeout = 50 * time.Millisecond
		return b
	}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("broken")
	for _, test := range []struct {
		name    string
		backend *backend
		request *http.Request
		want    Progress
		timeout bool
	}{
		{"refused", refused, request(t, "GET", nil), Unreached, false},
		{"socket is missing", missing, request(t, "GET", nil), Unreached, false},
		{"the end instead of a response", says(""), request(t, "GET", nil), Sent, false},
		{"the same, with a body", says(""), request(t, "POST", strings.NewReader("x")), Sent, false},
		{"nonsense", says("SSH-2.0-x\r\n"), request(t, "GET", nil), Answered, false},
		{"a byte", says("H"), request(t, "GET", nil), Answered, false},
		{"half a header", says("HTTP/1.1 200 OK\r\nContent-Len"), request(t, "GET", nil), Answered, false},
		{"only an interim response", says("HTTP/1.1 103 Early Hints\r\n\r\n"), request(t, "GET", nil), Answered, false},
		{"two lengths", says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), request(t, "GET", nil), Answered, false},
		{"a coding that is unknown", says("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab"), request(t, "GET", nil), Answered, false},
		{"a large header", says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHeader) + "\r\n\r\n"), request(t, "GET", nil), Answered, false},
		{"many interim responses", says(strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 1000)+"\r\n\r\n", 1100)), request(t, "GET", nil), Answered, false},
		{"silence", silent(), request(t, "GET", nil), Sent, true},
		{"silence after a body", silent(), request(t, "POST", strings.NewReader("x")), Sent, true},
		{"client has left", silent(), request(t, "GET", nil).WithContext(impatient), Aborted, false},
		{"client has left, in a dial", refused, request(t, "GET", nil).WithContext(impatient), Aborted, false},
		{"body cannot be read", silent(), request(t, "POST", failing{broken}), Aborted, false},
		{"body is shorter", silent(), func() *http.Request {
			r := request(t, "POST", io.NopCloser(strings.NewReader("x")))
			r.ContentLength = 2
			return r
		}(), Aborted, false},
		{"a length without a body", silent(), func() *http.Request { r := request(t, "POST", nil); r.ContentLength = 2; return r }(), Aborted, false},
		{"invalid field", silent(), func() *http.Request { r := request(t, "GET", nil); r.Header.Set("X", "a\nb: c"); return r }(), Aborted, false},
		{"invalid name", silent(), func() *http.Request { r := request(t, "GET", nil); r.Header["X Y"] = []string{"z"}; return r }(), Aborted, false},
		{"invalid method", silent(), func() *http.Request { r := request(t, "GET", nil); r.Method = "GET /x"; return r }(), Aborted, false},
		{"invalid host", silent(), func() *http.Request { r := request(t, "GET", nil); r.Host = "a\r\nb"; return r }(), Aborted, false},
		{"invalid query", silent(), func() *http.Request { r := request(t, "GET", nil); r.URL.RawQuery = "a HTTP/1.1\r\n"; return r }(), Aborted, false},
		{"invalid trailer", silent(), func() *http.Request {
			r := request(t, "POST", io.MultiReader())
			r.Trailer = http.Header{"Content-Length": nil}
			return r
		}(), Aborted, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			closed := make(chan struct{})
			if r := test.request; r.Body != nil {
				r.Body = closing{r.Body, closed}
			} else {
				close(closed)
			}
			response, err := test.backend.transport.RoundTrip(test.request)
			if err == nil {
				response.Body.Close()
				t.Fatalf("got %v, want an error", response.Status)
			}
			if got := ProgressOf(err); got != test.want {
				t.Errorf("progress of %v: got %d, want %d", err, got, test.want)
			}
			var timeout net.Error
			if got := errors.As(err, &timeout) && timeout.Timeout(); got != test.timeout {
				t.Errorf("%v is a timeout: %v, want %v", err, got, test.timeout)
			}
			<-closed
		})
	}
}

// closing tells that a body was closed.
type closing struct {
	io.ReadCloser
	closed chan struct{}
}

func (c closing) Close() error {
	close(c.closed)
	return c.ReadCloser.Close()
}

// Of a request that was lost with an idle connection before anything of it was sent, the caller
// learns nothing; of one that was sent it does.
func TestUnsent(t *testing.T) {
	b := listen(t, answer(plain))
	for range 3 {
		if err := b.transport.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.transport.idle.mu.Lock()
	for _, c := range b.transport.idle.conns {
		c.stream = unwritable{c.stream}
	}
	b.transport.idle.mu.Unlock()
	if _, body, err := b.get(t, request(t, "POST", strings.NewReader("x"))); body != "hi" {
		t.Errorf("got %q, %v", body, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	testserver.Equal(t, "connections", b.accepted, 4)
}

type unwritable struct{ net.Conn }

func (u unwritable) Write([]byte) (int, error) { return 0, fmt.Errorf("write: %w", net.ErrClosed) }
func (u unwritable) Read([]byte) (int, error)  { return 0, io.EOF }

func TestProbe(t *testing.T) {
	b := listen(t, answer(plain))
	if err := b.transport.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, body, err := b.get(t, request(t, "GET", nil)); body != "hi" {
		t.Errorf("got %q, %v", body, err)
	}
	b.mu.Lock()
	testserver.Equal(t, "connections", b.accepted, 1)
	b.mu.Unlock()
	b.listener.Close()
	b.transport.KeepIdle(false)
	testserver.Equal(t, "progress", ProgressOf(b.transport.Probe(t.Context())), Unreached)
}
