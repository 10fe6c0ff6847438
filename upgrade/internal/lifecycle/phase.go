package lifecycle

import (
	"fmt"
	"slices"
)

// Phase is where a generation stands in its life.
type Phase int

const (
	// Checking: it checks itself and has accepted nothing.
	Checking Phase = iota
	// Checked: it may take over as soon as it is known whether its predecessor lives.
	Checked
	// Preparing: it does what can fail, last of all before it takes over.
	Preparing
	// Standby: it could accept, and waits for the order. It may be tried on connections of its
	// predecessor.
	Standby
	// Probation: it accepts, and its predecessor can take back.
	Probation
	// Returning: it failed in that time, or was stopped. It drains, and the predecessor accepts.
	Returning
	// Aborting: it failed before it was ready, and runs its hooks.
	Aborting
	// Serving: it serves.
	Serving
	// Upgrading: it serves, and has executed a successor.
	Upgrading
	// Stopping: a stop was requested. It serves on for the shutdown delay.
	Stopping
	// StopDue: the delay is over, and a successor that may serve already has not ended.
	StopDue
	// StopDraining: it drains, without a successor.
	StopDraining
	// StopWaiting: it has drained, and waits for predecessors.
	StopWaiting
	// StopClosing: it runs its hooks, those of the stop too.
	StopClosing
	// Passing: the successor serves, and gets the links to the predecessors.
	Passing
	// Draining: it drains, with a successor.
	Draining
	// Waiting: it has drained, and waits for predecessors that could not be passed on.
	Waiting
	// Closing: it runs its hooks.
	Closing
	// Exited: nothing is left to do.
	Exited
	// Failed: it has never served, and nothing is left to do.
	Failed
)

// phases has, for each phase, its name and the phases that may follow.
var phases = [...]struct {
	name string
	next []Phase
}{
	Checking:     {"checking", []Phase{Checked, Preparing, Aborting}},
	Checked:      {"checked", []Phase{Preparing, Aborting}},
	Preparing:    {"preparing", []Phase{Standby, Serving, Aborting}},
	Standby:      {"standby", []Phase{Probation, Serving, Returning}},
	Probation:    {"probation", []Phase{Serving, Returning}},
	Returning:    {"returning", []Phase{Exited}},
	Aborting:     {"aborting", []Phase{Failed}},
	Serving:      {"serving", []Phase{Upgrading, Stopping}},
	Upgrading:    {"upgrading", []Phase{Serving, Passing, Stopping}},
	Stopping:     {"stopping", []Phase{StopDue, StopDraining, Passing}},
	StopDue:      {"stop due", []Phase{StopDraining, Passing}},
	StopDraining: {"stop draining", []Phase{StopWaiting, StopClosing}},
	StopWaiting:  {"stop waiting", []Phase{StopClosing}},
	StopClosing:  {"stop closing", []Phase{Exited}},
	Passing:      {"passing", []Phase{Draining}},
	Draining:     {"draining", []Phase{Waiting, Closing}},
	Waiting:      {"waiting", []Phase{Closing}},
	Closing:      {"closing", []Phase{Exited}},
	Exited:       {"exited", nil},
	Failed:       {"failed", nil},
}

// String returns the phase's name.
func (p Phase) String() string { return phases[p].name }

// Ended reports whether nothing is left to do.
func (p Phase) Ended() bool { return p >= Exited }

// starting reports whether the generation does not decide yet: its predecessor does, if there is one.
func (p Phase) starting() bool { return p < Serving }

// handedOver reports whether a successor serves.
func (p Phase) handedOver() bool {
	return slices.Contains([]Phase{Passing, Draining, Waiting, Closing}, p)
}

// rule is what an event does.
type rule func(*Machine, Event)

// phaseRules has what happens in each phase when an upgrade or a stop is requested, and at
// the events that mean something in this phase only. Events of the successor and of
// predecessors have tables of their own.
var phaseRules = map[Phase]struct {
	trigger, stop rule // nil: nothing happens
	on            map[Kind]rule
}{
	Checking: {(*Machine).enqueue, (*Machine).stopEarly, map[Kind]rule{
		Begun:         emits(Check),
		CheckPassed:   (*Machine).checked,
		CheckFailed:   (*Machine).unfit,
		PrepareFailed: (*Machine).abort, // it could not even begin
	}},
	Checked: {(*Machine).enqueue, (*Machine).stopEarly, nil},
	Preparing: {(*Machine).enqueue, (*Machine).stopEarly, map[Kind]rule{
		Prepared:      (*Machine).prepared,
		PrepareFailed: (*Machine).abort,
	}},
	Standby:      {(*Machine).enqueue, (*Machine).stopEarly, map[Kind]rule{TakeOver: (*Machine).accept, TakeBack: (*Machine).giveBack}},
	Probation:    {(*Machine).enqueue, (*Machine).stopEarly, map[Kind]rule{CommitMessage: (*Machine).commit, TakeBack: (*Machine).giveBack}},
	Returning:    {(*Machine).refuse, nil, map[Kind]rule{Drained: (*Machine).returned, HooksEnded: (*Machine).fail}},
	Aborting:     {(*Machine).refuse, nil, map[Kind]rule{HooksEnded: (*Machine).fail}},
	Serving:      {(*Machine).enqueue, (*Machine).stop, nil},
	Upgrading:    {(*Machine).enqueue, (*Machine).stop, nil},
	Stopping:     {(*Machine).refuse, (*Machine).stopAgain, map[Kind]rule{DelayOver: (*Machine).delayOver}},
	StopDue:      {(*Machine).refuse, (*Machine).stopAgain, nil},
	StopDraining: {(*Machine).refuse, (*Machine).stopAgain, map[Kind]rule{Drained: (*Machine).drained}},
	StopWaiting:  {(*Machine).refuse, (*Machine).stopAgain, nil},
	StopClosing:  {(*Machine).refuse, (*Machine).stopAgain, map[Kind]rule{HooksEnded: (*Machine).exit}},
	Passing:      {(*Machine).forward, (*Machine).stopElsewhere, nil},
	Draining:     {(*Machine).forward, (*Machine).stopElsewhere, map[Kind]rule{Drained: (*Machine).drained}},
	Waiting:      {(*Machine).forward, (*Machine).stopElsewhere, nil},
	Closing:      {(*Machine).forward, (*Machine).stopElsewhere, map[Kind]rule{HooksEnded: (*Machine).exit}},
}

// emits is the rule of an event that is answered by one action, whatever else is the case.
func emits(do Verb) rule {
	return func(m *Machine, _ Event) { m.emit(Action{Do: do}) }
}

// enter changes the phase. A transition that the table does not have is a mistake in this package.
func (m *Machine) enter(to Phase) {
	from := m.phase
	if !slices.Contains(phases[from].next, to) {
		panic(fmt.Sprintf("lifecycle: no transition from %v to %v", from, to))
	}
	m.phase = to
	m.emit(Action{Do: Enter, From: from, To: to})
}
