package boundary

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
	passes    // net/http gets a frame of HTTP/2
	refuses   // the client is not served
	closes

	events
)

// transition says which state follows, and what is to be done.
type transition struct {
	to State
	do Action
}

// transitions holds a transition for each event that changes something in a state. Any other
// changes nothing, and has no action: net/http, or a handler, has not noticed the end yet.
type transitions [states][events]*transition

var table = func() (t transitions) {
	t.addReads()
	t.addCalls()
	t.addRest()
	t.addReturns()
	t.addHTTP2()
	t.addEnds()
	return t
}()

func (t *transitions) on(from State, e event, to State, do Action) {
	t[from][e] = &transition{to, do}
}

func (t *transitions) each(from []State, e event, to State, do Action) {
	for _, s := range from {
		t.on(s, e, to, do)
	}
}

// those returns the states for which is holds.
func those(is func(State) bool) (found []State) {
	for s := range states {
		if is(s) {
			found = append(found, s)
		}
	}
	return found
}

// addReads adds the calls of Read by net/http.
func (t *transitions) addReads() {
	t.on(Accepted, readWhole, AtRest, Rest)
	t.on(Accepted, readPart, Arriving, 0)
	t.on(Ended, readWhole, Arriving, 0) // it always sets a deadline first
	t.on(Ended, readPart, Arriving, 0)
	t.on(Idle, readWhole, AtRest, Rest)
	t.on(Idle, readPart, Arriving, HeaderDeadline) // too few bytes for net/http to set it
	t.on(Begun, readWhole, Arriving, HeaderDeadline)
	t.on(Begun, readPart, Arriving, HeaderDeadline)
	t.on(Body, readWhole, Body, BodyDeadline)
	t.on(Body, readPart, Body, BodyDeadline)
	for _, s := range []State{Abandoned, Ending, Migrated} {
		t.each([]State{s}, readWhole, s, EOF)
		t.each([]State{s}, readPart, s, EOF)
		t.each([]State{s}, readByte, s, EOF)
	}
	t.on(Hijacked, readByte, Hijacked, 0)
}

// addCalls adds what else net/http and handlers call and report.
func (t *transitions) addCalls() {
	t.on(Active, handles, Handling, 0)
	t.on(Active, handlesBody, Body, 0)
	t.on(Handling, discards, Body, BodyDeadline)
	t.on(Body, discards, Body, BodyDeadline)
	t.each([]State{Active, Handling, Body}, abandons, Abandoned, 0)

	t.each(those(State.betweenRequests), becomesActive, Active, 0)
	t.on(Ended, deadline, Idle, RestoreDeadline)
	t.on(Ended, noDeadline, Idle, RestoreDeadline)
	for _, s := range []State{Idle, Begun} {
		t.on(s, deadline, Arriving, RestoreDeadline)
		t.on(s, noDeadline, Arriving, RestoreDeadline)
	}
	t.on(Body, deadline, Handling, RestoreDeadline) // the handler's own
	for s := range Closed {
		for _, e := range []event{deadline, noDeadline} {
			if t[s][e] == nil && !s.woken() && s != HTTP2Woken && s != Migrated { // a wake-up must not be undone
				t.on(s, e, s, RestoreDeadline)
			}
		}
	}
	t.each([]State{Active, Handling, Body}, becomesIdle, Ended, 0)
	t.each([]State{Active, Handling, Body, Abandoned}, becomesHijacked, Hijacked, 0)
}

// addRest adds what the reader, the migrator and the sweep make of a connection at rest.
func (t *transitions) addRest() {
	t.on(AtRest, offers, Offered, 0)
	t.on(AtRest, blocks, Waiting, 0)
	t.on(AtRestWoken, offers, OfferedWoken, 0)
	t.on(AtRestWoken, blocks, Waiting, LeaveWindow) // it cannot migrate any more
	t.on(Hijacked, offers, OfferedHijacked, 0)
	t.on(OfferedHijacked, keeps, Hijacked, 0)
	t.on(OfferedHijacked, takes, Migrated, EOF)
	t.on(Offered, keeps, AtRest, Rest)
	t.on(OfferedWoken, keeps, AtRestWoken, Rest)
	t.on(Offered, takes, Migrated, EOF)
	t.on(OfferedWoken, takes, Migrated, EOF|LeaveWindow)
	t.on(Waiting, wakesToOffer, WokenToOffer, WakeUp)
	t.on(Waiting, wakesToExpire, WokenToExpire, WakeUp)
	t.on(Waiting, wakesToReclaim, WokenToReclaim, WakeUp)
}

// addReturns adds the ends of Reads from the layer below.
func (t *transitions) addReturns() {
	for s, do := range map[State]Action{Waiting: 0, WokenToOffer: RestoreDeadline | LeaveWindow,
		WokenToExpire: RestoreDeadline, WokenToReclaim: RestoreDeadline} {
		t.on(s, delivers, Begun, do) // Arriving, if the header timeout runs already: see Returned
		t.on(s, part, Partial, do|Continue)
		t.on(s, nothing, AtRest, do|Rest)
		t.on(s, fails, Arriving, do)
		t.on(s, firstByte, Accepted, do)
	}
	t.on(Waiting, late, Arriving, TimedOut)
	t.on(WokenToOffer, nothing, AtRestWoken, RestoreDeadline|Rest)
	t.on(WokenToOffer, silent, AtRestWoken, RestoreDeadline|Rest)
	t.on(WokenToExpire, part, Partial, HeaderDeadline|Continue)
	t.on(WokenToReclaim, part, Partial, HeaderDeadline|Continue)
	t.on(WokenToExpire, silent, Ending, Expired|EOF)
	t.on(WokenToReclaim, silent, Ending, Reclaimed|EOF)
	t.on(Partial, delivers, Begun, 0)
	t.on(Partial, part, Partial, Continue)
	t.on(Partial, nothing, AtRest, RestoreDeadline|Rest)
	t.on(Partial, late, Arriving, TimedOut)
	t.on(Begun, late, Arriving, TimedOut)
	t.on(Arriving, late, Arriving, TimedOut)
	t.on(Body, late, Body, TimedOut)
	for s := range states { // empty lines between requests, or a layer below
		for _, e := range []event{nothing, part} {
			if t[s][e] == nil {
				t.on(s, e, s, Continue)
			}
		}
	}
}

// addHTTP2 adds what becomes of a connection when its client speaks HTTP/2.
func (t *transitions) addHTTP2() {
	t.each(those(State.betweenRequests), http2, HTTP2, SwitchToHTTP2)
	t.on(HTTP2, refuses, Ending, EOF)
	t.on(HTTP2, offers, HTTP2Offered, 0)
	t.on(HTTP2, wakesToOffer, HTTP2Woken, WakeUp)
	t.on(HTTP2Woken, offers, HTTP2OfferedWoken, 0)
	t.on(HTTP2Woken, passes, HTTP2, LeaveWindow) // it is not at rest any more
	t.on(HTTP2Offered, keeps, HTTP2, 0)
	t.on(HTTP2OfferedWoken, keeps, HTTP2, LeaveWindow)
	t.on(HTTP2Offered, takes, Migrated, EOF)
	t.on(HTTP2OfferedWoken, takes, Migrated, EOF|LeaveWindow)
}

// addEnds adds what ends HTTP/1 on the connection.
func (t *transitions) addEnds() {
	t.each(those(State.betweenRequests), refuses, Ending, EOF)
	t.each(those(func(s State) bool { return s < Closed }), closes, Closed, 0)
	t.each([]State{WokenToOffer, AtRestWoken, OfferedWoken, HTTP2Woken, HTTP2OfferedWoken}, closes, Closed, LeaveWindow)
	t.each([]State{Hijacked, OfferedHijacked}, closes, Released, 0)
}
