package clients

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
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

// net/http makes a request again whose connection was closed. So it gets one connection, and may not dial again.
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

// ask has a client of this process take part.
func (s *stage) ask(name string, http2 bool, over service.Over, url string, atATime int) {
	c := &client{name: name}
	var dialled sync.Once
	transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: over.Config.Clone(), MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, address string) (nc net.Conn, err error) {
			err = fmt.Errorf("it would connect again")
			dialled.Do(func() { nc, err = new(net.Dialer).DialContext(ctx, network, address) })
			return nc, err
		}}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	stop := make(chan struct{})
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
	if err == nil && (resp.StatusCode != 200 || !bytes.Equal(got, want)) {
		err = fmt.Errorf("%s %s: got %s, %d bytes, want 200, %d bytes", method, path, resp.Status, len(got), len(want))
	}
	return err
}
