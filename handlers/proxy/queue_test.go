package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/handlers/internal/testserver"
)

// dead returns a proxy whose only backend is not there, and that address.
func dead(t *testing.T, wait time.Duration) (p *Proxy, backend string) {
	t.Helper()
	backend = refused(t)
	return start(t, Options{Rules: rules(t, "/=http://"+backend), Wait: wait, Logger: testserver.Discard()}), backend
}

// comes serves h at an address that was refused so far.
func comes(t *testing.T, address string, h http.HandlerFunc) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(listener)
	t.Cleanup(func() { srv.Close() })
}

func echoBody(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Write(body)
}

func TestClientThatLeavesTheQueue(t *testing.T) {
	for _, test := range []struct{ name, request string }{
		{"without a body", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"with a body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"},
		{"within the body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell"},
		{"within a chunk", "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell"},
		{"at the bound", fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", 64<<10, strings.Repeat("x", 64<<10))},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, _ := dead(t, time.Hour)
			address, _ := serve(t, p)
			var conns []net.Conn
			for range 10 {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				io.WriteString(conn, test.request)
				conns = append(conns, conn)
			}
			await(t, "10 requests wait", func() bool { return p.Waiting() == 10 })
			for _, conn := range conns[:9] {
				conn.Close()
			}
			await(t, "1 request waits", func() bool { return p.Waiting() == 1 })
			conns[9].Close()
			await(t, "none waits", func() bool { return p.Waiting() == 0 })
		})
	}
}

func TestStreamThatLeavesTheQueue(t *testing.T) {
	p, backend := dead(t, time.Hour)
	address, _ := serve(t, p)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	ctx, leave := context.WithCancel(t.Context())
	var left, rest sync.WaitGroup
	for _, body := range []string{"", "hello"} {
		left.Go(func() {
			request, _ := http.NewRequestWithContext(ctx, "POST", "http://"+address, strings.NewReader(body))
			if response, err := client.Do(request); err == nil {
				response.Body.Close()
				t.Error("it was answered")
			}
		})
		rest.Go(func() {
			request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+address, strings.NewReader(body))
			response, err := client.Do(request)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			got, _ := io.ReadAll(response.Body)
			testserver.Equal(t, "body", string(got), body)
		})
	}
	await(t, "4 requests wait", func() bool { return p.Waiting() == 4 })
	leave()
	left.Wait()
	await(t, "2 requests wait", func() bool { return p.Waiting() == 2 })
	comes(t, backend, echoBody)
	rest.Wait()
}

// Requests that wait when a drain begins are answered before it ends.
func TestDrainWhileWaiting(t *testing.T) {
	p, backend := dead(t, time.Hour)
	address, drain := serve(t, p)
	client := newClient(t)
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			body := strings.Repeat(fmt.Sprint(i), 10_000)
			request, _ := http.NewRequestWithContext(t.Context(), []string{"GET", "POST"}[i%2], "http://"+address, strings.NewReader(body))
			response, err := client.Do(request)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			got, _ := io.ReadAll(response.Body)
			testserver.Equal(t, "body is the same", string(got) == body, true)
		})
	}
	await(t, "20 requests wait", func() bool { return p.Waiting() == 20 })
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		drain()
	}()
	await(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	testserver.Equal(t, "waiting", p.Waiting(), 20)
	comes(t, backend, echoBody)
	clients.Wait()
	<-drained
}

// A client that is still sending when its request has waited in vain is answered, and what it sends
// is not taken for another request.
func TestWaitInVainWithinBody(t *testing.T) {
	t.Parallel()
	p, _ := dead(t, 50*time.Millisecond)
	address, _ := serve(t, p)
	for _, sent := range []int{0, 1, len(smuggled), 3 * len(smuggled)} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		body := strings.Repeat(smuggled, 3)
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:sent])
		in := bufio.NewReader(conn)
		response, err := final(in)
		if err != nil {
			t.Fatal(err)
		}
		testserver.Equal(t, "status", response.StatusCode, http.StatusServiceUnavailable)
		testserver.Equal(t, "Retry-After", response.Header.Get("Retry-After"), retryAfter)
		io.WriteString(conn, body[sent:])
		if !response.Close {
			io.WriteString(conn, "GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
			if _, err := final(in); err != nil {
				t.Errorf("%d bytes sent: next request: %v", sent, err)
			}
		}
		conn.(*net.TCPConn).CloseWrite()
		if more, _ := io.ReadAll(in); len(more) > 0 {
			t.Errorf("%d bytes sent: got %q behind the answers", sent, more)
		}
	}
}

// However many come, 1,000 wait, with 64 KiB of their bodies, and nothing is left of them.
func TestTenThousandClients(t *testing.T) {
	tier.Slow(t, "makes many requests")
	p, backend := dead(t, time.Hour)
	var answered, tooMany atomic.Int64
	wave := func(ctx context.Context, clients *sync.WaitGroup, n int) {
		for range n {
			clients.Go(func() {
				body := io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<10)), io.LimitReader(zeros{}, 199<<10))
				request := httptest.NewRequestWithContext(ctx, "POST", "/", io.NopCloser(body))
				request.ContentLength = 200 << 10
				w := httptest.NewRecorder()
				defer func() {
					if recover() == nil && w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") != "" {
						tooMany.Add(1)
					} else if w.Code == http.StatusOK && ctx.Err() == nil {
						answered.Add(1)
					}
				}()
				p.ServeHTTP(w, request)
			})
		}
	}
	var before, during, after runtime.MemStats
	for round := range 3 {
		tooMany.Store(0)
		ctx, leave := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		wave(ctx, &clients, 10_000)
		await(t, "9,000 are refused", func() bool { return tooMany.Load() == 9000 })
		testserver.Equal(t, "waiting", p.Waiting(), 1000)
		runtime.GC()
		runtime.ReadMemStats(&during)
		leave()
		clients.Wait()
		testserver.Equal(t, "waiting when all have left", p.Waiting(), 0)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if round == 0 {
			before = after
		}
		if during.HeapAlloc > 256<<20 || after.HeapAlloc > before.HeapAlloc+16<<20 {
			t.Errorf("%d MiB with 1,000 that wait, %d MiB after, %d MiB in the first round", during.HeapAlloc>>20, after.HeapAlloc>>20, before.HeapAlloc>>20)
		}
	}
	var clients sync.WaitGroup
	wave(t.Context(), &clients, 1000)
	await(t, "1,000 wait", func() bool { return p.Waiting() == 1000 })
	comes(t, backend, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	clients.Wait()
	testserver.Equal(t, "answered", answered.Load(), 1000)
	t.Logf("%d MiB with 1,000 that wait, %d MiB after", during.HeapAlloc>>20, after.HeapAlloc>>20)
}
