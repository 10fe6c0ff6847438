package server_test

import (
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"example.com/baton/server"
)

// Connections that hold the last descriptors must end for others to be accepted.
func TestStopWithoutDescriptors(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	short := &shortListener{TCPListener: ln.(*net.TCPListener)}
	s := serveOn(t, short, server.Options{Handler: http.HandlerFunc(hello), IdleGrace: 50 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler)})
	holder := s.dial()
	holder.get("/")
	short.short.Store(true)
	s.dial() // ends the Accept that was under way
	queued := s.dial()
	queued.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	drained := s.drain(2*patience, none)
	holder.closedCleanly()
	short.short.Store(false)
	if resp, body := queued.answer(); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("got %d %q from the queue, want an answer", resp.StatusCode, body)
	}
	<-drained

	// And where they never end, the deadline holds.
	ln, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	short = &shortListener{TCPListener: ln.(*net.TCPListener)}
	short.short.Store(true)
	s = serveOn(t, short, server.Options{Handler: http.HandlerFunc(hello), Logger: slog.New(slog.DiscardHandler)})
	s.dial()
	begin := time.Now()
	<-s.drain(200*time.Millisecond, none)
	if took := time.Since(begin); took > slack {
		t.Errorf("drain with a deadline of 200 ms took %v", took)
	}
}

// What the kernel has queued is answered if nobody else will.
func TestStopAnswersTheAcceptQueue(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			ln, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			s := &served{Server: server.New(server.Options{Handler: http.HandlerFunc(hello)}), t: t, addr: ln.Addr()}
			slow := &slowListener{Listener: ln, release: make(chan struct{})}
			s.Add(slow)
			s.Serve()
			var queued []*client
			for range 50 {
				c := s.dial()
				c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				queued = append(queued, c)
			}
			drained := s.drain(patience, none)
			await(t, "the end of accepting", slow.told.wasCalled)
			close(slow.release)
			for i, c := range queued {
				if resp, body := c.answer(); resp.StatusCode != 200 || body != "hello" {
					t.Errorf("connection %d: got %d %q", i, resp.StatusCode, body)
				}
			}
			if d := <-drained; d.Connections.ConnectionClose != 50 {
				t.Errorf("got %+v, want 50 sent Connection: close", d.Connections)
			}
		})
	}
}

// In a handoff the queue is the successor's.
func TestHandoffLeavesTheAcceptQueue(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	shared, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	s := serveOn(t, ln, server.Options{Handler: http.HandlerFunc(hello)})
	<-s.drain(patience, all)

	c := s.dial() // the port is still bound
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	next := serveOn(t, shared, server.Options{Handler: http.HandlerFunc(hello)})
	if resp, _ := c.answer(); resp.StatusCode != 200 || resp.Close {
		t.Errorf("got %d, close %v, want 200 from the one who shares the socket", resp.StatusCode, resp.Close)
	}
	<-next.drain(patience, none)
}
