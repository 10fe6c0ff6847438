package upgrade

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func linkPair(t testing.TB) (a, b *link) {
	t.Helper()
	a, theirs, err := newLink()
	if err != nil {
		t.Fatal(err)
	}
	b, err = openLink(theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.close(); b.close() })
	return a, b
}

// A connection arrives with its message, and is the same one.
func TestLinkPassesConnection(t *testing.T) {
	a, b := linkPair(t)
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	served, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.send(message{Type: msgUpgrade}, served.(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	served.Close()
	stop := make(chan struct{})
	defer close(stop)
	in := make(chan heard)
	b.follow(in, stop, func(*message) bool { return false })
	m := <-in
	conn := m.takeConn()
	if m.Type != msgUpgrade || conn == nil {
		t.Fatalf("got %+v, want an upgrade with a connection", m)
	}
	defer conn.Close()
	go io.WriteString(conn, "hello")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "hello" {
		t.Errorf("got %q, %v over the passed connection", buf, err)
	}
	a.close()
	if m := <-in; !m.end {
		t.Errorf("after the other side has closed: got %+v, want the end", m)
	}
}

// The last words of a side that went without reading everything are heard.
func TestLinkLastWords(t *testing.T) {
	a, b := linkPair(t)
	for _, send := range []func() error{
		func() error { return b.send(message{Type: msgQuestion, Question: 1}) },
		func() error { return a.send(message{Type: msgDrained, Drained: &Drained{Requests: 7}}) },
	} {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	a.close()
	in := make(chan heard, 2)
	b.follow(in, nil, func(*message) bool { return false })
	if m := <-in; m.end || m.Drained == nil || m.Drained.Requests != 7 {
		t.Errorf("got %+v, want the report", m)
	}
}

// Garbage ends the link, and leaves no descriptor behind.
func TestLinkEndsAtGarbage(t *testing.T) {
	for name, packet := range map[string]string{
		"no JSON":    "garbage",
		"wrong type": `{"type":1}`,
		"too long":   `{"type":"` + strings.Repeat("a", messageSize) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := linkPair(t)
			before := openFiles(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.conn.WriteMsgUnix([]byte(packet), unix.UnixRights(int(rawFD(r))), nil); err != nil {
				t.Fatal(err)
			}
			r.Close()
			w.Close()
			if m, err := b.receive(new(receiveBuffer)); err == nil {
				t.Errorf("got %+v, want an error", m)
			}
			if after := openFiles(t); after > before { // fewer: something else was collected
				t.Errorf("got %d open files, want %d as before", after, before)
			}
		})
	}
}

// A type of a later release is passed on, and ignored by Run.
func TestLinkUnknownMessage(t *testing.T) {
	a, b := linkPair(t)
	if err := a.send(message{Type: "of a later release"}); err != nil {
		t.Fatal(err)
	}
	m, err := b.receive(new(receiveBuffer))
	if err != nil || m.Type != "of a later release" {
		t.Errorf("got %+v, %v", m, err)
	}
	(&run{Generation: &Generation{}}).hear(new(member), &m)
}

// A neighbour that does not read costs a moment, not the process.
func TestLinkSendGivesUp(t *testing.T) {
	a, _ := linkPair(t)
	m := message{Type: msgHello, Hello: &hello{Version: strings.Repeat("v", messageSize/2)}}
	var err error
	begin := time.Now()
	for range 1000 {
		if err = a.send(m); err != nil {
			break
		}
	}
	if took := time.Since(begin); err == nil || took > 10*sendTimeout {
		t.Errorf("got %v after %v, want an error soon after %v", err, took, sendTimeout)
	}
	if err := a.send(message{Type: strings.Repeat("x", messageSize)}); err == nil {
		t.Error("a message over the limit was sent")
	}
}

// FuzzLink feeds packets to both sides of a generation's life.
func FuzzLink(f *testing.F) {
	f.Add([]byte(`{"type":"hello","hello":{"protocol":1,"pid":1}}`))
	f.Add([]byte(`{"type":"serving","claims":[{"asked":":80","bound":"[::]:80"}]}`))
	f.Add([]byte(`{"type":"drained","drained":{"drain_seconds":1}}`))
	f.Add([]byte(`{"type":"report","report":{"state":"bored","load":{"requests_in_flight":-1},"counts":{"":1},"answers":1}}`))
	f.Add([]byte(`{"type":"question","question":7}`))
	f.Add([]byte(`{"type":"offer","batch":1,"offered":[{"bound":"here","spoke":true,"left":-1},{"bound":"there"}]}`))
	f.Add([]byte(`{"type":"taken","batch":1,"refused":[-1,7]}`))
	f.Add([]byte(`{"type":"predecessor","hello":{"pid":-1},"report":{},"due":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 || len(packet) > messageSize {
			return
		}
		a, b := linkPair(t)
		if _, err := a.conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		m, err := b.receive(new(receiveBuffer))
		if err != nil || m.Type == msgUpgrade || m.Type == msgStop {
			return
		}
		g := &Generation{log: discard, state: Draining, done: make(chan struct{}), heard: make(chan heard)}
		defer close(g.done)
		g.adopter = new(adopted)
		g.listeners = map[string]net.Listener{"here": nil}
		before := &member{link: b}
		g.add(before)
		if g.exchange(b, true)(&m) || g.exchange(b, false)(&m) {
			return
		}
		r := &run{Generation: g, service: idle{}, attempt: &attempt{link: b}}
		r.hear(before, &m)
		r.hearSuccessor(&heard{message: m})
		m.close()
	})
}

// idle is a service that does nothing.
type idle struct{}

func (idle) Check(context.Context) error                { return nil }
func (idle) Serve()                                     {}
func (idle) Drain(context.Context, Handoff) (d Drained) { return d }
func (idle) Load() (l Load)                             { return l }

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
