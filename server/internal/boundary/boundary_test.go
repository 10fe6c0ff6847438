package boundary

import (
	"strings"
	"testing"
	"time"
)

const (
	get    = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	whole  = 4096                  // net/http's buffer
	probe  = len("PRI * HTTP/2.0") // of its first Read: it looks for a preface
	second = whole - probe         // of the Read for the rest of the first header
)

var (
	rest  = get[probe:] // of a request of which first bytes were delivered
	start = time.Unix(1000, 0)
	hurry = start.Add(10 * time.Second) // the deadlines that net/http sets
	idle  = start.Add(75 * time.Second)
	none  time.Time
)

// step is one call of a Machine, and the Action it must return.
type step func(m *Machine) Action

// The calls, as net/http, the migrator, the sweep and the socket make them.
func reads(buffer int) step        { return func(m *Machine) Action { return m.Read(buffer, true) } }
func readsTLS(buffer int) step     { return func(m *Machine) Action { return m.Read(buffer, false) } }
func sets(t time.Time) step        { return func(m *Machine) Action { return m.SetDeadline(t) } }
func block(m *Machine) Action      { return m.Block(start) }
func wake(p Purpose) step          { return func(m *Machine) Action { return m.Wake(p) } }
func offer(m *Machine) Action      { m.Offer(); return 0 }
func taken(m *Machine) Action      { return m.Answer(true) }
func kept(m *Machine) Action       { return m.Answer(false) }
func active(m *Machine) Action     { m.BecomeActive(false, start); return 0 }
func toIdle(m *Machine) Action     { m.BecomeIdle(); return 0 }
func hijack(m *Machine) Action     { m.Hijack(); return 0 }
func handle(m *Machine) Action     { m.Handle(false); return 0 }
func handleBody(m *Machine) Action { m.Handle(true); return 0 }
func abandon(m *Machine) Action    { m.Abandon(); return 0 }
func closeIt(m *Machine) Action    { return m.Close() }
func refuse(m *Machine) Action     { return m.Refuse() }
func pass(m *Machine) Action       { return m.Pass() }
func discard(m *Machine) Action    { return m.Discard(start.Add(time.Second), true) }
func comes(text string) step {
	return func(m *Machine) Action { _, do := m.Returned([]byte(text), OK, Empty); return do }
}
func ends(r Result, below Below) step {
	return func(m *Machine) Action { _, do := m.Returned(nil, r, below); return do }
}

// row is a step with what must follow.
type row struct {
	step step
	do   Action
	to   State
}

// fresh and served are how a connection comes to its first and second request.
var fresh = []row{
	{sets(hurry), RestoreDeadline, Accepted},
	{reads(probe), Rest, AtRest},
	{block, 0, Waiting},
}

var served = append(fresh[:len(fresh):len(fresh)],
	row{comes(get[:probe]), IsHTTP1, Arriving},
	row{reads(second), 0, Arriving},
	row{comes(rest), 0, Arriving},
	row{active, 0, Active},
	row{handle, 0, Handling},
	row{toIdle, 0, Ended},
	row{sets(idle), RestoreDeadline, Idle},
)

var http2Begun = append(fresh[:len(fresh):len(fresh)], row{comes(Preface), SwitchToHTTP2, HTTP2})

var parked = append(served[:len(served):len(served)],
	row{reads(whole), Rest, AtRest},
	row{block, 0, Waiting},
)

func TestMachine(t *testing.T) {
	for _, test := range []struct {
		name string
		from []row
		rows []row
	}{
		{"a new connection is at rest until its first byte", fresh, nil},
		{"an idle connection is at rest", parked, nil},

		// What net/http may hold.
		{"the first bytes of a header are held", fresh, []row{
			{comes("G"), IsHTTP1, Arriving}, {reads(probe - 1), 0, Arriving}, {wake(ToExpire), 0, Arriving}}},
		{"the beginning of a preface is held", fresh, []row{
			{comes("PRI"), 0, Arriving}, {reads(probe - 3), 0, Arriving}, {wake(ToExpire), 0, Arriving}}},
		{"a pipelined request is in the buffer: a shorter Read", served, []row{
			{reads(whole - 1), HeaderDeadline, Arriving}, {wake(ToOffer), 0, Arriving}}},
		{"a pipelined request is whole in the buffer: no Read", served, []row{
			{sets(none), RestoreDeadline, Arriving}, {active, 0, Active}}},
		{"the byte of a background read is held, and then the buffer is shorter", parked[:len(parked)-4], []row{
			{reads(1), 0, Handling}, {comes("G"), 0, Handling}, {toIdle, 0, Ended}, {sets(idle), RestoreDeadline, Idle},
			{reads(whole - 1), HeaderDeadline, Arriving}}},
		{"a header fills the buffer and empties it: a second deadline was set", served, []row{
			{sets(none), RestoreDeadline, Arriving}, {sets(hurry), RestoreDeadline, Arriving}, {reads(whole), 0, Arriving},
			{wake(ToExpire), 0, Arriving}}},
		{"a Read before the deadline for idleness proves nothing", served[:len(served)-1], []row{
			{reads(whole), 0, Arriving}}},
		{"a body is read into a buffer of the same length", served, []row{
			{reads(whole), Rest, AtRest}, {block, 0, Waiting}, {comes("PUT / HTTP/1.1\r\nContent-Length: 1\r\n\r\n"), 0, Begun},
			{sets(none), RestoreDeadline, Arriving}, {active, 0, Active}, {handleBody, 0, Body},
			{reads(whole), BodyDeadline, Body}, {wake(ToOffer), 0, Body}}},
		{"too few bytes for net/http to start the header timeout", parked, []row{
			{comes("G"), 0, Begun}, {reads(whole - 1), HeaderDeadline, Arriving}, {ends(Timeout, Empty), TimedOut, Arriving}}},
		{"empty lines before a request are not passed on, and the connection is at rest again", parked, []row{
			{comes("\r\n\r\n"), Rest, AtRest}, {block, 0, Waiting}, {comes("\r\n" + get), 0, Begun}}},
		{"the end of a request's header is that of an idle period", parked, []row{
			{comes(get), 0, Begun}, {sets(none), RestoreDeadline, Arriving}, {active, 0, Active}}},

		// Wake-ups, and what comes between.
		{"woken to be offered, and nothing came", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Empty), RestoreDeadline | Rest, AtRestWoken},
			{offer, 0, OfferedWoken}, {taken, EOF | LeaveWindow, Migrated}, {reads(whole), EOF, Migrated}}},
		{"woken to be offered, and a request came first", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {comes(get), RestoreDeadline | LeaveWindow, Begun}}},
		{"woken to be offered, and a request is in the kernel: it is the successor's to read", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Arrived), RestoreDeadline | Rest, AtRestWoken}}},
		{"woken to be offered, and the client left", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Failed, Empty), RestoreDeadline | LeaveWindow, Arriving}}},
		{"woken to be offered, and the successor hangs meanwhile", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Empty), RestoreDeadline | Rest, AtRestWoken},
			{block, LeaveWindow, Waiting}}},
		{"woken to be offered, and refused", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Empty), RestoreDeadline | Rest, AtRestWoken},
			{offer, 0, OfferedWoken}, {kept, Rest, AtRestWoken}, {block, LeaveWindow, Waiting}, {wake(ToOffer), WakeUp, WokenToOffer}}},
		{"woken to be offered, and the deadline of net/http has passed as well", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Empty), RestoreDeadline | Rest, AtRestWoken},
			{block, LeaveWindow, Waiting}, {ends(Timeout, Empty), TimedOut, Arriving}}},
		{"woken twice", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {wake(ToExpire), 0, WokenToOffer}, {wake(ToOffer), 0, WokenToOffer}}},
		{"offered as its response is done, and taken", served, []row{
			{reads(whole), Rest, AtRest}, {offer, 0, Offered}, {taken, EOF, Migrated}}},
		{"offered, and closed forcibly before the answer", parked[:len(parked)-1], []row{
			{offer, 0, Offered}, {closeIt, 0, Closed}, {taken, 0, Closed}}},
		{"woken and offered, and closed forcibly before the answer", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Empty), RestoreDeadline | Rest, AtRestWoken},
			{offer, 0, OfferedWoken}, {closeIt, LeaveWindow, Closed}, {taken, 0, Closed}}},
		{"woken and closed forcibly", parked, []row{
			{wake(ToOffer), WakeUp, WokenToOffer}, {closeIt, LeaveWindow, Closed}, {ends(Failed, Empty), 0, Closed}}},
		{"woken at the end of the grace, and nothing came", parked, []row{
			{wake(ToExpire), WakeUp, WokenToExpire}, {ends(Timeout, Empty), Expired | EOF, Ending}, {closeIt, 0, Closed}}},
		{"woken at the end of the grace, and a request came in this moment", parked, []row{
			{wake(ToExpire), WakeUp, WokenToExpire}, {ends(Timeout, Arrived), RestoreDeadline | Rest, AtRest},
			{block, 0, Waiting}, {comes(get), 0, Begun}}},
		{"woken at the end of the grace, and the Read had a request already", parked, []row{
			{wake(ToExpire), WakeUp, WokenToExpire}, {comes(get), RestoreDeadline, Begun}}},
		{"woken at the end of the grace, and a part of a record came", parked, []row{
			{wake(ToExpire), WakeUp, WokenToExpire}, {ends(Timeout, Part), HeaderDeadline | Continue, Partial},
			{wake(ToExpire), 0, Partial}, {comes(get), 0, Begun}}},
		{"woken for its descriptor", parked, []row{
			{wake(ToReclaim), WakeUp, WokenToReclaim}, {ends(Timeout, Empty), Reclaimed | EOF, Ending}}},
		{"woken while a request is under way", served[:len(served)-2], []row{
			{wake(ToOffer), 0, Handling}, {wake(ToExpire), 0, Handling}}},
		{"a handler's goroutine sets a deadline while the connection is woken", parked, []row{
			{wake(ToExpire), WakeUp, WokenToExpire}, {sets(hurry), 0, WokenToExpire}}},

		// Timeouts that are the client's.
		{"a Read with something below, before the deadline for idleness", served[:len(served)-1], []row{{readsTLS(whole), 0, Arriving}}},
		{"no idle timeout", served[:len(served)-1], []row{{sets(none), RestoreDeadline, Idle}, {reads(whole), Rest, AtRest}}},
		{"a deadline for the header, after a first part", parked, []row{
			{comes("G"), 0, Begun}, {sets(hurry), RestoreDeadline, Arriving}}},
		{"a first part fills the rest of the buffer", parked, []row{{comes("G"), 0, Begun}, {reads(whole), HeaderDeadline, Arriving}}},
		{"a timeout after a first part", parked, []row{{comes("G"), 0, Begun}, {ends(Timeout, Empty), TimedOut, Arriving}}},
		{"a handler does not read, and a layer below has a part", served[:len(served)-2], []row{
			{ends(OK, Part), Continue, Handling}, {ends(OK, Empty), Continue, Handling}}},
		{"the idle timeout passes", parked, []row{{ends(Timeout, Empty), TimedOut, Arriving}}},
		{"net/http aborts its background read", served[:len(served)-2], []row{
			{reads(1), 0, Handling}, {sets(time.Unix(1, 0)), RestoreDeadline, Handling}, {ends(Timeout, Empty), 0, Handling},
			{sets(none), RestoreDeadline, Handling}}},
		{"a handler sets a deadline for the body", served[:len(served)-3], []row{
			{handleBody, 0, Body}, {reads(500), BodyDeadline, Body}, {ends(Timeout, Empty), TimedOut, Body},
			{sets(none), RestoreDeadline, Body}, {sets(idle), RestoreDeadline, Handling}, {reads(500), 0, Handling},
			{ends(Timeout, Empty), 0, Handling}}},
		{"the rest of a body is discarded", served[:len(served)-3], []row{
			{handleBody, 0, Body}, {sets(idle), RestoreDeadline, Handling}, {discard, BodyDeadline, Body}, {toIdle, 0, Ended}}},
		{"the rest is discarded, by a Read after the handler's deadline", served[:len(served)-3], []row{
			{handleBody, 0, Body}, {discard, BodyDeadline, Body}, {reads(1), 0, Body}, {ends(OK, Part), Continue, Body}, {ends(OK, Empty), Continue, Body}}},
		{"a body, and its handler takes the connection", served[:len(served)-3], []row{
			{handleBody, 0, Body}, {hijack, 0, Hijacked}, {reads(1), 0, Hijacked}}},
		{"nobody reads the rest of a body", served[:len(served)-3], []row{
			{handleBody, 0, Body}, {abandon, 0, Abandoned}, {reads(whole), EOF, Abandoned}, {toIdle, 0, Abandoned}}},

		// TLS.
		{"a handshake", fresh, []row{
			{ends(OK, Part), Continue, Partial}, {wake(ToExpire), 0, Partial}, {ends(OK, Empty), RestoreDeadline | Rest, AtRest},
			{block, 0, Waiting}, {comes(get[:probe]), IsHTTP1, Arriving}}},
		{"the first bytes are held below", fresh[:1], []row{{readsTLS(probe), 0, Arriving}}},
		{"a handshake in three parts", fresh, []row{{ends(OK, Part), Continue, Partial}, {ends(OK, Part), Continue, Partial},
			{ends(Timeout, Part), TimedOut, Arriving}}},
		{"woken for its descriptor, and a part of a record came", parked, []row{
			{wake(ToReclaim), WakeUp, WokenToReclaim}, {ends(Timeout, Part), HeaderDeadline | Continue, Partial}}},
		{"offered, and not taken", parked[:len(parked)-1], []row{{offer, 0, Offered}, {kept, Rest, AtRest}}},
		{"ends that are the last", parked, []row{
			{wake(ToExpire), WakeUp, WokenToExpire}, {ends(Timeout, Empty), Expired | EOF, Ending}, {reads(1), EOF, Ending}, {readsTLS(whole), EOF, Ending}}},
		{"a handshake fails", fresh, []row{
			{ends(OK, Part), Continue, Partial}, {ends(Failed, Empty), 0, Partial}, {refuse, EOF, Ending}, {reads(probe), EOF, Ending}}},
		{"a part of a record has been read before net/http reads", served, []row{
			{readsTLS(whole), HeaderDeadline, Arriving}}},

		// HTTP/2.
		{"a preface in one piece", fresh, []row{{comes(Preface[:probe]), 0, Arriving}, {reads(10), 0, Arriving},
			{comes(Preface[probe:]), SwitchToHTTP2, HTTP2}, {wake(ToExpire), 0, HTTP2}, {wake(ToReclaim), 0, HTTP2}}},
		{"a preface that is not agreed on", fresh, []row{{comes(Preface), SwitchToHTTP2, HTTP2}, {refuse, EOF, Ending}}},

		{"HTTP/2 is offered as a stream ends", http2Begun, []row{{offer, 0, HTTP2Offered}, {kept, 0, HTTP2}, {pass, 0, HTTP2},
			{offer, 0, HTTP2Offered}, {wake(ToOffer), 0, HTTP2Offered}, {taken, EOF, Migrated}, {closeIt, 0, Closed}}},
		{"HTTP/2 is woken and offered", http2Begun, []row{{wake(ToOffer), WakeUp, HTTP2Woken}, {wake(ToOffer), 0, HTTP2Woken},
			{sets(none), 0, HTTP2Woken}, {offer, 0, HTTP2OfferedWoken}, {taken, EOF | LeaveWindow, Migrated}}},
		{"HTTP/2 is woken and not taken", http2Begun, []row{{wake(ToOffer), WakeUp, HTTP2Woken},
			{offer, 0, HTTP2OfferedWoken}, {kept, LeaveWindow, HTTP2}, {offer, 0, HTTP2Offered}}},
		{"HTTP/2 is woken as a request comes", http2Begun, []row{{wake(ToOffer), WakeUp, HTTP2Woken}, {pass, LeaveWindow, HTTP2}}},
		{"HTTP/2 is closed while woken", http2Begun, []row{{wake(ToOffer), WakeUp, HTTP2Woken}, {closeIt, LeaveWindow, Closed}, {pass, 0, Closed}}},
		{"HTTP/2 is closed while offered", http2Begun, []row{{wake(ToOffer), WakeUp, HTTP2Woken},
			{offer, 0, HTTP2OfferedWoken}, {closeIt, LeaveWindow, Closed}, {taken, 0, Closed}}},

		// Other ends.
		{"hijacked", served[:len(served)-2], []row{
			{hijack, 0, Hijacked}, {comes("\r\n"), 0, Hijacked}, {sets(idle), RestoreDeadline, Hijacked}, {wake(ToOffer), 0, Hijacked},
			{closeIt, 0, Released}, {closeIt, 0, Released}}},
		{"hijacked, and offered by its handler", served[:len(served)-2], []row{
			{hijack, 0, Hijacked}, {offer, 0, OfferedHijacked}, {sets(idle), RestoreDeadline, OfferedHijacked}, {kept, 0, Hijacked},
			{offer, 0, OfferedHijacked}, {taken, EOF, Migrated}, {sets(idle), 0, Migrated}, {closeIt, 0, Closed}}},
		{"hijacked, offered, and closed forcibly", served[:len(served)-2], []row{
			{hijack, 0, Hijacked}, {offer, 0, OfferedHijacked}, {closeIt, 0, Released}, {taken, 0, Released}}},
		{"the client closes", parked, []row{{ends(Failed, Empty), 0, Arriving}, {closeIt, 0, Closed}}},
		{"migrated, and the copy is closed", served, []row{
			{reads(whole), Rest, AtRest}, {offer, 0, Offered}, {taken, EOF, Migrated}, {sets(idle), 0, Migrated}, {closeIt, 0, Closed}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var m Machine
			run(t, &m, append(test.from[:len(test.from):len(test.from)], test.rows...))
		})
	}
}

func run(t *testing.T, m *Machine, rows []row) {
	t.Helper()
	for i, r := range rows {
		if do := r.step(m); do != r.do || m.State() != r.to {
			t.Fatalf("step %d: got action %b in state %v, want %b in %v", i, do, m.State(), r.do, r.to)
		}
	}
}

// An adopted connection keeps the deadline that it had until its first byte; net/http takes
// it for a new one.
func TestAdopted(t *testing.T) {
	first := []row{
		{block, 0, Waiting},
		{ends(Readable, Arrived), 0, Accepted}, // net/http gets it
		{sets(hurry), 0, Accepted},
		{reads(probe), Rest, AtRest},
		{block, 0, Waiting},
	}
	for name, rows := range map[string][]row{
		"a request comes":                   {{comes(get[:5]), HeaderDeadline | IsHTTP1, Arriving}, {sets(none), RestoreDeadline, Arriving}},
		"a wake-up, and a request comes":    {{wake(ToOffer), WakeUp, WokenToOffer}, {comes(get), LeaveWindow | HeaderDeadline | IsHTTP1, Arriving}},
		"empty lines come":                  {{comes("\r\n"), Rest, AtRest}, {sets(hurry), 0, AtRest}},
		"the drain begins, and it moves on": {{wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Arrived), RestoreDeadline | Rest, AtRestWoken}, {offer, 0, OfferedWoken}, {taken, EOF | LeaveWindow, Migrated}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, used := range []bool{false, true} {
				m := Adopt(Exported{Used: used, Deadline: idle})
				run(t, &m, first)
				if m.Deadline() != idle {
					t.Errorf("got the deadline %v of net/http, want that of the adoption", m.Deadline())
				}
				run(t, &m, rows)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		m := Adopt(Exported{Used: true, Deadline: idle})
		run(t, &m, []row{{block, 0, Waiting}, {wake(ToOffer), WakeUp, WokenToOffer}, {ends(Timeout, Empty), RestoreDeadline | Rest, AtRestWoken}, {offer, 0, OfferedWoken}})
		if e, ok := m.Export(); !ok || e != (Exported{Used: true, Deadline: idle}) {
			t.Errorf("got %+v, %v, want what was adopted", e, ok)
		}
	})
}

// Only a connection that is offered can be exported: nobody reads from it.
func TestExport(t *testing.T) {
	var m Machine
	for i, r := range parked {
		r.step(&m)
		if _, ok := m.Export(); ok {
			t.Errorf("step %d: exported in state %v", i, m.State())
		}
	}
	m.Wake(ToOffer)
	m.Returned(nil, Timeout, Empty)
	if !m.Offer() || !m.InWindow() {
		t.Fatalf("not offered in state %v", m.State())
	}
	if e, ok := m.Export(); !ok || !e.Used || e.Deadline != idle {
		t.Errorf("got %+v, %v", e, ok)
	}
}

func TestGrace(t *testing.T) {
	const grace = time.Second
	var m Machine
	run(t, &m, parked)
	if m.WaitingSince() != start {
		t.Errorf("got %v, want the time of Block", m.WaitingSince())
	}
	end, do := m.Expire(start, grace)
	if end != start.Add(grace) || do != 0 {
		t.Fatalf("at first: got %v, %b, want the grace to begin", end, do)
	}
	if end, do = m.Expire(start.Add(grace/2), grace); end != start.Add(grace) || do != 0 {
		t.Fatalf("half way: got %v, %b, want the same end", end, do)
	}
	if _, do = m.Expire(start.Add(grace), grace); do != WakeUp || !m.IsEnding() {
		t.Fatalf("at the end: got %b in state %v", do, m.State())
	}
	m.Returned(nil, Timeout, Arrived) // in this moment, but only an empty line
	m.Block(start)
	m.Returned([]byte("\r\n"), OK, Empty)
	m.Block(start)
	if end, _ = m.Expire(start.Add(2*grace), grace); end != start.Add(3*grace) {
		t.Errorf("after bytes: got the end %v, want a whole grace", end)
	}
	m.Returned([]byte(get), OK, Empty)
	m.BecomeActive(true, start)
	m.BecomeIdle()
	m.SetDeadline(idle)
	m.Read(whole, true)
	m.Block(start)
	if end, _ = m.Expire(start.Add(3*grace), grace); end != start.Add(4*grace) {
		t.Errorf("after a request: got the end %v, want a whole grace", end)
	}
	if _, do = m.Expire(start.Add(4*grace), -1); do != WakeUp {
		t.Errorf("got %b, want a wake-up", do)
	}
}

// A client that pipelines once is waited for; one that always does is not.
func TestPipelines(t *testing.T) {
	const grace = time.Second
	var m Machine
	run(t, &m, served)
	for i := range aheadBoundaries {
		if m.Pipelines(start.Add(time.Hour), grace) {
			t.Errorf("after %d boundaries", i)
		}
		run(t, &m, []row{{sets(none), RestoreDeadline, Arriving}})
		m.BecomeActive(true, start.Add(time.Duration(i)))
		run(t, &m, []row{{handle, 0, Handling}, {toIdle, 0, Ended}, {sets(idle), RestoreDeadline, Idle}})
	}
	if m.Pipelines(start.Add(grace-1), grace) || !m.Pipelines(start.Add(grace), grace) {
		t.Error("does not begin with the grace after the first boundary")
	}
}

// The preface may come in pieces, and frames with its end.
func TestPreface(t *testing.T) {
	for at := range Preface {
		var m Machine
		run(t, &m, fresh)
		do := Action(0)
		if at > 0 {
			do = comes(Preface[:at])(&m)
		}
		last := []byte(Preface[at:] + "frames")
		if _, do2 := m.Returned(last, OK, Empty); do != 0 || do2 != SwitchToHTTP2 || string(m.Frames(last)) != "frames" {
			t.Errorf("split after %q: got %b, %b, %q", Preface[:at], do, do2, m.Frames(last))
		}
	}
}

func TestStates(t *testing.T) {
	for s := range states {
		if s.String() == "" || strings.Contains(s.String(), " ") {
			t.Errorf("state %d has the name %q", s, s)
		}
	}
}

var stateNames = [states]string{"Accepted", "Ended", "Idle", "AtRest", "AtRestWoken", "Offered", "OfferedWoken", "Waiting",
	"WokenToOffer", "WokenToExpire", "WokenToReclaim", "Partial", "Begun", "Arriving", "Active", "Handling", "Body",
	"Abandoned", "Hijacked", "OfferedHijacked", "HTTP2", "HTTP2Woken", "HTTP2Offered", "HTTP2OfferedWoken", "Ending", "Migrated", "Closed", "Released"}

// String returns the name of the constant.
func (s State) String() string { return stateNames[s] }
