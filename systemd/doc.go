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
package systemd
