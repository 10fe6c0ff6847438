package systemd

// Barrier is the one of [Notifier.Close], with a limit of the test's own.
var Barrier = (*Manager).barrier
