package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/baton/upgrade/internal/lifecycle"
	"example.com/baton/upgrade/internal/link"
	"golang.org/x/sys/unix"
)

var discard = slog.New(slog.DiscardHandler)

func linkPair(t testing.TB) (a, b *link.Link) {
	t.Helper()
	a, theirs, err := link.New()
	if err != nil {
		t.Fatal(err)
	}
	b, err = link.Open(theirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// writeRaw writes a packet that may be no message.
func writeRaw(l *link.Link, packet []byte) (err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { _, err = unix.Write(int(fd), packet) })
	if failed != nil {
		return failed
	}
	return err
}

// goldenMessages returns those of package link.
func goldenMessages(t testing.TB) (messages [][]byte) {
	t.Helper()
	paths, err := filepath.Glob("internal/link/testdata/v*/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden messages: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, text)
	}
	return messages
}

// What the link carries and does not look into is understood to the last field. Fields
// that a release of the past did not send may be added.
func TestGoldenPayloads(t *testing.T) {
	payloads := 0
	for _, text := range goldenMessages(t) {
		var m link.Message
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		check := func(payload json.RawMessage, v any) {
			if payload == nil {
				return
			}
			payloads++
			d := json.NewDecoder(bytes.NewReader(payload))
			d.DisallowUnknownFields()
			if err := d.Decode(v); err != nil {
				t.Errorf("%s: %v", payload, err)
			} else if got := encode(v); !bytes.Equal(got, payload) && m.Sent != (time.Time{}) {
				t.Errorf("got  %s\nwant %s", got, payload)
			}
		}
		check(m.Drained, new(Drained))
		if m.Report != nil {
			check(m.Report.Load, new(Load))
		}
		if m.Hello != nil {
			check(m.Hello.Upgrades, new([]Upgrade))
		}
	}
	if payloads < 8 {
		t.Errorf("got %d payloads, want one of each kind at least", payloads)
	}
}

// A type of a later release is ignored.
func TestUnknownMessage(t *testing.T) {
	r := &run{Generation: &Generation{}}
	unknown := link.Event{Message: link.Message{Type: "of a later release"}}
	r.handlePredecessor(new(member), &unknown)
	r.handleSuccessor(new(attempt), &unknown)
	if len(r.queue) > 0 {
		t.Errorf("got %v, want no event", r.queue)
	}
}

// FuzzNeighbor feeds packets to both sides of a generation's life.
func FuzzNeighbor(f *testing.F) {
	for _, message := range goldenMessages(f) {
		f.Add(message)
	}
	f.Add([]byte(`{"type":"report","report":{"state":"bored","load":{"requests_in_flight":-1},"counts":{"":1},"answers":1}}`))
	f.Add([]byte(`{"type":"offer","batch":1,"offered":[{"bound":"here","spoke":true,"left":-1},{"bound":"there"}]}`))
	f.Add([]byte(`{"type":"taken","batch":1,"refused":[-1,7]}`))
	f.Add([]byte(`{"type":"predecessor","hello":{"pid":-1},"report":{},"due":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) == 0 || len(packet) > link.MaxMessage {
			return
		}
		a, b := linkPair(t)
		if err := writeRaw(a, packet); err != nil {
			t.Fatal(err)
		}
		m, err := b.Receive(time.Minute)
		if err != nil || m.Type == link.TypeUpgrade || m.Type == link.TypeStop {
			return
		}
		g := &Generation{log: discard, state: Draining, done: make(chan struct{}), events: make(chan link.Event)}
		defer close(g.done)
		g.adoption.begin(new(adopted))
		g.listeners = map[string]net.Listener{"here": nil}
		before := &member{link: b}
		g.add(before)
		if g.exchange(b, true)(&m) || g.exchange(b, false)(&m) {
			return
		}
		r := &run{Generation: g, service: idle{}, attempt: &attempt{link: b}, timers: make(map[lifecycle.Kind]time.Time),
			machine: lifecycle.New(lifecycle.Config{Generation: 2})}
		e := link.Event{From: b, Message: m}
		r.handleSuccessor(r.attempt, &e)
		r.handlePredecessor(before, &e)
		r.settle()
		e.Close()
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

// busy is a service whose counters go up, and which asks the generation meanwhile.
type busy struct {
	idle
	gen *Generation
	n   atomic.Int64
}

func (b *busy) Counts() Counts {
	b.gen.Status() // would deadlock under a lock of the generation
	return Counts{"n": float64(b.n.Add(1))}
}

func (b *busy) Load() (l Load) {
	b.gen.State()
	return l
}

// Reports of several goroutines at once arrive in order: no count goes down.
func TestReportsAreOrdered(t *testing.T) {
	a, b := linkPair(t)
	g := &Generation{log: discard, state: Serving}
	g.service = &busy{gen: g}
	const goroutines, each = 4, 25
	var reporters sync.WaitGroup
	for range goroutines {
		reporters.Go(func() {
			for range each {
				if err := g.report(a, link.Message{Type: link.TypeReport}, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := 0.0
	for range goroutines * each {
		m, err := b.Receive(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if n := m.Report.Counts["n"]; n < last {
			t.Errorf("got count %v after %v", n, last)
		} else {
			last = n
		}
	}
	reporters.Wait()
}
