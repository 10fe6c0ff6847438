// Package excess bounds what a client of HTTP/2 makes a server do for nothing.
//
// net/http bounds how much of a client's demand is queued, but not how much there is in
// a connection's life: requests that are reset as soon as they are made, frames that
// carry nothing. An [Account] follows the frames of a connection in both directions. What
// costs the server more than the client is paid for from two budgets, one for streams
// that are reset and one for bytes of overhead. Time fills them, and so does useful
// traffic: responses that complete, and bytes of headers and bodies. Whoever overdraws
// one is refused; the values leave room for any browser, crawler or proxy.
package excess

import "example.com/baton/server/internal/frames"

// Account is what a client has asked for beyond what it has taken. It is safe for
// concurrent use.
type Account struct {
	streams          *streams
	resets, overhead *budget
}

// NewAccount returns the account of a connection that begins.
func NewAccount() *Account {
	return &Account{
		streams:  newStreams(),
		resets:   newBudget(resetsAtOnce, resetsPerSecond),
		overhead: newBudget(overheadAtOnce, overheadPerSecond),
	}
}

// LastStream returns the latest request that has begun.
func (a *Account) LastStream() uint32 { return a.streams.latest() }

// Received notes a frame that the client has sent, and returns what there are too many
// of, or "". Requests that net/http ignores, as it does after its GOAWAY, are not open.
func (a *Account) Received(f frames.Frame, ignored bool) (excess string) {
	resets, cost := 0, frames.HeaderLen+f.Length-carriedPays*f.Carried()
	switch f.Type {
	case frames.Headers:
		if !ignored && !a.streams.begin(f.Stream) {
			excess = "streams"
		}
	case frames.RSTStream:
		if a.streams.end(f.Stream) {
			resets = 1
		}
	case frames.Data: // the rest of an upload to which the response was early is reset, each frame of it
		if !a.streams.isOpen(f.Stream) {
			cost = 2*frames.HeaderLen + 4
		}
	}
	if !a.resets.spend(resets) { // with 0: the server may have reset streams meanwhile
		excess = "reset streams"
	}
	if !a.overhead.spend(cost) {
		excess = "frames that carry nothing"
	}
	return excess
}

// Sent notes a frame that net/http has sent. [Account.Received] reports what is overdrawn.
func (a *Account) Sent(f frames.Frame) {
	if n := f.Carried(); n > 0 {
		a.overhead.spend(-carriedPays * n)
	}
	switch {
	case f.EndsResponse():
		if a.streams.end(f.Stream) {
			a.resets.spend(-1)
		}
	case f.Type == frames.RSTStream:
		if a.streams.end(f.Stream) && f.Refuses() {
			a.resets.spend(1)
		}
	}
}
