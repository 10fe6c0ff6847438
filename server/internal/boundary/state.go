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
	// AtRestWoken is AtRest after a wake-up by the migrator that brought nothing. The connection
	// has a place in the migrator's window.
	AtRestWoken
	// Offered: the successor is asked to take the connection. Nobody reads from it.
	Offered
	// OfferedWoken is Offered, and the connection has a place in the migrator's window.
	OfferedWoken
	// Waiting: the reader is blocked, or about to be, in a Read that began at rest.
	Waiting
	// WokenToOffer: that Read is being woken so that the connection is offered. The
	// connection has a place in the migrator's window.
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
	// OfferedHijacked: the successor is asked to take it. Its handler neither reads nor writes.
	OfferedHijacked
	// HTTP2: the client speaks HTTP/2, whose frames tell what is under way, and when the
	// connection is at rest.
	HTTP2
	// HTTP2Woken is HTTP2 at rest, when the reader is being woken so that the connection is
	// offered. The connection has a place in the migrator's window.
	HTTP2Woken
	// HTTP2Offered is Offered.
	HTTP2Offered
	// HTTP2OfferedWoken is OfferedWoken.
	HTTP2OfferedWoken
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

// betweenRequests reports whether net/http has no whole header of a request that is not
// answered.
func (s State) betweenRequests() bool { return s <= Arriving }

// woken reports whether a deadline in the past is set on the socket.
func (s State) woken() bool { return s >= WokenToOffer && s <= WokenToReclaim }

// Shared reports whether the successor has the connection, or may take it: nothing may be
// written to it, and closing the copy does not end it.
func (s State) Shared() bool { return s.isOffered() || s == Migrated }

// isOffered reports whether the successor is asked to take the connection.
func (s State) isOffered() bool {
	switch s {
	case Offered, OfferedWoken, OfferedHijacked, HTTP2Offered, HTTP2OfferedWoken:
		return true
	}
	return false
}

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
	// LeaveWindow: give back the connection's place in the migrator's window.
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
