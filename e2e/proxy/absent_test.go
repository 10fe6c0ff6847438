package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// queued is how many requests wait for a backend.
const queued = 1000

// TestBackendStaysDown has more clients than may wait for a backend. The others get a 503 at once, at a cost that
// does not grow; Baton is ready and upgrades itself meanwhile. When the backend is back, whoever waits is answered.
func TestBackendStaysDown(t *testing.T) {
	refused := tier.Times(t, "clients that find the queue full", 200, 500, 9000)
	host := service.Loopback()
	address := host + ":" + service.FreePort(t, host)
	b := service.Start(t, service.Patient(), service.Args("-proxy", "/=http://"+address,
		"-proxy-wait", "10m", "-drain-timeout", "10m", "-upgrade-timeout", "2m"))

	q := &queue{b: b}
	q.add(t, queued)
	await.Until(t, "a full queue", func() bool { return b.Metric("baton_backend_waiting_requests") == queued })
	fill := func(n int) {
		await.InParallel(t, n, func(int) error {
			resp, err := http1.Fetch(b.Network, b.Address, "GET", "/")
			if err == nil && (resp.Status != 503 || resp.Header("Retry-After") == "") {
				err = fmt.Errorf("got %d with Retry-After %q, want 503 with one", resp.Status, resp.Header("Retry-After"))
			}
			return err
		})
	}
	fill(refused) // what so many at a time take once is there
	before := process.FootprintOf(t, b.PID()).Resident
	fill(refused)
	grown := process.FootprintOf(t, b.PID()).Resident - before
	t.Logf("%d MB with %d requests that wait, %d MB more after %d others", before>>10, queued, grown>>10, refused)
	if grown > 32<<10 {
		t.Errorf("memory: grew by %d MB", grown>>10)
	}
	if code := b.Probe("/readyz"); code != 200 {
		t.Errorf("readyz: got %d, want 200", code)
	}

	checked := service.UpgradeInBackground(t, b) // the predecessor drains as long as requests wait
	service.AwaitDrain(t, b)
	const more = 50
	q.add(t, more) // they wait in the successor
	await.Until(t, "requests that wait in the successor", func() bool { return b.Metric("baton_backend_waiting_requests") == more })
	if n := q.answered.Load(); n != 0 {
		t.Errorf("%d requests answered without a backend, want none", n)
	}

	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	var got atomic.Int64
	backend.Serve(t, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Add(1)
		backend.Sink(w, r)
	}))
	q.clients.Wait()
	t.Logf("the first of %d requests was answered %v after the backend's return, the last %v", queued+more,
		time.Unix(0, q.first.Load()).Sub(back).Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
	if n := q.answered.Load(); n != queued+more || got.Load() != n {
		t.Errorf("%d requests answered 200, %d delivered, want %d: %v", n, got.Load(), queued+more, q.failed.Load())
	}
	checked()
}

// queue are clients that wait, each on a connection of its own. Every other one has a body.
type queue struct {
	b        *service.Baton
	clients  sync.WaitGroup
	answered atomic.Int64
	first    atomic.Int64 // when the first one was, in nanoseconds since 1970
	failed   atomic.Value // the last error
}

func (q *queue) add(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		c := q.b.Dial()
		method, body := "GET", []byte(nil)
		if i%2 == 0 {
			method, body = "POST", bytes.Repeat([]byte("x"), 2000)
		}
		c.Send(t, string(http1.Request(method, "/", body)))
		q.clients.Go(func() {
			c.SetDeadline(time.Now().Add(5 * await.Hang))
			var resp http1.Response
			err := c.Receive(method, &resp)
			if err == nil && resp.Status != 200 {
				err = fmt.Errorf("got %d, want 200", resp.Status)
			}
			if err != nil {
				q.failed.Store(err.Error())
				return
			}
			q.first.CompareAndSwap(0, time.Now().UnixNano())
			q.answered.Add(1)
		})
	}
}

// The response distinguishes a backend that nobody serves from one that does not answer.
func TestNoAnswer(t *testing.T) {
	tier.Slow(t, "waits for a backend that hangs")
	t.Parallel()
	host := service.Loopback()
	closes, hangs := listen(t, (*net.TCPConn).Close), listen(t, func(c *net.TCPConn) error { _, err := io.Copy(io.Discard, c); return err })
	nonsense := listen(t, func(c *net.TCPConn) error { io.WriteString(c, "hello\r\n\r\n"); return c.CloseWrite() })
	b := service.Start(t, service.Args("-proxy-wait", "50ms", "-proxy-timeout", "2s",
		"-proxy", "/refused/=http://"+host+":"+service.FreePort(t, host), "-proxy", "/missing/=unix:DIR/missing",
		"-proxy", "/closes/=http://"+closes, "-proxy", "/nonsense/=http://"+nonsense, "-proxy", "/hangs/=http://"+hangs))
	for _, test := range []struct {
		path string
		want int
	}{{"/refused/", 503}, {"/missing/", 503}, {"/closes/", 502}, {"/nonsense/", 502}, {"/hangs/", 504}} {
		for _, method := range []string{"GET", "POST"} {
			resp, err := http1.Fetch(b.Network, b.Address, method, test.path)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Status != test.want || (resp.Header("Retry-After") != "") != (test.want == 503) {
				t.Errorf("%s %s: got %d with Retry-After %q, want %d", method, test.path, resp.Status, resp.Header("Retry-After"), test.want)
			}
		}
	}
	// It is no more than a warning, with one line for each.
	var flags []string
	for _, arg := range b.Setup.Args {
		flags = append(flags, b.Expand(arg))
	}
	code, _, stderr := b.Run(append([]string{"check", "-control", ""}, flags...)...)
	if code != 0 || strings.Count(stderr, "does not answer") != 2 {
		t.Errorf("check: got exit code %d, %q, want 0 and warnings about two backends", code, stderr)
	}
}

// listen serves each connection in some way, and then closes it.
func listen(t *testing.T, serve func(*net.TCPConn) error) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				stop := context.AfterFunc(t.Context(), func() { c.Close() })
				defer stop()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return ln.Addr().String()
}
