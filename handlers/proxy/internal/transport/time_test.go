package transport

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

// piped is an exchange with a backend that is the other end of a pipe.
type piped struct {
	transport *Transport
	conn      *conn
	backend   net.Conn
	in        *bufio.Reader // of backend
	began     time.Time
	serving   sync.WaitGroup
}

// overPipe runs the test in a bubble where no time passes but what is waited for.
func overPipe(t *testing.T, test func(t *testing.T, p *piped)) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		p := &piped{transport: New(Options{HeaderTimeout: 10 * time.Second}), backend: far, in: bufio.NewReader(far), began: time.Now()}
		p.conn = &conn{patient: patient{Conn: near, timeout: 10 * time.Second}, abort: func() { near.Close() }}
		p.conn.stream, p.conn.in = &p.conn.patient, bufio.NewReader(p.conn)
		defer p.serving.Wait()
		defer near.Close()
		defer far.Close()
		defer p.transport.KeepIdle(false)
		test(t, p)
	})
}

func (p *piped) send(t *testing.T, r *http.Request) (*http.Response, error) {
	header, err := appendHeader(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	response, _, err := p.transport.exchange(p.conn, r, header)
	return response, err
}

func (p *piped) passed() time.Duration { return time.Since(p.began) }

// watched is empty, and calls a function when it is read.
type watched struct{ read func() }

func (w *watched) Read([]byte) (int, error) {
	w.read()
	return 0, io.EOF
}

func TestExpectContinue(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer string // to the header
		after  time.Duration
		events string // interim responses that the caller gets, and that its body is read
	}{
		{"100", "HTTP/1.1 100 Continue\r\n\r\n", 0, "100, read"},
		{"another interim response, and 100", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", 0, "103, 100, read"},
		{"two of them", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", 0, "100, read"},
		{"nothing", "", continueTimeout, "100, read"},
		{"another interim response", "HTTP/1.1 103 Early Hints\r\n\r\n", continueTimeout, "103, 100, read"},
		{"the response", "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n", -1, ""},
		{"the response, and the connection ends", "HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\n", -1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			overPipe(t, func(t *testing.T, p *piped) {
				done := make(chan struct{})
				p.serving.Go(func() {
					defer close(done)
					if _, err := http.ReadRequest(p.in); err != nil {
						t.Error(err)
					}
					io.WriteString(p.backend, test.answer)
					p.backend.SetReadDeadline(time.Now().Add(2 * continueTimeout))
					body := make([]byte, 4)
					n, err := io.ReadFull(p.in, body)
					if test.after < 0 {
						testserver.Equal(t, "body", string(body[:n]), "")
						testserver.Equal(t, "error", errors.Is(err, os.ErrDeadlineExceeded), true)
					} else {
						testserver.Equal(t, "body", string(body), "body")
						testserver.Equal(t, "after", p.passed(), test.after)
					}
					if !strings.Contains(test.answer, " 403 ") {
						io.WriteString(p.backend, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
					}
					io.WriteString(p.backend, "ok")
				})
				var mu sync.Mutex
				var events []string
				happened := func(event string) {
					mu.Lock()
					defer mu.Unlock()
					events = append(events, event)
				}
				r := request(t, "POST", io.MultiReader(&watched{func() { happened("read") }}, strings.NewReader("body")))
				r = r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
						happened(strconv.Itoa(code))
						return nil
					}}))
				r.ContentLength = 4
				r.Header.Set("Expect", "100-Continue")
				response, err := p.send(t, r)
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(response.Body)
				testserver.Equal(t, "body of the response", string(got), "ok")
				<-done
				testserver.Equal(t, "events", strings.Join(events, ", "), test.events)
			})
		})
	}
}

// A response's header may take ten seconds from the end of the request, and not one more.
func TestHeaderTimeoutBegins(t *testing.T) {
	for _, test := range []struct {
		name         string
		body, answer time.Duration // what these take
		late         bool
	}{
		{"at once", 0, 0, false},
		{"just in time", 0, 10*time.Second - 1, false},
		{"late", 0, 10*time.Second + 1, true},
		{"after a slow body", time.Minute, 10*time.Second - 1, false},
		{"late after a slow body", time.Minute, 10*time.Second + 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			overPipe(t, func(t *testing.T, p *piped) {
				p.serving.Go(func() {
					if _, err := readRequest(p.in); err == nil {
						time.Sleep(test.answer)
						io.WriteString(p.backend, "HTTP/1.1 103 Early Hints\r\n\r\n"+plain)
					}
				})
				r := request(t, "POST", io.MultiReader(&sleeps{test.body}, strings.NewReader("body")))
				r.ContentLength = 4
				response, err := p.send(t, r)
				testserver.Equal(t, "timeout", errors.Is(err, os.ErrDeadlineExceeded), test.late)
				if err == nil {
					response.Body.Close()
				} else {
					testserver.Equal(t, "progress", ProgressOf(err), Sent)
				}
			})
		})
	}
}

type sleeps struct{ d time.Duration }

func (s *sleeps) Read([]byte) (int, error) { time.Sleep(s.d); return 0, io.EOF }

// Once there is a header, the rest may take as long as it likes, whenever the request ends.
func TestSlowResponse(t *testing.T) {
	overPipe(t, func(t *testing.T, p *piped) {
		p.serving.Go(func() {
			http.ReadRequest(p.in)
			io.WriteString(p.backend, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na")
			io.ReadFull(p.in, make([]byte, 4)) // in 30 s
			time.Sleep(time.Minute)
			io.WriteString(p.backend, "b")
			time.Sleep(time.Minute)
			io.WriteString(p.backend, "cd")
		})
		r := request(t, "POST", io.MultiReader(&sleeps{30 * time.Second}, strings.NewReader("body")))
		r.ContentLength = 4
		response, err := p.send(t, r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		testserver.Equal(t, "body", string(body), "abcd")
		testserver.Equal(t, "error", err, nil)
		testserver.Equal(t, "idle connections", len(p.transport.idle.conns), 1)
	})
}

// What is said after a 101 has no deadline.
func TestUpgradeIsUnbounded(t *testing.T) {
	overPipe(t, func(t *testing.T, p *piped) {
		p.serving.Go(func() {
			http.ReadRequest(p.in)
			io.WriteString(p.backend, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			time.Sleep(time.Hour)
			io.Copy(p.backend, p.in)
		})
		response, err := p.send(t, request(t, "GET", nil))
		if err != nil {
			t.Fatal(err)
		}
		up := response.Body.(*Upgraded)
		io.WriteString(up, "hi")
		got := make([]byte, 2)
		_, err = io.ReadFull(up, got)
		testserver.Equal(t, "error", err, nil)
		testserver.Equal(t, "echo", string(got), "hi")
		up.Close()
	})
}

// A backend that takes something within each ten seconds is slow; one that does not has failed.
func TestSlowBackend(t *testing.T) {
	overPipe(t, func(t *testing.T, p *piped) {
		p.serving.Go(func() {
			http.ReadRequest(p.in)
			for range 3 {
				time.Sleep(9 * time.Second)
				io.ReadFull(p.backend, make([]byte, 1000))
			}
		})
		_, err := p.send(t, request(t, "POST", strings.NewReader(strings.Repeat("x", 20_000))))
		testserver.Equal(t, "timeout", errors.Is(err, os.ErrDeadlineExceeded), true)
		testserver.Equal(t, "progress", ProgressOf(err), Sent)
		testserver.Equal(t, "after", p.passed(), 40*time.Second)
	})
}

// A backend may have answered although it takes nothing of the request. That connection is not used again.
func TestAnswerWithoutARequest(t *testing.T) {
	for answer, want := range map[string]string{plain: "hi", "": ""} {
		overPipe(t, func(t *testing.T, p *piped) {
			p.conn.stream = deafStream{p.conn.stream, strings.NewReader(answer)}
			response, err := p.send(t, request(t, "POST", strings.NewReader("body")))
			if want == "" {
				testserver.Equal(t, "progress", ProgressOf(err), Unsent)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			testserver.Equal(t, "body", string(body), want)
			testserver.Equal(t, "idle connections", len(p.transport.idle.conns), 0)
		})
	}
}

type deafStream struct {
	net.Conn
	answer io.Reader
}

func (deafStream) Write([]byte) (int, error)    { return 0, net.ErrClosed }
func (s deafStream) Read(p []byte) (int, error) { return s.answer.Read(p) }

// A client that leaves ends the exchange wherever it is.
func TestClientLeaves(t *testing.T) {
	overPipe(t, func(t *testing.T, p *piped) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		p.serving.Go(func() { io.Copy(io.Discard, p.in) })
		_, err := p.send(t, request(t, "GET", nil).WithContext(ctx))
		testserver.Equal(t, "progress", ProgressOf(err), Aborted)
		testserver.Equal(t, "error", errors.Is(err, context.DeadlineExceeded), true)
		testserver.Equal(t, "after", p.passed(), 3*time.Second)
	})
}
