package boundary

import (
	"strings"
	"testing"
	"time"
)

// A client that lets the connection come to rest does not pipeline, nor does one while nothing drains.
func TestRestsBetween(t *testing.T) {
	for _, drained := range []bool{true, false} {
		var m Machine
		run(t, &m, served)
		for range 2 * aheadBoundaries {
			if drained {
				run(t, &m, []row{{reads(whole), Rest, AtRest}, {block, 0, Waiting}, {comes(get), 0, Begun}})
			}
			run(t, &m, []row{{sets(none), RestoreDeadline, Arriving}})
			m.BecomeActive(drained, start)
			run(t, &m, []row{{handle, 0, Handling}, {toIdle, 0, Ended}, {sets(idle), RestoreDeadline, Idle}})
		}
		if m.Pipelines(start.Add(time.Hour), time.Second) {
			t.Errorf("pipelines (in a drain: %t)", drained)
		}
	}
}

func TestBodyDeadline(t *testing.T) {
	var m Machine
	run(t, &m, served[:len(served)-3])
	check := func(want time.Time) {
		t.Helper()
		if got := m.BodyDeadline(start, 5*time.Second); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	check(start.Add(5 * time.Second))
	if do := m.Discard(start.Add(time.Second), false); do != 0 {
		t.Errorf("got %b, no Read is under way", do)
	}
	check(start.Add(time.Second))
	m.Discard(start.Add(time.Minute), false)
	check(start.Add(5 * time.Second))
	m.Discard(start.Add(time.Second), false)
	m.Handle(true)
	check(start.Add(5 * time.Second))
}

// What a handler may ask of the present request.
func TestPresentRequest(t *testing.T) {
	const bad = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
	var m Machine
	run(t, &m, parked)
	m.Returned([]byte(get+bad), OK, Empty)
	if m.SentAhead() || !m.Awaits(0) || !m.SentAhead() {
		t.Error("two requests: none is awaited")
	}
	for i, want := range []bool{false, true} {
		m.BecomeActive(false, start)
		m.Handle(false)
		if m.IsMalformed() != want || m.IsUnknown() || i == 1 && m.Awaits(0) {
			t.Errorf("request %d: malformed %t, unknown %t", i+2, m.IsMalformed(), m.IsUnknown())
		}
		m.BecomeIdle()
	}
	m.Handle(false)
	if !m.IsUnknown() {
		t.Error("a request that did not come is known")
	}
}

// The machines of connections that another process had.
func TestAdoptedOthers(t *testing.T) {
	h2, hijacked := AdoptHTTP2(), AdoptHijacked()
	if h2.State() != HTTP2 || hijacked.State() != Hijacked || !h2.used || !hijacked.used {
		t.Errorf("got %v and %v", h2.State(), hijacked.State())
	}
	hijacked.SetDeadline(idle) // the handler's
	hijacked.Offer()
	if e, ok := hijacked.Export(); !ok || e != (Exported{Used: true}) || !hijacked.State().Shared() {
		t.Errorf("got %+v, %t", e, ok)
	}
	for s := range states {
		m := Machine{state: s}
		if got, want := m.IsClosed(), s == Closed || s == Released; got != want {
			t.Errorf("%v: closed %t", s, got)
		}
		if got, want := m.IsWaiting(), s == Waiting || s == WokenToOffer || s == WokenToExpire || s == WokenToReclaim; got != want {
			t.Errorf("%v: waiting %t", s, got)
		}
		if got, want := s.Shared(), strings.Contains(s.String(), "Offered") || s == Migrated; got != want {
			t.Errorf("%v: shared %t", s, got)
		}
	}
}

// What holds whatever the state is.
func TestEveryState(t *testing.T) {
	for s := range states {
		check := func(what string, call step, to State, want Action) {
			t.Helper()
			m := Machine{state: s}
			if do := call(&m); do != want || m.state != to {
				t.Errorf("%v, %s: got action %b in %v, want %b in %v", s, what, do, m.state, want, to)
			}
		}
		window := (&Machine{state: s}).InWindow() || s == WokenToOffer
		switch closed, leave := Closed, Action(0); {
		case s >= Closed:
			check("closed twice", closeIt, s, 0)
		default:
			if window {
				leave = LeaveWindow
			}
			if s == Hijacked || s == OfferedHijacked {
				closed = Released
			}
			check("closed", closeIt, closed, leave)
		}
		switch {
		case s.betweenRequests():
			check("refused", refuse, Ending, EOF)
			check("a request", active, Active, 0)
			check("a preface", func(m *Machine) Action { return m.handle(http2) }, HTTP2, SwitchToHTTP2)
		case s != HTTP2:
			check("refused", refuse, s, 0)
		}
		if s == AtRest || s == AtRestWoken || s.isOffered() || s == Ending || s == Arriving || s == Accepted {
			check("a deadline", sets(hurry), s, RestoreDeadline)
			check("no deadline", sets(none), s, RestoreDeadline)
		}
		if s.woken() || s == HTTP2Woken || s >= Migrated {
			check("a deadline that would undo the wake-up, or set the successor's", sets(hurry), s, 0)
		}
		if !s.woken() && s != Waiting && s != Partial {
			check("nothing came", ends(OK, Empty), s, Continue)
			check("a part came", ends(OK, Part), s, Continue)
		}
	}
}
