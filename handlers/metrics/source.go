package metrics

import (
	"time"

	"example.com/baton/server"
	"example.com/baton/server/tlskeys"
	"example.com/baton/upgrade"
	"example.com/baton/upgrade/logging"
)

// Source is what metrics are read from.
type Source struct {
	Generation   *upgrade.Generation
	Servers      *server.Pair
	Certificates *tlskeys.Certificates
	Output       *logging.Output
}

// Snapshot returns what is so now.
func (s Source) Snapshot() Snapshot {
	status := s.Generation.Status()
	load := status.Load() // of all generations that live
	now := Snapshot{
		Generation: s.Generation.Number(),
		State:      status.State,
		Upgrades:   make(map[string]uint64),
		Connections: map[string]int{
			"new": load.Connections.New, "active": load.Connections.Active, "idle": load.Connections.Idle,
			"hijacked": load.Connections.Hijacked,
		},
		Accepted:         s.Servers.Public.Accepted(),
		AcceptErrors:     s.Servers.AcceptErrors(),
		Closed:           make(map[string]uint64),
		Migrated:         make(map[string]uint64),
		RequestsInFlight: load.Requests,
		LogDropped:       s.Output.Dropped(),
		Certificates:     make(map[string]Validity),
		LastUpgrade:      make(map[string]time.Time),
	}
	for name, valid := range s.Certificates.Validity() {
		now.Certificates[name] = Validity(valid)
	}
	for _, u := range status.Upgrades { // oldest first
		now.LastUpgrade[string(u.Result)] = u.Time
	}
	now.Predecessors = s.Generation.Predecessors()
	for result, n := range s.Generation.Results() {
		now.Upgrades[string(result)] = n
	}
	for why, n := range s.Servers.Public.Closed() {
		now.Closed[why.String()] = n
	}
	now.Migrated["in"], now.Migrated["out"] = s.Servers.Public.Migrated()
	return now
}
