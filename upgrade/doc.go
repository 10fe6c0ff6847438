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
//     keeps the last lines of its standard error, and reports them to whoever
//     requested the upgrade.
//  2. It is tried, if [Options.Trial] has a share for that: the predecessor goes on accepting,
//     and that share of its connections migrates here.
//  3. It takes over when its predecessor says so: it begins to accept, and so does the
//     predecessor still. Nothing is final yet: if this process dies now, the predecessor
//     serves on, and the next upgrade is as good as this one. If [Options.Trial] has a time to
//     watch, the predecessor leaves all connections to this process for so long, but keeps the
//     listeners.
//  4. It commits, when its predecessor says so: it writes its pid into the PID file, and then
//     reports to tableflip that it is ready. From now on it decides. If the predecessor dies
//     before, it takes over and commits by itself.
//  5. On SIGHUP, or when requested over the control socket, it executes its
//     successor and hands it the sockets, together with a link: a socketpair
//     over which the two talk from then on.
//  6. When the successor has committed, it stops accepting, drains, runs its hooks
//     ([Generation.OnExit]), reports to the successor over the link, and exits. In
//     the drain connections can migrate over the link to the successor: see [Handoff]
//     and [Adopter].
//
// Up to the commit the predecessor can take back: because the requests that the successor serves
// fail more often than its own (package internal/judge has the test), because it was ordered to
// ([Abort]), because the successor is about to use up descriptors or memory, because it does not
// listen where clients still connect ([Holder]), or because it has died. It accepts again at once,
// from the same queues, so that no client is refused. The successor stops accepting, and its
// connections migrate back; requests in progress there complete first. One that answers none of its
// predecessor's questions for five seconds is killed instead. A stop in that time takes back, too,
// and the predecessor stops the service.
//
// After the commit the predecessor cannot serve again, but as long as it drains it keeps duplicates
// of the listeners that the successor has. Should that one die, it executes its own program again,
// and not the one that its path leads to by now, with those listeners: a first generation, with the
// number after that of the dead one, its own copy of the configuration to read, and the PID file and
// control socket of the line. No client is refused, and what waits in the queues is served; the
// requests that the dead one had accepted are lost, and counts go on from what was known of them.
// This happens once, only for a successor that this process has executed itself, and not after a
// stop: the listeners are closed as soon as the successor reports that it stops. If it fails, or if
// the new process dies while this one drains, [Observer.Orphaned] is called.
//
// A connection may have a [ConnectionState], which may hold keys. That travels over the link
// only, in a message of its own; it is never logged, and both sides overwrite their buffers
// after use. One process may use it at any time: the predecessor until it offers the
// connection, and again if the successor refuses it or exits without having accepted it;
// the successor from the moment at which it has sent that it accepts.
//
// A trigger that comes while an upgrade runs, or while more than
// [Options.MaxDraining] predecessors still drain, is joined with all others of
// that time to one upgrade that runs as soon as it can; the link carries it to
// the successor if need be. SIGTERM and SIGINT stop the whole service: see
// [Generation.Run].
//
// Several predecessors may drain at a time. The generation that serves has a link
// to each of them: at a handoff it passes them on to its successor. Over the links
// generations also request each other's counts and load, so that whichever is
// scraped can answer for the whole line: see [Counter], [Generation.Others] and
// [Status.Load]. Each count is reported by one generation at a time: a predecessor
// reports its own and those of generations before it that were gone when it served,
// and no longer those of a link that it has passed on.
//
// A [ListenerStore] may hold the listeners for when a process dies; the first
// generation after that claims them as a successor does.
//
// The end of a link is not the end of a process. A successor whose link fails before
// it serves is killed and waited for. One that finds that its predecessor lives on
// without a link exits as long as it has not committed; after that it waits for the
// predecessor's end, and kills it when its drain is over. So one generation is left.
//
// Any two releases can upgrade into each other: internal/link/PROTOCOL.md has what
// they send, by version. A release before version 4 takes over and commits as soon as it is
// prepared: should it die between the two, the predecessor serves on but cannot be upgraded
// again. With one that speaks version 2 no connection that has a state migrates;
// with version 1 none does, and the next upgrade waits for the predecessor's end.
//
// What a generation decides, and why, is package internal/lifecycle: a pure machine, whose
// tables have each race. Run turns what happens into its events, and its actions into calls.
//
// The package is built on tableflip, which executes the successor and passes
// descriptors, and which needs some changes to the process. New makes them before
// anything else runs: os.Args[0] becomes absolute, tableflip's variable leaves the
// environment, and os.Stderr becomes a duplicate through which a successor's output can
// be read. Package internal/flip has the reasons.
package upgrade
