// Package systemd connects a line of generations with systemd as its service manager.
//
// A [Notifier] notifies systemd of the life of a generation (sd_notify(3)): that the
// service is ready, upgrades or stops, which process is the main one after an upgrade,
// its status, and to the watchdog that it is alive. The [Manager] itself has the
// listeners that were bound before the service was started (socket activation), and
// stores those that must outlive its main process (the file descriptor store): it is
// the [upgrade.ListenerStore] of a generation.
//
// Where systemd is not the manager, or the unit does not ask for something, nothing is
// sent. No method waits longer than a second for a systemd that does not answer,
// [Notifier.Close] aside, which waits five.
//
// The variables that systemd sets name the process that it started. What they
// mean must hold for the successors of that process as well: New and Listeners change
// the environment accordingly, so that a first generation calls them before it
// starts any other process.
//
// # What a service gets
//
// A reload waits until the new generation serves, its trial and watch are over, and the old one has
// drained. It fails with the reason in the journal if the new one does not come to serve, or is taken
// back. The main process is the old one up to the end of the watch, and the status text has both. (Type=notify-reload, of
// systemd 253, only sends a signal and cannot fail; ExecReload= works on all versions.) The
// status shows every generation and what it has in hand.
//
// If the process dies, no connection is refused: systemd holds the listeners in its file
// descriptor store, new connections wait in their queues, and the restarted service answers.
// What the dead process had accepted is lost. If a new generation dies while its predecessor
// still drains, the predecessor executes its own program again with the listeners; that process is
// the main one then, and the drain goes on. Only if that one dies as well the predecessor reports
// a failure, and systemd restarts the service at once, ending the drain; the journal has "Failed
// with result 'watchdog'".
//
// If a new release crashes three times within a minute, ExecStopPost= of baton.service puts the
// previous binary back (package [example.com/baton/server/deploy]).
//
// The watchdog restarts a service whose process gets no processor time, whose generation no
// longer reacts, or whose servers do not answer a request made within the process, for
// WatchdogSec=. Handlers, files and backends are not part of that: one that hangs looks the same
// as one that takes long, and a restart would lose the requests of both.
//
// All generations live in the sandbox that the first was started in: a changed one takes effect
// with a restart. At each upgrade the journal says "Supervising process N which is not our
// child"; what systemd cannot do for such a process, the unit and this package do.
//
// For socket activation each address of the socket unit has to be claimed by the program too.
// While the service is stopped or restarted, connections wait. Unix sockets for other users are
// bound this way (SocketGroup=, SocketMode=).
//
// # A unit
//
// A unit needs Type=notify, NotifyAccess=all, a file descriptor store, and unless it has
// KillMode=control-group an ExecStop= that waits, because systemd would otherwise kill what
// still drains. The comments of
// baton.service beside this file explain each line, node-app@.service is for applications behind the
// proxy, and e2e/testdata/shop has a unit for a program that
// embeds packages upgrade and server.
package systemd
