package server_test

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/server"
)

// A Write whose deadline passes, since the client does not read, has written whole records: what
// follows is understood.
func TestHijackedWriteOverTLSIsInterrupted(t *testing.T) {
	t.Parallel()
	sent := make([]byte, 20<<20)
	rand.Read(sent)
	interrupted, resume := make(chan int), make(chan struct{})
	l := newTLSLine(t)
	served := l.serve(listen(t), server.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		time.AfterFunc(50*time.Millisecond, func() { conn.SetWriteDeadline(time.Unix(1, 0)) })
		n, err := conn.Write(sent)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: got %d, %v, want a deadline to pass", n, err)
		}
		interrupted <- n
		if m, err := conn.Write(sent[n:]); m != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write after it: got %d, %v, want the deadline", m, err)
		}
		<-resume
		conn.SetWriteDeadline(time.Time{})
		if m, err := conn.Write(sent[n:]); n+m != len(sent) || err != nil {
			t.Errorf("write: got %d, %v, want the rest of %d", m, err, len(sent)-n)
		}
	})}, nil)
	c := l.dial(served, "http/1.1")
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if n := <-interrupted; n == 0 || n == len(sent) || n%(16<<10) != 0 {
		t.Errorf("wrote %d bytes, want some whole records", n)
	}
	close(resume)
	got, err := io.ReadAll(c.in)
	if err != nil || string(got) != string(sent) {
		t.Errorf("got %d bytes, %v, want the %d sent", len(got), err, len(sent))
	}
	<-served.drain(patience, all)
}

// halver holds back half of what is written.
type halver struct {
	net.Conn
	mu      sync.Mutex
	halving bool
	rest    []byte
}

func (h *halver) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.halving {
		return h.Conn.Write(p)
	}
	half := len(p) / 2
	h.rest = append([]byte(nil), p[half:]...)
	_, err := h.Conn.Write(p[:half])
	return len(p), err
}

// release writes what was held back.
func (h *halver) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.halving = false
	h.Conn.Write(h.rest)
}

// With a part of a record nothing migrates. It does when the rest has come.
func TestHijackedOverTLSWithinARecord(t *testing.T) {
	tier.Slow(t, "waits for the end of a drain")
	t.Parallel()
	for name, late := range map[string]bool{"in time": false, "late": true} {
		t.Run(name, func(t *testing.T) {
			l := newTLSLine(t)
			first, second := &chat{name: "first", ended: make(chan string, 10), refused: make(chan struct{}, 100)}, &chat{name: "second", ended: make(chan string, 10)}
			m := &movers{first: l.serve(listen(t), first.options(), nil), second: l.serve(listen(t), second.options(), nil)}
			c := m.first.dial()
			h := &halver{Conn: c.Conn}
			c.Conn = h
			config := l.signed.Client()
			config.NextProtos = []string{"http/1.1"}
			c = c.shake(config)
			c.send(chatRequest + "one\n")
			c.expectLine("first 1 one")
			h.mu.Lock()
			h.halving = true
			h.mu.Unlock()
			c.send("two\n")
			time.Sleep(20 * time.Millisecond) // until the half is read; if it is not, the successor reads all of it
			done := m.handOff(patience)
			m.first.awaitDraining()
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				if d := <-done; d.Migrated != 1 {
					t.Errorf("drain: got %+v, want 1 migrated", d)
				}
			}()
			if late {
				select {
				case <-first.refused:
				case <-drained:
				}
			}
			h.release()
			<-drained
			if got, err := c.in.ReadString('\n'); got != "first 2 two\n" && got != "second 2 two\n" {
				t.Errorf("got %q, %v, want the answer to two", got, err)
			}
			c.send("three\n")
			c.expectLine("second 3 three")
			<-m.second.drain(time.Second, all)
		})
	}
}
