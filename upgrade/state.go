package upgrade

import (
	"slices"

	"example.com/baton/upgrade/internal/lifecycle"
)

// State is where a generation stands in its life.
type State int

const (
	// Starting: it is not ready. Next: Probation, or Serving if no predecessor decides.
	Starting State = iota
	// Probation: it could serve, or does so on trial. Its predecessor decides whether it accepts
	// connections, and whether that is for good.
	// Next: Serving, or Draining if it is not.
	Probation
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

var stateNames = [...]string{"starting", "probation", "serving", "upgrading", "draining", "exited"}

// String returns the state's name as logs, metrics and reports spell it.
func (s State) String() string { return stateNames[s] }

// stateOf returns a phase as others see it: a draining generation is one to them, whatever
// it waits for.
func stateOf(p lifecycle.Phase) State {
	switch p {
	case lifecycle.Standby, lifecycle.Probation:
		return Probation
	case lifecycle.Serving:
		return Serving
	case lifecycle.Upgrading:
		return Upgrading
	case lifecycle.Exited:
		return Exited
	}
	if slices.Contains([]lifecycle.Phase{lifecycle.Checking, lifecycle.Checked, lifecycle.Preparing, lifecycle.Aborting, lifecycle.Failed}, p) {
		return Starting
	}
	return Draining
}

// enter notes a change of the phase, and notifies the observers if others see it.
func (g *Generation) enter(from, to lifecycle.Phase) {
	before, after := stateOf(from), stateOf(to)
	if before == after {
		return
	}
	g.mu.Lock()
	g.state = after
	g.mu.Unlock()
	g.log.Info("state changed", "from", before.String(), "to", after.String())
	for _, o := range g.observers {
		o.StateChanged(before, after)
	}
}

// State returns where the generation stands.
func (g *Generation) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}
