package server

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"example.com/baton/server/internal/boundary"
	"example.com/baton/server/internal/frames"
)

// The deadline that linger sets ends the Read that is under way.
func TestHTTP2ReadWhileLingering(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(client, boundary.Preface)
	c := New(Options{}).newConn(nc, nil)
	if _, err := io.ReadFull(c, make([]byte, len(boundary.Preface))); err != nil || c.top.Load() == &c.http1 {
		t.Fatalf("the preface is not recognized: %v", err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, frames.HeaderLen))
		read <- err
	}()
	time.Sleep(10 * time.Millisecond)
	c.mu.Lock()
	c.boundary.Close() // as Close has it
	c.mu.Unlock()
	nc.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	select {
	case err := <-read:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it reads on, and has taken the deadline away")
	}
}
