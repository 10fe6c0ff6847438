package metrics

import (
	"time"

	"example.com/baton/handlers/backends"
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
	// CrashRollback is when the release that serves came into the place of one that crashed;
	// zero if it did not.
	CrashRollback time.Time
	Proxy         Reporter
}

// Reporter is a proxy.
type Reporter interface{ Report() backends.Report }

// Snapshot returns what is so now.
func (s Source) Snapshot() Snapshot {
	status := s.Generation.Status()
	load := status.Load() // of all generations that live
	now := Snapshot{
		Generation:       s.Generation.Number(),
		State:            s.Generation.State(),
		Predecessors:     s.Generation.Predecessors(),
		Upgrades:         s.Generation.Results(),
		Trials:           s.Generation.TrialCounts(),
		Connections:      load.Connections,
		Accepted:         s.Servers.Public.Accepted(),
		AcceptErrors:     s.Servers.AcceptErrors(),
		Closed:           s.Servers.Public.Closed(),
		RequestsInFlight: load.Requests,
		LogDropped:       s.Output.Dropped(),
		Certificates:     s.Certificates.Validity(),
		CrashRollback:    s.CrashRollback,
		Backends:         s.Proxy.Report(),
		LastUpgrade:      make(map[upgrade.Result]time.Time),
	}
	now.MigratedIn, now.MigratedOut = s.Servers.Public.MigratedBy()
	for _, u := range status.Upgrades { // oldest first
		now.LastUpgrade[u.Result] = u.Time
	}
	return now
}
