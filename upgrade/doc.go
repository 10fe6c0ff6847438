// Package upgrade replaces a process by a newer version of itself while its
// listening sockets stay open. It knows processes, not protocols: what is
// served on the sockets is a [Service].
//
// One process is a generation. [New] makes the running process one: the first,
// or the successor of the process that started it. A generation claims its
// listeners with [Generation.Listen] and lives in [Generation.Run]:
//
//  1. It checks itself. Until then a successor has accepted nothing, and if
//     anything is wrong it just exits: its predecessor never stopped serving,
//     keeps the last lines of its standard error, and tells whoever asked.
//  2. It says ready, begins to accept, puts its name into the PID file, and says
//     so to its predecessor, which accepts too until it hears that.
//  3. On SIGHUP, or when asked over the control socket, it executes its
//     successor and hands it the sockets, together with a link: a socketpair
//     over which the two talk from then on.
//  4. When the successor serves, it stops accepting, drains, runs its hooks
//     ([Generation.OnExit]), reports to the successor over the link, and exits. In
//     the drain connections can move over the link to the successor: see [Handoff]
//     and [Adopter].
//
// A trigger that comes while an upgrade runs, or while more than
// [Options.MaxDraining] predecessors still drain, is kept, together with all
// others of that time, for one upgrade that runs as soon as it can; the link
// carries it to the successor if need be.
//
// SIGTERM and SIGINT stop the whole: see [Generation.Run].
//
// Several predecessors may drain at a time. The generation that serves has a link
// to each of them: at a handoff it gives those that it has to its successor.
//
// Over the links generations also ask each other what they have counted and have
// in hand, so that whoever is scraped can answer for the whole line: see
// [Counter], [Generation.Others] and [Status.Load]. Each count is told by
// one generation at a time: a predecessor tells its own and those of generations
// before it that were gone when it served; what it gives on with a link it tells
// no more. And a [ListenerStore] may hold the listeners for when a process dies; the
// first generation after that claims them like a successor.
//
// The end of a link is not the end of a process. A successor whose link fails before
// it serves is killed and waited for. One that finds that its predecessor lives on
// without a link exits as long as it is not ready; after that it waits for the
// predecessor's end, and kills it when its drain is over. So one generation is left.
//
// The link begins with a greeting that tells the version of its protocol, so that
// any two releases can upgrade into each other. With one that speaks version 1 only
// nothing moves, and the next upgrade waits for the predecessor's end.
//
// The package is built on tableflip, which executes the successor and passes
// descriptors. It names sockets by keys of its own and unlinks unix sockets
// itself, because tableflip does so before the successor has taken over. Since
// tableflip allows one predecessor only, whose end it sees by a pipe that it holds
// open, a generation that has handed over puts the null device in that pipe's place. It
// also needs three changes to the process, all made by New before anything else
// runs: os.Args[0] becomes absolute, so that a changed working directory does not
// matter; tableflip's variable leaves the environment, so that no other program
// started from here takes itself for a successor; and os.Stderr becomes a
// duplicate, through which a successor's output can be read.
package upgrade
