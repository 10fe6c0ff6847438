package transport

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/handlers/internal/testserver"
)

// A backend that takes nothing of a request for the header timeout has failed; one that takes it
// slowly has not.
func TestBackendThatStopsReading(t *testing.T) {
	for name, header := range map[string]int{"in the body": 10, "in the header": 32 << 20} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			b := listen(t, func(_ int, _ *net.TCPConn, _ *bufio.Reader) { <-stop })
			defer close(stop)
			b.transport.options.HeaderTimeout = 100 * time.Millisecond
			r := request(t, "POST", io.LimitReader(rand.NewChaCha8([32]byte{}), 1<<40))
			r.Header.Set("X", strings.Repeat("x", header))
			_, err := b.transport.RoundTrip(r)
			testserver.Equal(t, "progress", ProgressOf(err), Sent)
			testserver.Equal(t, "timeout", errors.Is(err, os.ErrDeadlineExceeded), true)
		})
	}
}

// The header timeout is for the time between the end of the request and the response's header.
func TestHeaderTimeout(t *testing.T) {
	for _, test := range []struct {
		name, body, response string
		want                 string
	}{
		{"all at once", "", plain, "bounded"},
		{"body of the response", "", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n|hi", "bounded unbounded"},
		{"body of the request", "body", plain, "unbounded bounded"},
		{"both", "body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n|hi", "unbounded bounded unbounded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bounded, waiting := make(chan struct{}), make(chan struct{})
			b := listen(t, func(_ int, conn *net.TCPConn, in *bufio.Reader) {
				readRequest(in)
				<-bounded
				header, body, _ := strings.Cut(test.response, "|")
				io.WriteString(conn, header)
				<-waiting
				io.WriteString(conn, body)
			})
			if err := b.transport.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			c := b.transport.idle.conns[0]
			deadlines := &recording{Conn: c.patient.Conn, bounded: sync.OnceFunc(func() { close(bounded) })}
			c.patient.Conn = deadlines
			response, err := b.transport.RoundTrip(request(t, "POST", strings.NewReader(test.body)))
			if err != nil {
				t.Fatal(err)
			}
			var wait interface{ BeforeWait(func()) } = response.Body.(*exchange)
			wait.BeforeWait(sync.OnceFunc(func() { close(waiting) }))
			body, err := io.ReadAll(response.Body)
			testserver.Equal(t, "body", string(body), "hi")
			testserver.Equal(t, "error", err, nil)
			testserver.Equal(t, "deadlines", strings.Join(deadlines.set, " "), test.want)
			if !strings.Contains(test.response, "|") {
				close(waiting)
			}
		})
	}
}

// recording remembers the read deadlines that were set.
type recording struct {
	net.Conn
	bounded func() // called for the first one

	mu  sync.Mutex
	set []string
}

func (r *recording) SetReadDeadline(at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.IsZero() {
		r.set = append(r.set, "unbounded")
		return nil
	}
	r.set = append(r.set, "bounded")
	r.bounded()
	return nil
}
