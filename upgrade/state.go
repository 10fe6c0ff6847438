package upgrade

import (
	"fmt"
	"slices"
)

// State is where a generation stands in its life.
type State int

const (
	// Starting: it is not ready. Next: Serving.
	Starting State = iota
	// Serving: it accepts connections. Next: Upgrading, or Draining at a stop.
	Serving
	// Upgrading: it accepts connections, and a successor starts. Next: Draining
	// when that one serves or at a stop, Serving if that one failed.
	Upgrading
	// Draining: a successor serves, or the service stops. Next: Exited.
	Draining
	// Exited: nothing is left to do.
	Exited
)

var stateNames = [...]string{"starting", "serving", "upgrading", "draining", "exited"}

// String returns the state's name as logs, metrics and reports spell it.
func (s State) String() string { return stateNames[s] }

var transitions = map[State][]State{
	Starting:  {Serving},
	Serving:   {Upgrading, Draining},
	Upgrading: {Serving, Draining},
	Draining:  {Exited},
}

// enter changes the state. A transition that the table does not have is a
// mistake in this package.
func (g *Generation) enter(to State) {
	g.mu.Lock()
	from := g.state
	if !slices.Contains(transitions[from], to) {
		g.mu.Unlock()
		panic(fmt.Sprintf("upgrade: no transition from %v to %v", from, to))
	}
	g.state = to
	g.mu.Unlock()
	g.log.Info("state changed", "from", from.String(), "to", to.String())
	for _, o := range g.observers {
		o.StateChanged(from, to)
	}
}

// State returns where the generation stands.
func (g *Generation) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}
