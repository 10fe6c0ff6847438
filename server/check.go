package server

// This file holds the self-test that precedes readiness.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Check proves that the server answers, before it has accepted anything: a
// request that net/http answers by itself goes through a connection in memory.
// Neither the handler nor the counts see it.
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

	c := &conn{Conn: far, server: s}
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
