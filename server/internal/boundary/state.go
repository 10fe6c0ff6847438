package boundary

// State says what the calls of net/http prove about a connection.
type State uint8

const (
	// Accepted: net/http has not called Read.
	Accepted State = iota
	// Ended: net/http has reported StateIdle, and not set the deadline for idleness yet.
	Ended
	// Idle: it has set that deadline and no other one, and not called Read.
	Idle
	// AtRest: net/http has called Read and holds nothing. The reader has not blocked yet.
	AtRest
	// AtRestWoken is AtRest after a wake-up by the mover that brought nothing. The connection
	// has a place in the mover's window.
	AtRestWoken
	// Offered: the successor is asked to take the connection. Nobody reads from it.
	Offered
	// OfferedWoken is Offered, and the connection has a place in the mover's window.
	OfferedWoken
	// Waiting: the reader is blocked, or about to be, in a Read that began at rest.
	Waiting
	// WokenToOffer: that Read is being woken so that the connection is offered. The
	// connection has a place in the mover's window.
	WokenToOffer
	// WokenToExpire: it is being woken because its idle grace is over.
	WokenToExpire
	// WokenToReclaim: it is being woken because its descriptor is needed.
	WokenToReclaim
	// Partial: net/http holds nothing, but a layer below holds the beginning of something:
	// a TLS handshake, or a part of a record.
	Partial
	// Begun: bytes were delivered after an idle period, and the header timeout does not run.
	Begun
	// Arriving: net/http may hold a part of a header, and the header timeout runs.
	Arriving
	// Active: net/http has read a whole header, and not called the handler.
	Active
	// Handling: a handler runs, and the body timeout does not apply.
	Handling
	// Body: the request has a body, of which each Read must bring something in time.
	Body
	// Abandoned: nobody reads the rest of the body. The response is the last.
	Abandoned
	// Hijacked: a handler has taken the connection over.
	Hijacked
	// HTTP2: the client speaks HTTP/2, whose frames tell what is under way.
	HTTP2
	// Ending: nothing more is read. The client is not served, or was idle for too long.
	Ending
	// Migrated: the successor has the connection. What is here is a copy.
	Migrated
	// Closed: the connection was closed under net/http.
	Closed
	// Released is Closed after Hijacked.
	Released

	states
)

var stateNames = [states]string{"Accepted", "Ended", "Idle", "AtRest", "AtRestWoken", "Offered", "OfferedWoken", "Waiting",
	"WokenToOffer", "WokenToExpire", "WokenToReclaim", "Partial", "Begun", "Arriving", "Active", "Handling", "Body",
	"Abandoned", "Hijacked", "HTTP2", "Ending", "Migrated", "Closed", "Released"}

// String returns the name of the constant.
func (s State) String() string { return stateNames[s] }

// betweenRequests reports whether net/http has no whole header of a request that is not
// answered.
func (s State) betweenRequests() bool { return s <= Arriving }

// woken reports whether a deadline in the past is set on the socket.
func (s State) woken() bool { return s >= WokenToOffer && s <= WokenToReclaim }

// Purpose says why the reader of a connection at rest is woken.
type Purpose uint8

const (
	ToOffer   Purpose = iota // to offer the connection to the successor
	ToExpire                 // to close it: its idle grace is over
	ToReclaim                // to close it: its descriptor is needed
)

// Action says what the caller has to do. Several may be combined.
type Action uint16

const (
	// Rest: the connection is at rest. Offer it, or call Block and then Read from the layer
	// below.
	Rest Action = 1 << iota
	// Continue: Read from the layer below again, without returning to net/http.
	Continue
	// EOF: return io.EOF to net/http, and no other error: with one it might write to a
	// connection that the successor has.
	EOF
	// WakeUp: set a read deadline in the past.
	WakeUp
	// RestoreDeadline: set the read deadline that Machine.Deadline returns.
	RestoreDeadline
	// HeaderDeadline: set a read deadline by which a header must have come.
	HeaderDeadline
	// BodyDeadline: set the read deadline that Machine.BodyDeadline returns.
	BodyDeadline
	// LeaveWindow: give back the connection's place in the mover's window.
	LeaveWindow
	// TimedOut: a deadline that holds for the client has passed.
	TimedOut
	// Expired: close the connection, because its idle grace is over.
	Expired
	// Reclaimed: close the connection, because its descriptor is needed.
	Reclaimed
	// SwitchToHTTP2: the preface of HTTP/2 has come. Machine.Frames returns what follows it.
	SwitchToHTTP2
	// IsHTTP1: what has come is not the preface of HTTP/2.
	IsHTTP1
)

// event is what happens, as far as the table distinguishes it.
type event uint8

const (
	readWhole       event = iota // net/http calls Read with the whole of its buffer, and no layer below holds anything
	readPart                     // it calls Read otherwise
	readByte                     // it calls Read for one byte: it watches for the client's end
	deadline                     // it sets a read deadline
	noDeadline                   // it sets none
	becomesActive                // it reports StateActive
	becomesIdle                  // it reports StateIdle
	becomesHijacked              // it reports StateHijacked
	handles                      // the handler is called for a request without a body
	handlesBody                  // the handler is called for a request with one
	discards                     // the rest of the body is read by us, to be discarded
	abandons                     // nobody reads the rest of the body
	blocks                       // the reader is about to Read from the layer below
	offers                       // the connection is offered
	keeps                        // the successor has not taken it
	takes                        // the successor has taken it
	wakesToOffer
	wakesToExpire
	wakesToReclaim
	firstByte // an adopted connection is readable; net/http does not know it yet
	delivers  // the Read brought bytes for net/http
	nothing   // it brought nothing for net/http, but might if it is repeated
	part      // it brought nothing for net/http, and a layer below holds a part of something
	silent    // it was woken, nothing has come, and no layer holds anything
	late      // a deadline has passed that was not set to wake it
	fails     // the client has ended the connection, or it has failed
	http2     // what was delivered ends with the preface of HTTP/2
	refuses   // the client is not served
	closes

	events
)

// transition says which state follows, and what is to be done.
type transition struct {
	to State
	do Action
}

// table holds the transitions. An event that a state has no transition for changes
// nothing, and has no action: net/http or a handler that has not noticed the end yet.
var table = func() (t [states][events]*transition) {
	on := func(from State, e event, to State, do Action) { t[from][e] = &transition{to, do} }
	each := func(from []State, e event, to State, do Action) {
		for _, s := range from {
			on(s, e, to, do)
		}
	}
	var quiet, open []State // between two requests; all that can be closed
	for s := range states {
		if s.betweenRequests() {
			quiet = append(quiet, s)
		}
		if s < Closed {
			open = append(open, s)
		}
	}

	// net/http reads.
	on(Accepted, readWhole, AtRest, Rest)
	on(Accepted, readPart, Arriving, 0)
	on(Ended, readWhole, Arriving, 0) // it always sets a deadline first
	on(Ended, readPart, Arriving, 0)
	on(Idle, readWhole, AtRest, Rest)
	on(Idle, readPart, Arriving, HeaderDeadline) // too few bytes for net/http to set it
	on(Begun, readWhole, Arriving, HeaderDeadline)
	on(Begun, readPart, Arriving, HeaderDeadline)
	on(Body, readWhole, Body, BodyDeadline)
	on(Body, readPart, Body, BodyDeadline)
	for _, s := range []State{Abandoned, Ending, Migrated} {
		each([]State{s}, readWhole, s, EOF)
		each([]State{s}, readPart, s, EOF)
		each([]State{s}, readByte, s, EOF)
	}
	on(Hijacked, readByte, Hijacked, 0)

	// Its deadlines and states.
	on(Ended, deadline, Idle, RestoreDeadline)
	on(Ended, noDeadline, Idle, RestoreDeadline)
	for _, s := range []State{Idle, Begun} {
		on(s, deadline, Arriving, RestoreDeadline)
		on(s, noDeadline, Arriving, RestoreDeadline)
	}
	on(Body, deadline, Handling, RestoreDeadline) // the handler's own
	for s := range Closed {
		for _, e := range []event{deadline, noDeadline} {
			if t[s][e] == nil && !s.woken() && s != Migrated { // a wake-up must not be undone
				on(s, e, s, RestoreDeadline)
			}
		}
	}
	each(quiet, becomesActive, Active, 0)
	each([]State{Active, Handling, Body}, becomesIdle, Ended, 0)
	each([]State{Active, Handling, Body, Abandoned}, becomesHijacked, Hijacked, 0)

	// The handler.
	on(Active, handles, Handling, 0)
	on(Active, handlesBody, Body, 0)
	on(Handling, discards, Body, BodyDeadline)
	on(Body, discards, Body, BodyDeadline)
	each([]State{Active, Handling, Body}, abandons, Abandoned, 0)

	// At rest.
	on(AtRest, offers, Offered, 0)
	on(AtRest, blocks, Waiting, 0)
	on(AtRestWoken, offers, OfferedWoken, 0)
	on(AtRestWoken, blocks, Waiting, LeaveWindow) // it cannot migrate any more
	on(Offered, keeps, AtRest, Rest)
	on(OfferedWoken, keeps, AtRestWoken, Rest)
	on(Offered, takes, Migrated, EOF)
	on(OfferedWoken, takes, Migrated, EOF|LeaveWindow)
	on(Waiting, wakesToOffer, WokenToOffer, WakeUp)
	on(Waiting, wakesToExpire, WokenToExpire, WakeUp)
	on(Waiting, wakesToReclaim, WokenToReclaim, WakeUp)

	// The blocked Read returns.
	for s, do := range map[State]Action{Waiting: 0, WokenToOffer: RestoreDeadline | LeaveWindow,
		WokenToExpire: RestoreDeadline, WokenToReclaim: RestoreDeadline} {
		on(s, delivers, Begun, do) // Arriving, if the header timeout runs already: see Returned
		on(s, part, Partial, do|Continue)
		on(s, nothing, AtRest, do|Rest)
		on(s, fails, Arriving, do)
		on(s, firstByte, Accepted, do)
	}
	on(Waiting, late, Arriving, TimedOut)
	on(WokenToOffer, nothing, AtRestWoken, RestoreDeadline|Rest)
	on(WokenToOffer, silent, AtRestWoken, RestoreDeadline|Rest)
	on(WokenToExpire, part, Partial, HeaderDeadline|Continue)
	on(WokenToReclaim, part, Partial, HeaderDeadline|Continue)
	on(WokenToExpire, silent, Ending, Expired|EOF)
	on(WokenToReclaim, silent, Ending, Reclaimed|EOF)
	on(Partial, delivers, Begun, 0)
	on(Partial, part, Partial, Continue)
	on(Partial, nothing, AtRest, RestoreDeadline|Rest)
	on(Partial, late, Arriving, TimedOut)
	on(Begun, late, Arriving, TimedOut)
	on(Arriving, late, Arriving, TimedOut)
	on(Body, late, Body, TimedOut)
	for s := range states { // empty lines between requests, or a layer below
		for _, e := range []event{nothing, part} {
			if t[s][e] == nil {
				on(s, e, s, Continue)
			}
		}
	}

	// Ends.
	each(quiet, http2, HTTP2, SwitchToHTTP2)
	each(append(quiet, HTTP2), refuses, Ending, EOF)
	each(open, closes, Closed, 0)
	each([]State{WokenToOffer, AtRestWoken, OfferedWoken}, closes, Closed, LeaveWindow)
	on(Hijacked, closes, Released, 0)
	return t
}()
