package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/service"
)

// slowly is a body that cannot be sent a second time, in pieces with pauses between.
type slowly struct{ rest []byte }

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	time.Sleep(10 * time.Millisecond)
	n := copy(p[:min(len(p), 3000)], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// net/http makes a request again whose connection was closed. So it gets one connection, and may not dial again, but
// for one that it has given up by itself: on a busy machine its goroutines miss each other, and it does not use the
// connection of an HTTP/1.1 request again, Transport.maxWriteWaitBeforeConnReuse.
func TestGo(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, way := range []struct {
		name  string
		http2 bool
		over  service.Over
		url   string
		each  int // requests at a time
	}{
		{"HTTP/1.1", false, service.Over{}, "http://" + s.Address, 1},
		{"HTTP/1.1 over TLS", false, s.over, "https://" + s.Secure(), 1},
		{"HTTP/2", true, service.Over{}, "http://" + s.Address, 2},
		{"HTTP/2 over TLS", true, s.over, "https://" + s.Secure(), 2},
	} {
		s.ask("Go, "+way.name, way.http2, way.over, way.url, way.each)
	}
	s.throughUpgrades(len(s.clients))
}

// noted is a connection of which it is known whether the client has closed it while the server had not.
type noted struct {
	net.Conn
	stop    <-chan struct{} // closed when the client has no more to ask
	count   *atomic.Int64   // of connections that were given up before that
	ended   atomic.Bool
	close   sync.Once
	closed  chan struct{}
	givenUp bool // when closed is
}

func (n *noted) Read(p []byte) (int, error) {
	read, err := n.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		n.ended.Store(true)
	}
	return read, err
}

func (n *noted) Close() (err error) {
	n.close.Do(func() {
		select {
		case <-n.stop:
		default:
			n.note()
		}
		err = n.Conn.Close()
		close(n.closed)
	})
	return err
}

// note finds out whether the server has closed the connection as well. What has come, such as the end after an alert of
// TLS, is not read by all.
func (n *noted) note() {
	if n.ended.Load() {
		return
	}
	n.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := n.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		n.givenUp = true
		n.count.Add(1)
	}
}

func (n *noted) isGivenUp(ctx context.Context) bool {
	select {
	case <-n.closed:
		return n.givenUp
	case <-ctx.Done():
		return false
	}
}

// ask has a client of this process take part.
func (s *stage) ask(name string, http2 bool, over service.Over, url string, atATime int) {
	c := &client{name: name}
	var mu sync.Mutex
	var last *noted
	stop := make(chan struct{})
	transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: over.Config.Clone(), MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, address string) (nc net.Conn, err error) {
			mu.Lock()
			defer mu.Unlock()
			if last != nil && (http2 || !last.isGivenUp(ctx)) {
				return nil, errors.New("it would connect again")
			}
			nc, err = new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			last = &noted{Conn: nc, stop: stop, count: &s.givenUp, closed: make(chan struct{})}
			return last, nil
		}}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	var asking sync.WaitGroup
	for i := range atATime {
		asking.Go(func() {
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := askOnce(&http.Client{Transport: transport}, url, n); err != nil {
					c.problem("%v", err)
					return
				}
				c.answered.Add(1)
			}
		})
	}
	c.end = func() {
		close(stop)
		asking.Wait()
		transport.CloseIdleConnections()
	}
	s.add(c)
}

func askOnce(client *http.Client, url string, n int) error {
	method, path, want := http.MethodGet, "/fixed/1000", exchange.Pattern(1000)
	var body io.Reader
	switch n % 4 {
	case 1:
		method, path, want = http.MethodPost, "/echo", exchange.Pattern(60_000)
		body = &slowly{want}
	case 3:
		path, want = "/drip/300000", exchange.Pattern(300_000)
	}
	ctx, cancel := context.WithTimeout(context.Background(), await.Hang)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url+path, body)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
	case resp.Close:
		err = fmt.Errorf("%s %s: got Connection: close", method, path)
	case resp.StatusCode != 200 || !bytes.Equal(got, want):
		err = fmt.Errorf("%s %s: got %s, %d bytes, want 200, %d bytes", method, path, resp.Status, len(got), len(want))
	}
	return err
}
