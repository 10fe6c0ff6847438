package boundary

import "time"

// Preface is what a client of HTTP/2 sends first: RFC 9113, section 3.4.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// aheadBoundaries is how many boundaries in a drain must pass without the connection coming
// to rest before its client is thought to pipeline always. A client that does not may look
// so once, if its next request comes before net/http has finished the last.
const aheadBoundaries = 5

// Machine is the boundary machine of one connection. It must be used by one goroutine at a
// time. The zero Machine is that of a connection that has just been accepted.
type Machine struct {
	state   State
	adopted bool // by this process, and without a byte since: deadline is the adoption's

	// What a successor has to know.
	used     bool      // the connection has carried a request
	deadline time.Time // for reading, as net/http or the handler wants it

	discardEnd time.Time // by which the rest of a body that is discarded must have come
	since      time.Time // since when the connection is Waiting
	graceEnd   time.Time // when the idle grace ends, in a drain

	number   int      // of the request that reached its handler last
	requests requests // in what the client has sent
	reading  reading
	pipeline pipeline
}

// reading is what is known of the way in which net/http reads.
type reading struct {
	buffer    int  // length of its buffer; 0: not known
	delivered int  // bytes that it got until buffer and protocol are known
	http1     bool // what was delivered is not the preface of HTTP/2
}

// pipeline is what is known of a client that sends requests ahead in a drain.
type pipeline struct {
	rested bool      // the connection came to rest since the last request
	ahead  int       // how often it did not
	since  time.Time // when that was first
}

// Exported is what another process needs to go on with a connection at rest.
type Exported struct {
	Used     bool      // the connection has carried a request
	Deadline time.Time // until when it may be idle; the zero time: without limit
}

// Adopt returns the machine of a connection that another process has exported. Until its
// first byte it keeps the deadline that it had: net/http takes it for a new one.
func Adopt(e Exported) Machine {
	return Machine{adopted: true, used: e.Used, deadline: e.Deadline, state: AtRest}
}

// AdoptHTTP2 returns the machine of a connection whose client speaks HTTP/2.
func AdoptHTTP2() Machine { return Machine{used: true, state: HTTP2} }

// Export returns what a successor needs, and whether the connection is at rest and nobody
// reads from it. The connection must have been offered.
func (m *Machine) Export() (e Exported, ok bool) {
	if m.state == OfferedHijacked { // its deadline is the handler's
		return Exported{Used: m.used}, true
	}
	return Exported{m.used, m.deadline}, m.state.isOffered()
}

// handle follows the table.
func (m *Machine) handle(e event) Action {
	t := table[m.state][e]
	if t == nil {
		return 0
	}
	switch m.state {
	case WokenToExpire, WokenToReclaim, Partial:
		m.graceEnd = time.Time{} // if it comes to rest again, it has a whole grace
	}
	m.state = t.to
	return t.do
}

// State returns the state.
func (m *Machine) State() State { return m.state }

// IsClosed reports whether the connection was closed under net/http.
func (m *Machine) IsClosed() bool { return m.state >= Closed }

// Deadline returns the read deadline that net/http or the handler has set.
func (m *Machine) Deadline() time.Time { return m.deadline }

// BodyDeadline returns when a Read of a request's body must have brought something, if it
// may pause for that long.
func (m *Machine) BodyDeadline(now time.Time, pause time.Duration) time.Time {
	end := now.Add(pause)
	if !m.discardEnd.IsZero() && m.discardEnd.Before(end) {
		return m.discardEnd
	}
	return end
}

// Read is a call of Read by net/http with a buffer of the given length. empty says that the
// layers below hold nothing of what the client has sent.
func (m *Machine) Read(buffer int, empty bool) Action {
	quiet := m.state.betweenRequests()
	if quiet && m.reading.buffer == 0 && buffer > len(Preface) { // nothing of what was delivered is consumed
		m.reading.buffer = m.reading.delivered + buffer
	}
	switch {
	case !quiet && buffer == 1:
		return m.handle(readByte)
	case empty && (m.state == Accepted || buffer == m.reading.buffer):
		do := m.handle(readWhole)
		m.pipeline.rested = m.pipeline.rested || m.state == AtRest
		return do
	}
	return m.handle(readPart)
}

// AdoptHijacked returns the machine of a connection that a handler in another process had
// taken over.
func AdoptHijacked() Machine { return Machine{used: true, state: Hijacked} }

// Offer reports whether the connection is at rest, so that it can be offered to the
// successor. Nothing may be read or written until Answer. It is for the handler to say that
// of one that is Hijacked.
func (m *Machine) Offer() bool {
	m.handle(offers)
	return m.state.isOffered()
}

// Pass says that net/http gets a frame of HTTP/2.
func (m *Machine) Pass() Action { return m.handle(passes) }

// InWindow reports whether the connection has a place in the migrator's window, and is at rest
// or offered.
func (m *Machine) InWindow() bool {
	switch m.state {
	case AtRestWoken, OfferedWoken, HTTP2Woken, HTTP2OfferedWoken:
		return true
	}
	return false
}

// Answer says whether the successor has taken the connection.
func (m *Machine) Answer(taken bool) Action {
	if taken {
		return m.handle(takes)
	}
	return m.handle(keeps)
}

// Block is called when the reader of a connection at rest is about to Read from the layer
// below.
func (m *Machine) Block(now time.Time) Action {
	m.since = now
	return m.handle(blocks)
}

// StartGrace has the idle grace end then, unless it runs already.
func (m *Machine) StartGrace(end time.Time) {
	if m.graceEnd.IsZero() {
		m.graceEnd = end
	}
}

// Expire wakes the reader if the connection is Waiting and its grace, which begins now if
// it has not, is over. It returns when the grace ends, or the zero time if it is over or
// does not run.
func (m *Machine) Expire(now time.Time, grace time.Duration) (end time.Time, do Action) {
	if m.state != Waiting {
		return time.Time{}, 0
	}
	m.StartGrace(now.Add(max(grace, 0)))
	if now.Before(m.graceEnd) {
		return m.graceEnd, 0
	}
	return time.Time{}, m.Wake(ToExpire)
}

// WaitingSince returns since when the connection is Waiting, or the zero time.
func (m *Machine) WaitingSince() time.Time {
	if m.state != Waiting {
		return time.Time{}
	}
	return m.since
}

// IsWaiting reports whether the reader is blocked in a Read that began at rest.
func (m *Machine) IsWaiting() bool { return m.state >= Waiting && m.state <= WokenToReclaim }

// Wake wakes the reader of a connection that is Waiting. It does nothing in any other state.
func (m *Machine) Wake(p Purpose) Action {
	return m.handle([...]event{ToOffer: wakesToOffer, ToExpire: wakesToExpire, ToReclaim: wakesToReclaim}[p])
}

// IsEnding reports whether the reader is being woken to close the connection. Then
// Returned wants to know whether the socket is readable.
func (m *Machine) IsEnding() bool { return m.state == WokenToExpire || m.state == WokenToReclaim }

// Result says how a Read from the layer below has ended.
type Result uint8

const (
	OK       Result = iota // without an error
	Timeout                // a read deadline has passed
	Failed                 // with any other error
	Readable               // it was not called, but the socket is readable: see Adopt
)

// Below says what the layers below hold when a Read has ended.
type Below uint8

const (
	Empty   Below = iota // nothing
	Arrived              // something has arrived and was not read
	Part                 // a part of a record or of a handshake
)

// Returned says how a Read from the layer below has ended. It removes from p, which that
// Read has brought, the empty lines before a request, and returns how much is left for
// net/http.
func (m *Machine) Returned(p []byte, r Result, below Below) (n int, do Action) {
	if n = len(p); n > 0 && m.state != Hijacked {
		n = m.requests.follow(p)
	}
	switch {
	case n > 0:
		return n, m.deliver(p[:n])
	case r == OK && below == Part:
		return 0, m.handle(part)
	case r == OK:
		return 0, m.handle(nothing)
	case r == Readable:
		return 0, m.handle(firstByte)
	case r == Failed:
		return 0, m.handle(fails)
	case !m.state.woken():
		return 0, m.handle(late)
	case below == Part:
		return 0, m.handle(part)
	case below == Arrived:
		return 0, m.handle(nothing)
	}
	return 0, m.handle(silent)
}

func (m *Machine) deliver(p []byte) Action {
	if !m.state.betweenRequests() {
		return 0
	}
	do := m.handle(delivers)
	if m.adopted {
		m.adopted = false
		m.state, do = Arriving, do&^RestoreDeadline|HeaderDeadline
	}
	if m.state == Begun && !m.used { // the header timeout of a new connection runs from the beginning
		m.state = Arriving
	}
	if m.reading.buffer == 0 || !m.reading.http1 {
		do |= m.recognize(p)
	}
	return do
}

// recognize looks for the preface of HTTP/2 in the first bytes of a connection.
func (m *Machine) recognize(p []byte) Action {
	at := m.reading.delivered
	m.reading.delivered += len(p)
	if m.reading.http1 {
		return 0
	}
	n := min(len(p), len(Preface)-at)
	switch {
	case string(p[:n]) != Preface[at:at+n]:
		m.reading.http1 = true
		return IsHTTP1
	case at+n == len(Preface):
		return m.handle(http2)
	}
	return 0
}

// Frames returns the part of p that follows the preface of HTTP/2, with which p has ended
// the first bytes of the connection.
func (m *Machine) Frames(p []byte) []byte { return p[len(p)-(m.reading.delivered-len(Preface)):] }

// SetDeadline is a call of SetReadDeadline by net/http, or by a handler while it reads a
// body: its deadline is then the one that holds.
func (m *Machine) SetDeadline(t time.Time) Action {
	if m.adopted {
		return 0
	}
	m.deadline = t
	if t.IsZero() {
		return m.handle(noDeadline)
	}
	return m.handle(deadline)
}

// BecomeActive is StateActive of net/http.
func (m *Machine) BecomeActive(draining bool, now time.Time) {
	m.handle(becomesActive)
	m.graceEnd = time.Time{}
	if draining && !m.pipeline.rested {
		if m.pipeline.ahead++; m.pipeline.ahead == 1 {
			m.pipeline.since = now
		}
	}
}

// BecomeIdle is StateIdle of net/http.
func (m *Machine) BecomeIdle() {
	m.handle(becomesIdle)
	m.used, m.pipeline.rested = true, false
}

// Hijack is StateHijacked of net/http.
func (m *Machine) Hijack() { m.handle(becomesHijacked) }

// Pipelines reports whether the client sends requests ahead, so that the connection does not
// come to rest: it has had the grace for that since the first boundary in the drain at which
// it did not, and a few more boundaries.
func (m *Machine) Pipelines(now time.Time, grace time.Duration) bool {
	return m.pipeline.ahead >= aheadBoundaries && now.Sub(m.pipeline.since) >= grace
}

// Handle is the call of the handler.
func (m *Machine) Handle(hasBody bool) {
	m.number++
	m.discardEnd = time.Time{}
	if hasBody {
		m.handle(handlesBody)
	} else {
		m.handle(handles)
	}
}

// Discard says that the rest of a body is read only to be discarded, and until when: by a
// Read that is under way, too, if underWay is set.
func (m *Machine) Discard(end time.Time, underWay bool) Action {
	m.discardEnd = end
	if underWay {
		return m.handle(discards)
	}
	return 0
}

// Abandon says that nobody reads the rest of the body. The connection ends with the response
// that is under way.
func (m *Machine) Abandon() { m.handle(abandons) }

// Refuse says that the client is not served.
func (m *Machine) Refuse() Action { return m.handle(refuses) }

// Close says that the connection is closed under net/http.
func (m *Machine) Close() Action { return m.handle(closes) }

// IsMalformed reports whether the present request must not be served: its length is given in
// two ways.
func (m *Machine) IsMalformed() bool { return m.requests.bad == m.number }

// IsUnknown reports whether the present request was not recognized when it came.
func (m *Machine) IsUnknown() bool { return m.requests.whole < m.number }

// Awaits reports whether requests have come, or begun to, behind the present one. They are
// counted when it is called first, with the number of bytes that have come and were not
// read: a client that sends without end is not waited for.
func (m *Machine) Awaits(pending int64) bool { return m.requests.awaits(m.number, pending) }

// SentAhead reports whether Awaits has ever been true.
func (m *Machine) SentAhead() bool { return m.requests.ahead }
