package upgrade

import "example.com/baton/upgrade/internal/descriptors"

// Room returns how many more descriptors this process may use for connections, and for
// what requests open. It keeps a reserve: a quarter of the limit (RLIMIT_NOFILE), 128 at
// most, for an upgrade, the control socket and whatever else must work when clients hold
// all others. Connections leave another quarter, 1024 at most, to requests. Both may be
// negative.
func Room() (connections, requests int) { return descriptors.Room() }
