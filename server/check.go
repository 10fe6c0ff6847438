package server

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

// The self-tests have no deadline of their own. A machine may be so busy that each
// step takes minutes, and that must not switch anything off: only wrong behaviour may.
// They talk to net/http over connections in memory, and wait for what net/http does
// next: it reads, answers or closes.

// Check proves that the server answers, before it has accepted anything: a
// request that no handler gets goes through a connection in memory.
// Neither the handler nor the counts see it: a server whose handlers are all stuck
// passes, since they might as well be busy. The first Check also tests what the
// server relies on in net/http, and logs a warning for what it does without. Later
// ones also fail when [Server.Accepting] does.
//
// Check takes as long as ctx allows, and no longer. One that ctx has ended tells
// nothing about net/http.
func (s *Server) Check(ctx context.Context) error {
	checked := make(chan error, 1)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("check the server: %w", err)
	}
	client, c := s.checkPipe(func(nc net.Conn) net.Conn { return nc })
	defer client.Close() // ends the request if ctx has ended
	go func() {
		err := s.checkAnswer(client, c)
		if err == nil {
			if !s.opts.DisableMigration {
				s.isSafe()
				if s.hasTLS() {
					s.tls13()
				}
			}
			s.http2()
		}
		checked <- err
	}()
	err := error(nil)
	select {
	case err = <-checked:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("check the server: %w", err)
	}
	return s.Accepting()
}

func (s *Server) checkAnswer(client net.Conn, c *conn) error {
	if err := s.serveCheck(c); err != nil {
		return err
	}
	// A failed write shows as a failed read of the answer.
	io.WriteString(client, "OPTIONS * HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("got status %s", answer.Status)
	}
	return nil
}

// checkPipe returns both ends of a connection in memory. wrap is given the server's.
func (s *Server) checkPipe(wrap func(net.Conn) net.Conn) (client net.Conn, c *conn) {
	client, far := net.Pipe()
	c = s.newConn(wrap(timeless{far}), nil)
	c.isCheck = true
	return client, c
}

// serveCheck has net/http serve a connection, and returns while it does.
func (s *Server) serveCheck(c *conn) error {
	ln := newAdoptions()
	ln.add(c.served())
	ln.Close()
	if err := s.http.Serve(ln); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// timeless is a connection on which nothing times out. What remains are deadlines in
// the past, with which net/http and the server wake a Read.
type timeless struct{ net.Conn }

func (c timeless) SetReadDeadline(t time.Time) error {
	if t.After(time.Unix(1, 0)) {
		t = noDeadline
	}
	return c.Conn.SetReadDeadline(t)
}

func (c timeless) SetWriteDeadline(time.Time) error { return nil }

// testSafePoint proves that net/http holds nothing of a request when a connection
// is parked, and that it lets go of a parked connection without writing to it. If not,
// as might be with a Go release to come, connections do not migrate.
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
		s.opts.Logger.Warn("connections do not migrate at an upgrade, and are closed: net/http does not read as expected",
			"error", err)
	}
	return err == nil
}

// request is one that any server could get.
const request = "OPTIONS * HTTP/1.1\r\nHost: check\r\n\r\n"

// probe has a conversation with net/http, which is to end at a safe point, or
// within what net/http takes for the preface of HTTP/2.
func (s *Server) probe(converse func(*probe) error) error {
	p := &probe{reads: make(chan bool, 100), closed: make(chan struct{})}
	p.client, p.conn = s.checkPipe(func(nc net.Conn) net.Conn { p.Conn = nc; return p })
	p.in = bufio.NewReader(p.client)
	defer p.client.Close()
	if err := s.serveCheck(p.conn); err != nil {
		return err
	}
	if err := converse(p); err != nil {
		return err
	}
	written := p.written.Load()
	p.client.Close() // the server's Read returns io.EOF
	<-p.closed
	if p.written.Load() != written && !p.begun {
		return errors.New("something is written to a connection that ended between two requests")
	}
	return nil
}

// probe is the server's end of a connection in memory, which reports the Reads.
type probe struct {
	net.Conn
	conn    *conn
	client  net.Conn
	in      *bufio.Reader
	reads   chan bool     // for each Read that could be of a header: whether it is parked
	closed  chan struct{} // closed by Close
	once    sync.Once
	written atomic.Int64
	begun   bool // something of a request has been sent
}

func (p *probe) Read(b []byte) (int, error) {
	if len(b) > 1 { // else net/http watches for the client's end
		p.conn.mu.Lock()
		parked := p.conn.boundary.IsWaiting()
		p.conn.mu.Unlock()
		select {
		case p.reads <- parked:
		case <-p.closed:
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
		// After the first Read there may be one for the first request's rest, of which
		// net/http has read as much before as the preface of HTTP/2 is long.
		parked(true), send(request), p.answered, p.expectIdle,
		send(request + begin), p.answered, // in the buffer of the header
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

// next awaits the next Read that is not to watch for the client's end.
func (p *probe) next() (parked bool, err error) {
	select {
	case parked = <-p.reads:
		return parked, nil
	case <-p.closed:
		return false, errors.New("the connection is closed, want a Read for a request")
	}
}

// expect fails unless the next Read is parked, or is not.
func (p *probe) expect(want bool) error {
	parked, err := p.next()
	if err == nil && parked != want {
		err = fmt.Errorf("a connection is parked: got %t, want %t", parked, want)
	}
	return err
}

// expectIdle fails unless one of the next two Reads is parked.
func (p *probe) expectIdle() error {
	if parked, err := p.next(); parked || err != nil {
		return err
	}
	return p.expect(true)
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
