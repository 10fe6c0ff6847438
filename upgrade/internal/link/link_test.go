package link

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/tier"
	"example.com/baton/upgrade/internal/descriptors"
	"example.com/baton/upgrade/internal/process"
	"golang.org/x/sys/unix"
)

func pair(t testing.TB) (a, b *Link) {
	t.Helper()
	a, theirs, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b, err = Open(theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// A connection arrives with its message, and is the same one.
func TestPassesConnection(t *testing.T) {
	a, b := pair(t)
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
	if err := a.Send(Message{Type: TypeUpgrade}, served.(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	served.Close()
	in := make(chan Event)
	b.Follow(in, t.Context().Done(), func(*Message) bool { return false })
	m := <-in
	conn := m.TakeConn()
	if m.Type != TypeUpgrade || conn == nil || m.Sender() != os.Getpid() {
		t.Fatalf("got %+v, want an upgrade with a connection, of process %d", m, os.Getpid())
	}
	defer conn.Close()
	go io.WriteString(conn, "hello")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "hello" {
		t.Errorf("got %q, %v over the passed connection", buf, err)
	}
	a.Close()
	if m := <-in; m.Kind != Ended || b.Broken() {
		t.Errorf("after the peer has closed: got %+v, broken: %v, want the end", m, b.Broken())
	}
}

// The last message of a peer that went without reading everything is received.
func TestLastMessage(t *testing.T) {
	a, b := pair(t)
	for _, send := range []func() error{
		func() error { return b.Send(Message{Type: TypeQuestion, Question: 1}) },
		func() error { return a.Send(Message{Type: TypeDrained, Drained: json.RawMessage(`7`)}) },
	} {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	in := make(chan Event, 2)
	b.Follow(in, nil, func(*Message) bool { return false })
	if m := <-in; m.Kind != Received || string(m.Drained) != "7" {
		t.Errorf("got %+v, want the report", m)
	}
}

// Garbage ends the link, and leaves no descriptor behind.
func TestEndsAtGarbage(t *testing.T) {
	for name, packet := range map[string]string{
		"no JSON":    "garbage",
		"wrong type": `{"type":1}`,
		"too long":   `{"type":"` + strings.Repeat("a", MaxMessage) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			before := openFiles(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.conn.WriteMsgUnix([]byte(packet), unix.UnixRights(descriptors.Number(r)), nil); err != nil {
				t.Fatal(err)
			}
			r.Close()
			w.Close()
			if m, err := b.Receive(time.Minute); err == nil {
				t.Errorf("got %+v, want an error", m)
			}
			if after := openFiles(t); after > before { // fewer: something else was collected
				t.Errorf("got %d open files, want %d as before", after, before)
			}
		})
	}
}

// A type of a later release is passed on, to be ignored.
func TestUnknownType(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(Message{Type: "of a later release"}); err != nil {
		t.Fatal(err)
	}
	m, err := b.Receive(time.Minute)
	if err != nil || m.Type != "of a later release" {
		t.Errorf("got %+v, %v", m, err)
	}
}

// A peer that does not read costs a moment, not the process.
func TestSendGivesUp(t *testing.T) {
	a, _ := pair(t)
	m := Message{Type: TypeHello, Hello: &Hello{Version: strings.Repeat("v", MaxMessage/2)}}
	var err error
	for range 1000 {
		if err = a.Send(m); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("got none, want an error")
	}
	if err := a.Send(Message{Type: Type(strings.Repeat("x", MaxMessage))}); err == nil {
		t.Error("a message over the limit was sent")
	}
}

// The longest offer fits into a message.
func TestLongestOfferFits(t *testing.T) {
	long := Offered{Bound: "unix:/" + strings.Repeat(`"`, 107), Used: true, Left: 1 << 62}
	packet, err := json.Marshal(Message{Type: TypeOffer, Batch: 1 << 63, Offered: slices.Repeat([]Offered{long}, maxFiles)}.stamp())
	if err != nil || len(packet) > MaxMessage {
		t.Errorf("got %d bytes, %v, want %d at most", len(packet), err, MaxMessage)
	}
}

// What is read and not delivered when the link is released is returned, and the rest is
// read by whoever follows it then.
func TestRelease(t *testing.T) {
	a, b := pair(t)
	for n := range 3 {
		if err := a.Send(Message{Type: TypeUpgrade, Origin: n}); err != nil {
			t.Fatal(err)
		}
	}
	in, handled := make(chan Event), make(chan struct{}, 3)
	b.Follow(in, t.Context().Done(), func(*Message) bool { handled <- struct{}{}; return false })
	<-in
	<-handled
	<-handled // the second one waits to be delivered
	left := b.Release()
	if len(left) != 1 || left[0].Origin != 1 {
		t.Errorf("got %+v, want the second message", left)
	}
	again := b.Resume()
	again.Follow(in, t.Context().Done(), func(*Message) bool { return false })
	if e := <-in; e.From != again || e.Origin != 2 {
		t.Errorf("got %+v, want the third message", e)
	}
}

// A process is followed beyond the end of its links.
func TestFollowPeer(t *testing.T) {
	tier.Slow(t, "waits for a process")
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	a, _ := pair(t)
	p := process.Open(cmd.Process.Pid)
	defer p.Close()
	in := make(chan Event)
	a.FollowPeer(p, in, t.Context().Done())
	if e := <-in; e.Kind != Lost || e.From != a {
		t.Errorf("got %+v, want it lost", e)
	}
	cmd.Process.Kill()
	if e := <-in; e.Kind != Exited {
		t.Errorf("got %+v, want its exit", e)
	}
}

// A process that gets no processor time until its patience is over receives what is there.
func TestReceiveAfterTheDeadline(t *testing.T) {
	a, b := pair(t)
	if err := a.Send(Message{Type: TypeUpgrade, Origin: 7}); err != nil {
		t.Fatal(err)
	}
	if m, err := b.Receive(-time.Second); err != nil || m.Origin != 7 {
		t.Errorf("got %+v, %v, want the message", m, err)
	}
	if m, err := b.Receive(-time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without a message: got %+v, %v, want the deadline exceeded", m, err)
	}
	a.Close()
	if m, err := b.Receive(-time.Second); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got %+v, %v, want EOF", m, err)
	}
}

// FuzzReceive sends packets to a link. What is received is a message that can be sent on.
func FuzzReceive(f *testing.F) {
	for _, packet := range golden(f) {
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 || len(packet) > MaxMessage {
			return
		}
		a, b := pair(t)
		if _, err := a.conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		m, err := b.Receive(time.Minute)
		if err != nil {
			return
		}
		b.calls.received(&m)
		once, err := m.encode()
		if err != nil {
			return // of a time, which is no year that JSON knows
		}
		var again Message
		if err := json.Unmarshal(once, &again); err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice, err := again.encode(); err != nil || string(twice) != string(once) {
			t.Errorf("got %s, %v, want %s", twice, err, once)
		}
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
