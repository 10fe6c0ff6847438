package load

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
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
			await.Until(t, "a failure", func() bool { return counts.Failures() > 0 })
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
	await.Until(t, "failures", func() bool { return counts.Failed[exchange.NoConnection].Load() > 1 })
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
		rest   time.Duration
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
		{name: "close while the client rests", habit: BackToBack, rest: time.Minute,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, good) },
			done:   func(c *Tally) int64 { return c.IdleClosed[BackToBack].Load() }},
		{name: "rest between connections", habit: PerRequest, rest: time.Millisecond,
			script: func(c net.Conn, next func() bool) { next(); io.WriteString(c, good) },
			done:   func(c *Tally) int64 { return c.Answered[PerRequest].Load() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Load{Network: "tcp", Address: scripted(t, tt.script), Exchanges: []exchange.Exchange{exchange.New("GET", "/", nil, 200, []byte("ok"))}, Pause: time.Minute, Rest: tt.rest}
			l.Clients[tt.habit] = 1
			counts, stop := Start(t, l)
			await.Until(t, "the case to come about", func() bool { return tt.done(counts) > 2 })
			stop()
			if counts.Failures() != 0 {
				t.Errorf("want no failure, got %v", counts)
			}
		})
	}
}
