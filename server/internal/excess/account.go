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

import (
	"sync"
	"time"

	"example.com/baton/server/internal/frames"
)

// Account is what a client has asked for beyond what it has taken. It is safe for
// concurrent use.
type Account struct {
	mu               sync.Mutex
	last             uint32              // the latest request that has begun
	open             map[uint32]struct{} // those that were neither answered nor reset
	resets, overhead budget
}

// maxStreams is beyond what net/http lets be open, or waits to reset.
const maxStreams = 20_000

// NewAccount returns the account of a connection that begins.
func NewAccount() *Account {
	return &Account{
		open:     make(map[uint32]struct{}),
		resets:   newBudget(resetsAtOnce, resetsPerSecond),
		overhead: newBudget(overheadAtOnce, overheadPerSecond),
	}
}

// State is what an account has left. Another process goes on with it.
type State struct {
	Resets   float64 `json:"resets"`
	Overhead float64 `json:"overhead"`
}

// Export returns what the account has left.
func (a *Account) Export() State {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.resets.fill(now)
	a.overhead.fill(now)
	return State{a.resets.left, a.overhead.left}
}

// Adopt returns the account of a connection that another process has exported, on which no
// stream is open.
func Adopt(last uint32, s State) *Account {
	a := NewAccount()
	a.last = last
	a.resets.left = min(s.Resets, a.resets.most)
	a.overhead.left = min(s.Overhead, a.overhead.most)
	return a
}

// LastStream returns the latest request that has begun.
func (a *Account) LastStream() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// Received notes a frame that the client has sent, and returns what there are too many
// of, or "". Requests that net/http ignores, as it does after its GOAWAY, are not open.
func (a *Account) Received(f frames.Frame, ignored bool) (excess string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	resets, cost := 0, frames.HeaderLen+f.Length-carriedPays*f.Carried()
	switch f.Type {
	case frames.Headers:
		if !ignored && f.Stream > a.last { // of a request; else a trailer
			a.last = f.Stream
			a.open[f.Stream] = struct{}{}
		}
		if !ignored && len(a.open) > maxStreams {
			excess = "streams"
		}
	case frames.RSTStream:
		if a.end(f.Stream) {
			resets = 1
		}
	case frames.Data: // the rest of an upload to which the response was early is reset, each frame of it
		if _, open := a.open[f.Stream]; !open {
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
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := f.Carried(); n > 0 {
		a.overhead.spend(-carriedPays * n)
	}
	switch {
	case f.EndsResponse():
		if a.end(f.Stream) {
			a.resets.spend(-1)
		}
	case f.Type == frames.RSTStream:
		if a.end(f.Stream) && f.Refuses() {
			a.resets.spend(1)
		}
	}
}

// end reports whether a stream has been open until now.
func (a *Account) end(id uint32) bool {
	_, open := a.open[id]
	delete(a.open, id)
	return open
}
