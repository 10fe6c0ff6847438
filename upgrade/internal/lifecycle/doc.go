// Package lifecycle decides what a generation does: when it takes over, when it executes a
// successor and gives one up, when it drains, waits and exits.
//
// A [Machine] is pure. [Machine.Handle] takes one event, which carries the time, and returns
// actions in the order in which they are to be carried out; it does no I/O, reads no clock,
// takes no lock and starts no goroutine. So every race is a row of a table test. Its owner is
// a loop that turns the world into events, one at a time, and carries out the actions before
// the next event:
//
//	for event := range world {
//		for _, action := range machine.Handle(event) {
//			do(action)
//		}
//	}
//
// The state of a generation is the product of small enums, each with one table:
//
//   - [Phase]: where the generation stands, from the checks to its exit.
//   - [Attempt]: what is known of the successor, from two sources that can race: tableflip,
//     and the link. Between the hello of a successor and the point of no return, from Greeted
//     to Confirmed, it is tried, takes over and is watched, and can be taken back; the
//     verdict on it is an event. The successor's half are the phases between Preparing and
//     Serving, which are entered by messages that older releases do not send: one of those
//     takes over, and commits, when it is prepared.
//   - [Reserve]: whether the listeners are kept for another process, should a successor die
//     that has committed.
//   - [Predecessor]: one for each predecessor that still drains.
//   - [Urgency], [Gate] and [Control]: how often a stop was requested, whether tableflip
//     allows an upgrade, and who answers on the control socket.
//
// An event that a table does not list changes nothing: it comes too late.
package lifecycle
