package load

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
)

// scripted listens, and treats each connection as the script says. The script gets the connection,
// a way to read the next request (false: the client has gone), and closes the connection by returning.
func scripted(t *testing.T, script func(c net.Conn, next func() bool)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			wg.Go(func() {
				defer c.Close()
				script(c, func() bool {
					req, err := http.ReadRequest(r)
					if err != nil {
						return false
					}
					_, err = io.Copy(io.Discard, req.Body)
					return err == nil
				})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// reset makes the coming Close destroy the connection.
func reset(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }

const (
	good      = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	goodClose = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
)

func TestClientSeesEachFailure(t *testing.T) {
	answer := func(raw string) func(net.Conn, func() bool) {
		return func(c net.Conn, next func() bool) {
			if next() {
				io.WriteString(c, raw)
			}
		}
	}
	big := strings.Repeat("x", 8<<20)
	tests := []struct {
		name   string
		habit  Habit
		script func(c net.Conn, next func() bool)
		body   string // of a POST; empty: GET
		want   exchange.Failure

		patience time.Duration // where it is to run out
	}{
		{name: "end before the header", habit: PerRequest, want: exchange.NotAnswered,
			script: func(c net.Conn, next func() bool) { next() }},
		{name: "reset before the header", habit: PerRequest, want: exchange.NotAnswered,
			script: func(c net.Conn, next func() bool) { next(); reset(c) }},
		{name: "end within the header", habit: PerRequest, want: exchange.NotAnswered,
			script: answer("HTTP/1.1 200 OK\r\nContent-Le")},
		{name: "silence", habit: PerRequest, want: exchange.NotAnswered,
			script: func(c net.Conn, next func() bool) { next(); next() }, patience: 300 * time.Millisecond},
		{name: "reset while the request is being written", habit: PerRequest, want: exchange.NotWritten, body: big,
			script: func(c net.Conn, next func() bool) { io.ReadFull(c, make([]byte, 10)); reset(c) }},
		{name: "end within the body", habit: PerRequest, want: exchange.Truncated,
			script: answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")},
		{name: "no last chunk", habit: PerRequest, want: exchange.Truncated,
			script: answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")},
		{name: "end within a chunk", habit: PerRequest, want: exchange.Truncated,
			script: answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok")},
		{name: "end within the trailer", habit: PerRequest, want: exchange.Truncated,
			script: answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n")},
		{name: "server error", habit: PerRequest, want: exchange.WrongStatus,
			script: answer("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")},
		{name: "no HTTP", habit: PerRequest, want: exchange.WrongStatus,
			script: answer("220 mail.example ESMTP\r\n")},
		{name: "no length", habit: PerRequest, want: exchange.WrongStatus,
			script: answer("HTTP/1.1 200 OK\r\n\r\nok")},
		{name: "wrong body", habit: PerRequest, want: exchange.WrongBody,
			script: answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nko")},
		{name: "short body", habit: PerRequest, want: exchange.WrongBody,
			script: answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\no")},
		{name: "announced close that never comes", habit: PerRequestEnd, want: exchange.NotAnswered,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, goodClose); next() }, patience: 300 * time.Millisecond},
		{name: "kept connection ends under a request", habit: BackToBack, want: exchange.ClosedUnannounced,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next() }},
		{name: "kept connection is reset under a request", habit: BackToBack, want: exchange.ClosedUnannounced,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next(); reset(c) }},
		{name: "kept connection ends under a request after a pause", habit: Pausing, want: exchange.ClosedUnannounced,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next() }},
		{name: "answer to no request", habit: Pausing, want: exchange.WrongStatus,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, good+good); next() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := exchange.New("GET", "/", nil, 200, []byte("ok"))
			if tt.body != "" {
				x = exchange.New("POST", "/", []byte(tt.body), 200, []byte("ok"))
			}
			l := Load{Network: "tcp", Address: scripted(t, tt.script), Exchanges: []exchange.Exchange{x}, Patience: tt.patience, Pause: time.Millisecond}
			l.Clients[tt.habit] = 1
			counts, stop := Start(t, l)
			await.Until(t, 10*time.Second, "a failure", func() bool { return counts.Failures() > 0 })
			stop()
			for f := range exchange.Failures {
				if got := counts.Failed[f].Load(); (got > 0) != (f == tt.want) {
					t.Errorf("%v: got %d, want only %v\n%v", f, got, tt.want, counts)
				}
			}
			if len(counts.details) == 0 || len(counts.details) > maxDetails {
				t.Errorf("details: got %d, want 1 to %d", len(counts.details), maxDetails)
			}
		})
	}
}

func TestClientSeesThatNobodyListens(t *testing.T) {
	l := Load{Network: "unix", Address: filepath.Join(t.TempDir(), "none"), Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, nil)}}
	l.Clients[PerRequest] = 1
	counts, stop := Start(t, l)
	await.Until(t, 10*time.Second, "failures", func() bool { return counts.Failed[exchange.NoConnection].Load() > 1 })
	stop()
	if counts.Failures() != counts.Failed[exchange.NoConnection].Load() || counts.Requests() != 0 {
		t.Errorf("want nothing but dial failures, got %v", counts)
	}
}

// What a server may do must not count as a failure.
func TestClientAcceptsWhatIsAllowed(t *testing.T) {
	loop := func(raw string) func(net.Conn, func() bool) {
		return func(c net.Conn, next func() bool) {
			for next() {
				io.WriteString(c, raw)
			}
		}
	}
	tests := []struct {
		name   string
		habit  Habit
		script func(c net.Conn, next func() bool)
		done   func(*Tally) int64
	}{
		{name: "interim responses", habit: BackToBack, script: loop("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + good),
			done: func(c *Tally) int64 { return c.Answered[BackToBack].Load() }},
		{name: "chunks with a trailer", habit: BackToBack, script: loop("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nA: b\r\n\r\n"),
			done: func(c *Tally) int64 { return c.Answered[BackToBack].Load() }},
		{name: "announced close", habit: BackToBack,
			script: func(c net.Conn, next func() bool) {
				next()
				io.WriteString(c, good)
				next()
				io.WriteString(c, goodClose)
			},
			done: func(c *Tally) int64 { return c.Reconnects[BackToBack].Load() }},
		{name: "body that ends with the connection", habit: PerRequest,
			script: func(c net.Conn, next func() bool) {
				next()
				io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok")
			},
			done: func(c *Tally) int64 { return c.Answered[PerRequest].Load() }},
		{name: "close while the client pauses", habit: Pausing,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, good) },
			done:   func(c *Tally) int64 { return c.IdleClosed[Pausing].Load() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Load{Network: "tcp", Address: scripted(t, tt.script), Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, []byte("ok"))}, Pause: time.Minute}
			l.Clients[tt.habit] = 1
			counts, stop := Start(t, l)
			await.Until(t, 10*time.Second, "the case to come about", func() bool { return tt.done(counts) > 2 })
			stop()
			if counts.Failures() != 0 {
				t.Errorf("want no failure, got %v", counts)
			}
		})
	}
}

func TestClientRecordsHowSilenceEnds(t *testing.T) {
	tests := []struct {
		name   string
		habit  Habit
		script func(c net.Conn, next func() bool)
		want   http1.Ending
	}{
		{"orderly", Silent, func(net.Conn, func() bool) {}, http1.Fin},
		{"orderly after a request", SilentAfter, func(c net.Conn, next func() bool) { next(); io.WriteString(c, good) }, http1.Fin},
		{"destroyed after a request", SilentAfter, func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); reset(c) }, http1.Rst},
		{"unexpected data", Silent, func(c net.Conn, next func() bool) { io.WriteString(c, good); next() }, http1.MoreData},
		{"never", Silent, func(_ net.Conn, next func() bool) { next() }, http1.StillOn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			accepted := make(chan struct{}, 1000)
			address := scripted(t, func(c net.Conn, next func() bool) {
				select {
				case accepted <- struct{}{}:
				default:
				}
				tt.script(c, next)
			})
			l := Load{Network: "tcp", Address: address, Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, []byte("ok"))}}
			l.Clients[tt.habit] = 2
			counts, stop := Start(t, l)
			if tt.want == http1.StillOn {
				for range 2 {
					<-accepted
				}
			} else {
				await.Until(t, 10*time.Second, "ended connections", func() bool { return len(counts.Silences()) > 2 })
			}
			stop()
			// The last ones may have been ended by the end of the load instead.
			ended := 0
			for _, s := range counts.Silences() {
				if s.Ending == tt.want {
					ended++
				} else if s.Ending != http1.StillOn {
					t.Errorf("ending: got %s, want %s", s.Ending, tt.want)
				}
			}
			if ended < 2 || counts.Failures() != 0 {
				t.Errorf("got %d connections that ended by %s, want 2 or more, and no failure: %v", ended, tt.want, counts)
			}
		})
	}
}

// A silent connection from which nobody reads any more looks like one that is served, until it is used.
func TestSilentClientHasALastWord(t *testing.T) {
	tests := []struct {
		name     string
		script   func(c net.Conn, next func() bool)
		requests int64
		failure  exchange.Failure // failures if there is none
	}{
		{"answered", func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next(); io.WriteString(c, good) }, 2, exchange.Failures},
		{"not answered", func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next(); next() }, 1, exchange.NotAnswered},
		{"closed instead", func(c net.Conn, next func() bool) { next(); io.WriteString(c, good); next() }, 1, exchange.ClosedUnannounced},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Load{Network: "tcp", Address: scripted(t, tt.script), Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, []byte("ok"))},
				Patience: 300 * time.Millisecond, LastWords: true}
			l.Clients[SilentAfter] = 1
			counts, stop := Start(t, l)
			await.Until(t, 10*time.Second, "the first answer", func() bool { return counts.Answered[SilentAfter].Load() == 1 })
			stop()
			for f := range exchange.Failures {
				if got := counts.Failed[f].Load(); (got == 1) != (f == tt.failure) {
					t.Errorf("%v: got %d, want 1 only where it belongs\n%v", f, got, counts)
				}
			}
			if got := counts.Answered[SilentAfter].Load(); got != tt.requests || counts.Connections[SilentAfter].Load() != 1 {
				t.Errorf("got %v, want %d requests on 1 connection", counts, tt.requests)
			}
		})
	}
}

// All habits at once against a server that does everything right.
func TestClientAgainstNetHTTP(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			ln, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			backend.Serve(t, ln, http.HandlerFunc(backend.Echo))

			l := Load{Network: network, Address: ln.Addr().String(), Exchanges: exchange.Echo(""), Pause: time.Millisecond}
			l.Clients = [Habits]int{BackToBack: 2, Pausing: 8, PerRequest: 2, PerRequestEnd: 2, Silent: 4, SilentAfter: 4}
			counts, stop := Start(t, l)
			await.Until(t, 20*time.Second, "requests of each habit", func() bool {
				for _, h := range []Habit{BackToBack, Pausing, PerRequest, PerRequestEnd} {
					if counts.Answered[h].Load() < 100 {
						return false
					}
				}
				return counts.Answered[SilentAfter].Load() == 4
			})
			stop()
			if counts.Failures() != 0 {
				t.Error(counts)
			}
			if n := len(counts.Silences()); n != 8 {
				t.Errorf("silent connections: got %d, want 8", n)
			}
			t.Log(counts)
		})
	}
}
