package tls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Handshakes that are under way when the service is upgraded, and those that never end.

// point is where a client halts in its handshake: in its first or second flight, after so many bytes of that.
type point struct {
	name          string
	flight, bytes int
}

var points = []point{
	{"connected", 1, 0},
	{"within the header of the first record", 1, 3},
	{"within the hello", 1, 100},
	{"hello sent", 2, 0}, // the server has answered it
	{"within the second flight", 2, 20},
}

// halting is the socket of a client that halts once.
type halting struct {
	net.Conn
	at     point
	halted func()          // called there
	resume <-chan struct{} // closed when it may go on

	flight, sent int
	heard        bool // the server has answered the flight
	over         atomic.Bool
}

func (h *halting) Read(p []byte) (int, error) {
	if !h.over.Load() {
		h.heard = true
	}
	return h.Conn.Read(p)
}

// Write is not called concurrently with Read before the handshake is done.
func (h *halting) Write(p []byte) (int, error) {
	if h.over.Load() {
		return h.Conn.Write(p)
	}
	if h.flight == 0 || h.heard {
		h.flight, h.sent, h.heard = h.flight+1, 0, false
	}
	before := 0
	if h.flight == h.at.flight && h.sent+len(p) > h.at.bytes {
		before = h.at.bytes - h.sent
		if _, err := h.Conn.Write(p[:before]); err != nil {
			return 0, err
		}
		h.over.Store(true)
		h.halted()
		<-h.resume
	}
	n, err := h.Conn.Write(p[before:])
	h.sent += before + n
	return before + n, err
}

// halt connects a client that halts at a point, if it gets there. result gives what came of its handshake and one request.
func halt(address string, at point, config *tls.Config, halted func(), resume <-chan struct{}, anew *atomic.Int64) (result <-chan error) {
	done := make(chan error, 1)
	go func() {
		halted := sync.OnceFunc(halted)
		defer halted()
		done <- func() error {
			nc, err := net.DialTimeout("tcp", address, 10*time.Second)
			if err != nil {
				return err
			}
			c, secure, err := overSocket(&halting{Conn: nc, at: at, halted: halted, resume: resume}, config)
			if err != nil {
				return fmt.Errorf("%s: %w", at.name, err)
			}
			defer c.Close()
			if secure.ConnectionState().NegotiatedProtocol == "h2" {
				err = leaveHTTP2(secure, address, config, anew)
			} else {
				err = leave(c)
			}
			if err != nil {
				return fmt.Errorf("%s, handshake done: %w", at.name, err)
			}
			return nil
		}()
	}()
	return done
}

// leaveHTTP2 makes one request on a connection for HTTP/2. If the service has asked by then, in a GOAWAY, to make none,
// it is made on another one, once: that is in order (RFC 9113, section 6.8), and the client knows that nothing is lost. anew counts these.
func leaveHTTP2(secure *tls.Conn, address string, config *tls.Config, anew *atomic.Int64) error {
	var dialled atomic.Int64
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			switch dialled.Add(1) {
			case 1:
				return secure, nil
			case 2:
				anew.Add(1)
				return tls.Dial("tcp", address, config)
			}
			return nil, errors.New("the second connection did not take the request either")
		},
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(httptest.NewRequest("GET", "https://"+http1.Host+"/100.bin", nil))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.ProtoMajor != 2 || resp.StatusCode != 200 || len(body) != 100) {
		err = fmt.Errorf("got %s %s, %d bytes, want HTTP/2, 200, 100", resp.Proto, resp.Status, len(body))
	}
	return err
}

// Whoever has accepted a connection completes its handshake and its request, however long ago the drain
// began. Those that have only connected are silent, and have the grace to begin.
func TestHandshakesThroughAnUpgrade(t *testing.T) {
	tier.Slow(t, "holds handshakes at each message")
	t.Parallel()
	const beginners = 90
	clients := tier.Times(t, "clients", 0, 200, 500) // that have sent their hello
	grace := await.Unhurried(4 * time.Second)        // much more than it takes to see that the drain has begun
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(certFile, keyFile), service.Files(t), service.Args("-idle-grace", grace.String(), "-read-header-timeout", "2m", "-drain-timeout", "10m"))
	address := b.Secure()
	regulars := newRegulars(t, 20, certFile)
	regulars.visit(t, b) // some of those under way resume a session
	strangers := newRegulars(t, 2, certFile)
	http2 := certificate.Trusting(t, []string{certFile}, "h2")

	var halted sync.WaitGroup
	halted.Add(clients + beginners)
	type waiting struct {
		resume chan struct{}
		result <-chan error
	}
	var during, silent, afterwards []waiting
	var anew atomic.Int64 // clients of HTTP/2 that had to connect twice
	for i := range clients + beginners {
		at := points[3+i%2]
		if i >= clients {
			at = points[i%3]
		}
		var config *tls.Config
		switch i % 8 {
		case 0, 1, 2:
			config = regulars[i%len(regulars)]
		case 3, 4, 5:
			config = strangers[i%len(strangers)].Clone()
			config.ClientSessionCache = nil
		default:
			config = http2
		}
		w := waiting{resume: make(chan struct{})}
		w.result = halt(address, at, config, halted.Done, w.resume, &anew)
		switch {
		case i%5 == 0:
			during = append(during, w)
		case at.flight == 1 && at.bytes == 0:
			silent = append(silent, w)
		default:
			afterwards = append(afterwards, w)
		}
	}
	halted.Wait()
	await.Until(t, "all connections", func() bool { return b.Connections() == clients+beginners })

	// And some whose handshake begins at any moment of it.
	visits := keepVisiting(address, slices.Repeat([]*tls.Config{trustingHTTP1(t, certFile)}, 4), nil)
	predecessor := b.PID()
	result := b.UpgradeMeanwhile()
	released := make(chan struct{})
	go func() {
		defer close(released)
		for _, w := range during {
			close(w.resume)
			time.Sleep(2 * time.Millisecond) // so that they meet each moment of the upgrade
		}
	}()
	await.Until(t, "a second generation that serves", func() bool {
		s, err := b.TryStatus()
		return err == nil && s.Generation == 2 && s.State == "serving"
	})
	handoff := time.Now()
	for _, w := range silent {
		close(w.resume)
	}
	<-released
	failed := 0
	check := func(all []waiting) {
		t.Helper()
		for _, w := range all {
			if err := <-w.result; err != nil {
				if failed++; failed <= 5 {
					t.Error(err)
				}
			}
		}
	}
	check(slices.Concat(during, silent))
	await.Throughout(t, time.Until(handoff.Add(grace+500*time.Millisecond)), "handshakes under way", func() bool { return b.Connections() >= len(afterwards) })
	if !slices.Contains(b.Alive(), predecessor) {
		t.Error("the predecessor has gone while handshakes were under way")
	}
	for some := range slices.Chunk(afterwards, 20) { // all at once take longer than net/http waits for HTTP/2 to begin
		for _, w := range some {
			close(w.resume)
		}
		check(some)
	}
	if failed > 0 {
		t.Errorf("%d of %d handshakes under way failed, want none", failed, clients+beginners)
	}
	u := result()
	visits.end(t)
	t.Logf("%d clients of HTTP/2 had to connect anew", anew.Load())
	ended := u.Predecessor.Connections
	if u.Code != 0 || ended.Cut+ended.Error+ended.Timeout+ended.Grace != 0 {
		t.Errorf("upgrade: got exit code %d, %+v, want no connection closed forcibly, failed, timed out or closed as idle", u.Code, u.Predecessor)
	}
	if least := len(afterwards) - int(anew.Load()); u.Predecessor.RequestsFinished+u.Predecessor.Moved < least {
		t.Errorf("the predecessor answered %d requests, and %d connections migrated, want at least %d together", u.Predecessor.RequestsFinished, u.Predecessor.Moved, least)
	}
}

// A handshake that never ends costs nothing beyond the header timeout: a drain ends by then, others are served
// meanwhile, and nothing is left.
func TestHandshakesThatNeverEnd(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	const slow = 3 * service.Slack // on a machine that is busy with as many clients
	clients := tier.Times(t, "clients", 0, 400, 1000)
	timeout := await.Unhurried(3 * time.Second)
	if build.Race {
		timeout = await.Unhurried(5 * time.Second) // or the first have gone when the last come
	}
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(certFile, keyFile), service.Files(t), service.Args("-idle-grace", "5s", "-read-header-timeout", timeout.String(), "-drain-timeout", "10m"))
	address := b.Secure()
	config := trustingHTTP1(t, certFile)
	flood := func() (begun time.Time) {
		t.Helper()
		var halted sync.WaitGroup
		halted.Add(clients)
		never := make(chan struct{})
		var results []<-chan error
		t.Cleanup(func() {
			close(never)
			for _, result := range results {
				if <-result == nil {
					t.Error("a handshake was finished long after its time")
				}
			}
		})
		// One that has only connected has no handshake under way, and is silent.
		for i := range clients {
			at := points[1+i%2]
			if i%10 == 0 { // not more: all of them together have to get there well before the timeout
				at = points[3+i/10%2]
			}
			results = append(results, halt(address, at, config, halted.Done, never, nil))
		}
		halted.Wait()
		return time.Now()
	}
	// quiet is what the process holds without them.
	visit(address, config)
	quiet := process.FootprintOf(t, b.PID()).Descriptors
	goroutines := b.Metric("go_goroutines")

	visits := keepVisiting(address, slices.Repeat([]*tls.Config{config}, 2), nil)
	flood()
	service.CheckServesOn(t, b)
	await.Until(t, "end of all handshakes", func() bool { return b.Connections() < 20 })
	if n := b.Metric("baton_connections_closed_total", "reason", "timeout"); n < float64(clients*9/10) {
		t.Errorf("connections closed by a timeout: got %v, want about %d", n, clients)
	}
	await.Until(t, "descriptors and goroutines as before", func() bool {
		return process.FootprintOf(t, b.PID()).Descriptors <= quiet+10 && b.Metric("go_goroutines") <= goroutines+20
	})

	begun := flood()
	u := b.Upgrade()
	if took := u.Returned.Sub(begun); took > timeout+slow {
		t.Errorf("the upgrade, whose predecessor has %d handshakes that never end, took %v, want the header timeout of %v", clients, took, timeout)
	}
	if u.Predecessor.DrainSeconds < 0.2 {
		t.Errorf("the drain took %v s, so that there were no handshakes in it", u.Predecessor.DrainSeconds)
	}
	if ended := u.Predecessor.Connections; ended.Cut != 0 || ended.Timeout < clients/2 {
		t.Errorf("the predecessor's connections: got %+v, want most ended by a timeout and none closed forcibly", ended)
	}
	visits.end(t)
}

// Bytes that are no handshake get an alert, an answer or just the end; the next connection is served.
func TestNoHandshake(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate.Certificate(t)
	b := service.Start(t, service.OverTLS(certFile, keyFile), service.Files(t), service.Args("-idle-grace", "100ms"))
	for range 2 {
		c := http1.MustDial(t, "tcp", b.Secure())
		c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
		if resp := c.Expect(t, "GET", 400); !strings.Contains(string(resp.Body), "HTTPS") {
			t.Errorf("plain HTTP to a listener for TLS: got %q, want HTTPS mentioned", resp.Body)
		}
		if end := c.AwaitClose(await.Hang); end != http1.Fin {
			t.Errorf("plain HTTP to a listener for TLS: got %v, want FIN", end)
		}
		old := trustingHTTP1(t, certFile)
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if state, err := visit(b.Secure(), old); err == nil {
			t.Errorf("a client of TLS 1.1: got version %x, want it refused", state.Version)
		}
		noise := http1.MustDial(t, "tcp", b.Secure())
		noise.Send(t, strings.Repeat(strconv.Itoa(12345), 100))
		if end := noise.AwaitClose(await.Hang); end == http1.StillOn {
			t.Error("noise: the connection is still open")
		}
		if _, err := visit(b.Secure(), trustingHTTP1(t, certFile)); err != nil {
			t.Error(err)
		}
		b.Upgrade()
	}
}
