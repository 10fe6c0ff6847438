package upgrade

import "time"

// Observer is notified of what happens to a generation. [Generation.Observe]
// registers one. Its methods are called by the goroutine of [Generation.Run], in
// the order of registration, and must not block: everything else waits meanwhile.
// What a generation has to do at its end is for [Generation.OnExit].
type Observer interface {
	// StateChanged is called after each change of state.
	StateChanged(from, to State)
	// Ready is called once in a successor, with the time from the trigger of the
	// upgrade to readiness.
	Ready(took time.Duration)
	// PredecessorDrained is called with the final report of a predecessor.
	PredecessorDrained(Drained)
	// Orphaned is called in a generation that drains if its successor dies after it
	// has taken over, and no other process could be executed in its place, or that one has
	// died as well: no process accepts connections any more.
	Orphaned()
}

// NopObserver is an [Observer] that does nothing. It is for embedding in those that
// are interested in some of the events only.
type NopObserver struct{}

// StateChanged does nothing.
func (NopObserver) StateChanged(from, to State) {}

// Ready does nothing.
func (NopObserver) Ready(took time.Duration) {}

// PredecessorDrained does nothing.
func (NopObserver) PredecessorDrained(Drained) {}

// Orphaned does nothing.
func (NopObserver) Orphaned() {}

// Observe registers an observer. It must not be called after [Generation.Run].
func (g *Generation) Observe(o Observer) { g.observers = append(g.observers, o) }
