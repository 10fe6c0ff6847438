package server

// This file holds the self-tests that precede readiness.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"example.com/baton/server/internal/boundary"
)

// Check proves that the server answers, before it has accepted anything: a
// request that no handler gets goes through a connection in memory.
// Neither the handler nor the counts see it: a server whose handlers are all stuck
// passes, since they might as well have much to do. Later it also fails when
// [Server.Accepting] does.
func (s *Server) Check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("check the server: %w", err)
	}
	client, far := net.Pipe()
	defer client.Close()
	if deadline, ok := ctx.Deadline(); ok {
		client.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()

	c := &conn{Conn: far, server: s, isCheck: true}
	c.response.conn = c
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(&oneConn{conn: c}) }()

	// A failed write shows as a failed read of the answer.
	io.WriteString(client, "OPTIONS * HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(client), nil)
	if serveErr := <-served; !isClosed(serveErr) {
		err = errors.Join(err, serveErr)
	}
	if err != nil {
		return fmt.Errorf("check the server: %w", err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("check the server: got status %s", answer.Status)
	}
	if !s.opts.DisableMigration {
		s.isSafe()
	}
	s.http2()
	return s.Accepting()
}

// testSafePoint proves that net/http holds nothing of a request when a connection
// is parked, and that it lets go of a parked connection without a word. If not,
// as might be with a Go release to come, connections do not move.
func (s *Server) testSafePoint() bool {
	err := s.probe(func(p *probe) error { return p.expect(true) }) // a new one
	for _, begun := range []string{request[:1], request[:20], boundary.Preface[:1], boundary.Preface[:16]} {
		if err == nil {
			err = s.probe(func(p *probe) error { return p.begin(begun) })
		}
	}
	if err == nil {
		err = s.probe((*probe).converse)
	}
	if err != nil {
		s.opts.Logger.Warn("connections are closed at an upgrade instead of moved: net/http does not read as expected",
			"error", err)
	}
	return err == nil
}

// request is one that any server could get.
const request = "OPTIONS * HTTP/1.1\r\nHost: check\r\n\r\n"

// probe has a conversation with net/http, which is to end at a safe point, or
// within what net/http takes for the preface of HTTP/2.
func (s *Server) probe(converse func(*probe) error) error {
	late, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	client, far := net.Pipe()
	deadline, _ := late.Deadline()
	client.SetDeadline(deadline)
	p := &probe{Conn: far, client: client, in: bufio.NewReader(client),
		reads: make(chan bool, 1), over: make(chan struct{}), closed: make(chan struct{}), late: late.Done()}
	p.conn = &conn{Conn: p, server: s, isCheck: true}
	p.conn.response.conn = p.conn
	err := s.http.Serve(&oneConn{conn: p.conn})
	if isClosed(err) {
		err = converse(p)
	}
	close(p.over)
	said := p.written.Load()
	client.Close() // its Read returns io.EOF
	if err != nil {
		return err
	}
	select {
	case <-p.closed:
	case <-p.late:
		return errors.New("a connection that ended is not closed")
	}
	if p.written.Load() != said && !p.begun {
		return errors.New("something is written to a connection that ended between two requests")
	}
	return nil
}

// probe is the far end of a connection in memory, which tells of the Reads.
type probe struct {
	net.Conn
	conn    *conn
	client  net.Conn
	in      *bufio.Reader
	reads   chan bool     // for each Read that could be of a header: whether it is parked
	over    chan struct{} // closed when nobody asks for them any more
	closed  chan struct{}
	once    sync.Once
	written atomic.Int64
	begun   bool // something of a request has been sent
	late    <-chan struct{}
}

func (p *probe) Read(b []byte) (int, error) {
	if len(b) > 1 { // else net/http watches for the client's end
		p.conn.mu.Lock()
		parked := p.conn.boundary.IsWaiting()
		p.conn.mu.Unlock()
		select {
		case p.reads <- parked:
		case <-p.over:
		case <-p.late:
		}
	}
	return p.Conn.Read(b)
}

func (p *probe) Write(b []byte) (int, error) {
	p.written.Add(int64(len(b)))
	return p.Conn.Write(b)
}

func (p *probe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Conn.Close()
}

// converse sends requests, and what comes before and after the end of one, so
// that net/http's Reads show what they should.
func (p *probe) converse() error {
	begin, rest := request[:1], request[1:]
	send := func(text string) func() error {
		return func() error { _, err := io.WriteString(p.client, text); return err }
	}
	parked := func(want bool) func() error { return func() error { return p.expect(want) } }
	for _, step := range []func() error{
		parked(true), send(request), p.answered, p.passPreface,
		parked(true), send(request + begin), p.answered, // in the buffer of the header
		parked(false), send(rest), p.answered,
		parked(true), send(request), send(begin), p.answered, // while the answer is under way
		parked(false), send(rest), p.answered,
		parked(true),
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// begin sends the beginning of a request, or of a preface, on a new connection. No
// Read after it is at a safe point.
func (p *probe) begin(text string) error {
	if err := p.expect(true); err != nil {
		return err
	}
	p.begun = true
	if _, err := io.WriteString(p.client, text); err != nil {
		return err
	}
	return p.expect(false)
}

// passPreface passes over the Read for the first request's rest, of which net/http
// has read as much before as the preface of HTTP/2 is long.
func (p *probe) passPreface() error {
	select {
	case parked := <-p.reads:
		if parked {
			p.reads <- parked // it did not look for a preface
		}
		return nil
	case <-p.late:
		return errors.New("no Read for a request")
	}
}

// expect awaits the next Read that is not to watch for the client's end.
func (p *probe) expect(want bool) error {
	select {
	case parked := <-p.reads:
		if parked != want {
			return fmt.Errorf("a connection is parked: got %t, want %t", parked, want)
		}
		return nil
	case <-p.late:
		return errors.New("no Read for a request")
	}
}

func (p *probe) answered() error {
	answer, err := http.ReadResponse(p.in, nil)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Close {
		return fmt.Errorf("got status %s, close %t", answer.Status, answer.Close)
	}
	return nil
}

// oneConn is a listener that yields one connection.
type oneConn struct{ conn net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, net.ErrClosed
	}
	c := l.conn
	l.conn = nil
	return c, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "check", Net: "pipe"} }
