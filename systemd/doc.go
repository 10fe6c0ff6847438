// Package systemd speaks with systemd as a service's manager: that the service
// is ready, upgrades or stops and how it is (sd_notify(3)), that it is alive
// (its watchdog), which process is the main one after an upgrade, and which
// listeners to keep for when that process dies (its file descriptor store) or
// were bound before it was started (socket activation).
//
// All of it goes through a [Manager]. Where systemd is not the manager, or the
// unit does not ask for something, its methods do nothing. Nothing in here waits
// for a systemd that does not answer for longer than a second,
// [Manager.Barrier] aside, which has a context.
//
// The variables that systemd sets name the process that it started. What they
// mean must hold for the successors of that process as well: New and Listeners change
// the environment accordingly, so that a first generation calls them before it
// starts any other process.
package systemd
