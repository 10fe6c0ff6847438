package link

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// followed follows a link whose messages are for nobody.
func followed(t *testing.T, l *Link) {
	t.Helper()
	l.Follow(make(chan Event), t.Context().Done(), func(*Message) bool { return true })
}

// requests reads a number of requests.
func requests(t *testing.T, l *Link, n int) (all []Message) {
	t.Helper()
	for range n {
		m, err := l.Receive(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// Every caller gets one result, and it is its own: the response, whatever else comes in,
// or the end of the link, or that of its context.
func TestEachCallGetsOneResult(t *testing.T) {
	a, b := pair(t)
	followed(t, a)
	cancelled, cancel := context.WithCancel(t.Context())
	const each = 8
	type ended struct {
		kind     string
		request  uint64
		response Message
		err      error
	}
	results := make(chan ended, 4*each)
	var callers sync.WaitGroup
	call := func(kind string, ctx context.Context, m Message, mark int) {
		callers.Go(func() {
			// The mark tells the peer what to do, and the test whose response it is.
			response, err := a.Call(ctx, m)
			results <- ended{kind, uint64(mark), response, err}
		})
	}
	for i := range each {
		call("question", t.Context(), Message{Type: TypeQuestion, Origin: i + 1}, i+1)
		call("offer", t.Context(), Message{Type: TypeOffer, Origin: i + 1}, i+1)
		call("unanswered", t.Context(), Message{Type: TypeQuestion}, 0)
		call("cancelled", cancelled, Message{Type: TypeOffer}, 0)
	}
	for _, m := range requests(t, b, 4*each) {
		if m.Origin == 0 {
			continue
		}
		odd := []Message{
			{Type: TypeTaken, Batch: 1 << 60},
			{Type: TypeReport, Report: &Report{Answers: 1 << 60}},
			{Type: TypeReport, Report: new(Report)},
		}
		right := Message{Type: TypeReport, Origin: m.Origin, Report: &Report{Answers: m.Question}}
		wrong := Message{Type: TypeTaken, Batch: m.Question}
		if m.Type == TypeOffer {
			right = Message{Type: TypeTaken, Origin: m.Origin, Batch: m.Batch}
			wrong = Message{Type: TypeReport, Report: &Report{Answers: m.Batch}}
		}
		late := right
		late.Origin = -1
		for _, r := range append(odd, wrong, right, late) {
			if err := b.Send(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := make(map[string]int)
	take := func(n int) {
		t.Helper()
		for range n {
			r := <-results
			var ok bool
			switch r.kind {
			case "question", "offer":
				ok = r.err == nil && r.response.Origin == int(r.request)
			case "unanswered":
				ok = errors.Is(r.err, ErrEnded)
			case "cancelled":
				ok = errors.Is(r.err, context.Canceled)
			}
			if !ok {
				t.Errorf("%s: got %+v, %v", r.kind, r.response, r.err)
			}
			count[r.kind]++
		}
	}
	take(2 * each)
	cancel()
	take(each)
	b.Close()
	take(each)
	callers.Wait()
	if got, want := fmt.Sprint(count), fmt.Sprint(map[string]int{"question": each, "offer": each, "unanswered": each, "cancelled": each}); got != want {
		t.Errorf("got results of %s, want %s", got, want)
	}
	if n := len(a.calls.waiting); n > 0 {
		t.Errorf("%d calls still wait", n)
	}
	<-a.Ended()
	if _, err := a.Call(t.Context(), Message{Type: TypeQuestion}); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: got %v, want %v", err, ErrClosed)
	}
}

// A response that was sent before the end counts, although the end is there as well.
func TestResponseBeforeTheEnd(t *testing.T) {
	a, b := pair(t)
	got := make(chan error)
	go func() {
		_, err := a.Call(t.Context(), Message{Type: TypeOffer})
		got <- err
	}()
	offer := requests(t, b, 1)[0]
	if err := b.Send(Message{Type: TypeTaken, Batch: offer.Batch}); err != nil {
		t.Fatal(err)
	}
	b.Close()
	followed(t, a)
	if err := <-got; err != nil {
		t.Errorf("got %v, want the response", err)
	}
}

// The last message of a peer that has closed its end is handled before a request fails for
// that: whoever makes it may rely on the peer's last report.
func TestCallAfterTheLastMessage(t *testing.T) {
	for range 100 { // the goroutine that reads may be the first
		a, b := pair(t)
		if err := b.Send(Message{Type: TypeReport, Report: new(Report)}); err != nil {
			t.Fatal(err)
		}
		b.Close()
		var isHandled atomic.Bool
		a.Follow(make(chan Event), t.Context().Done(), func(*Message) bool { isHandled.Store(true); return true })
		if _, err := a.Call(t.Context(), Message{Type: TypeQuestion}); err == nil || !isHandled.Load() {
			t.Fatalf("got %v, report handled: %v, want an error after the report", err, isHandled.Load())
		}
	}
}

// A response counts, too, if it comes in the moment in which the caller gives up.
func TestResponseAtTheDeadline(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // select chooses at random
		var (
			c      calls
			number uint64
		)
		done, _ := c.add(TypeOffer, TypeTaken, &number)
		c.received(&Message{Type: TypeTaken, Batch: number, Refused: []int{7}})
		if m, err := c.await(ended, number, done); err != nil || len(m.Refused) != 1 {
			t.Fatalf("got %+v, %v, want the response", m, err)
		}
	}
}

// The other process that reads a released link does not answer for this one.
func TestReleaseEndsCalls(t *testing.T) {
	a, b := pair(t)
	followed(t, a)
	got := make(chan error)
	go func() {
		_, err := a.Call(t.Context(), Message{Type: TypeQuestion})
		got <- err
	}()
	requests(t, b, 1)
	a.Release()
	if err := <-got; !errors.Is(err, ErrEnded) {
		t.Errorf("got %v, want %v", err, ErrEnded)
	}
	followed(t, a.Resume())
}

func TestSilent(t *testing.T) {
	a, b := pair(t)
	followed(t, a)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	a.Call(cancelled, Message{Type: TypeQuestion})
	if a.Silent() {
		t.Error("silent although the caller did not wait")
	}
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	a.Call(late, Message{Type: TypeQuestion})
	if !a.Silent() {
		t.Error("not silent although it let the deadline pass")
	}
	if err := b.Send(Message{Type: TypeReport, Report: new(Report)}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); a.Silent(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still silent although it has sent something")
		}
	}
}
