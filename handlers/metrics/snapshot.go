package metrics

import (
	"time"

	"example.com/baton/handlers/backends"
	"example.com/baton/server"
	"example.com/baton/server/tlskeys"
	"example.com/baton/upgrade"
	"github.com/prometheus/client_golang/prometheus"
)

// Snapshot is one moment of a generation: a field for each metric. Results that a map
// lacks count as 0. Counters are those of this generation alone: what others counted is
// added at the scrape. Connections and RequestsInFlight are the sums of all generations
// that are alive, so that a drain does not look like a loss.
type Snapshot struct {
	Generation       int
	State            upgrade.State
	Predecessors     int                          // that still drain
	Upgrades         map[upgrade.Result]uint64    // that this generation has tried
	LastUpgrade      map[upgrade.Result]time.Time // the last one of all generations that ended so
	Trials           upgrade.TrialCounts          // with this generation as the predecessor
	Connections      upgrade.Connections          // of all living generations
	Accepted         uint64                       // connections, by this generation
	AcceptErrors     uint64                       // failed attempts to accept one, by this generation
	Closed           map[server.Reason]uint64     // connections of this generation, with a key for each reason
	MigratedIn       map[server.Protocol]uint64   // connections that have come to this generation, with a key for each protocol
	MigratedOut      map[server.Protocol]uint64   // and gone from it
	RequestsInFlight int                          // of all living generations
	LogDropped       uint64                       // lines of the log that this generation could not write
	Certificates     map[string]tlskeys.Validity  // by name
	CrashRollback    time.Time                    // when this release replaced one that crashed
	Backends         backends.Report              // of this generation
}

// snapshots turns what its function returns into metrics, at each scrape. Every
// label value is always there, so that a rate over it has a beginning.
type snapshots func() Snapshot

var (
	states  = []upgrade.State{upgrade.Starting, upgrade.Probation, upgrade.Serving, upgrade.Upgrading, upgrade.Draining, upgrade.Exited}
	results = []upgrade.Result{upgrade.Succeeded, upgrade.Failed, upgrade.Refused}

	trialResults = []string{"succeeded", "failed", "denied", "redirected", "empty"}
	takebacks    = []upgrade.Takeback{upgrade.TakebackFailed, upgrade.TakebackSlow, upgrade.TakebackUndecided, upgrade.TakebackDied, upgrade.TakebackAborted}

	generationDesc    = describe("baton_generation", "Number of the generation that answers, counted from 1.")
	stateDesc         = describe("baton_state", "State of the generation that answers: 1 for that state, 0 for all others.", "state")
	predecessorsDesc  = describe("baton_predecessors", "Predecessors that are still draining.")
	resultsDesc       = describe("baton_upgrades_total", "Upgrades tried by all generations so far, by result.", "result")
	lastUpgradeDesc   = describe("baton_last_upgrade_timestamp_seconds", "Time at which the last upgrade with that result began, among the last ten; 0 if there is none.", "result")
	trialDesc         = describe("baton_trial_requests_total", "Requests judged in the trials and watches of all upgrades so far, by generation (that on trial, or the predecessor that serves) and result.", "generation", "result")
	takebacksDesc     = describe("baton_takebacks_total", "Successors from which their predecessors have taken back, of all generations so far, by reason.", "reason")
	connectionsDesc   = describe("baton_connections", "Connections open now in all living generations, by state.", "state")
	acceptedDesc      = describe("baton_connections_accepted_total", "Connections accepted by all generations so far.")
	acceptErrorsDesc  = describe("baton_accept_errors_total", "Attempts to accept a connection that failed, of all generations so far.")
	closedDesc        = describe("baton_connections_closed_total", "Connections closed by all generations so far, by reason.", "reason")
	migratedDesc      = describe("baton_connections_migrated_total", "Connections that migrated between generations so far, by direction (out of a predecessor, in to its successor) and protocol.", "direction", "protocol")
	inFlightDesc      = describe("baton_http_requests_in_flight", "Requests being answered now by all living generations.")
	logDroppedDesc    = describe("baton_log_dropped_total", "Lines of the log dropped by all generations so far, because they could not be written.")
	crashRollbackDesc = describe("baton_crash_rollback_timestamp_seconds", "Time at which the release that serves replaced a newer one that crashed again and again; 0 if it did not.")
	notAfterDesc      = describe("baton_tls_certificate_not_after_timestamp_seconds", "Time at which a certificate that is in use expires.", "name")
	notBeforeDesc     = describe("baton_tls_certificate_not_before_timestamp_seconds", "Time from which a certificate that is in use is valid.", "name")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func (source snapshots) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{generationDesc, stateDesc, predecessorsDesc, resultsDesc, lastUpgradeDesc, trialDesc, takebacksDesc,
		connectionsDesc, acceptedDesc, acceptErrorsDesc, closedDesc, migratedDesc, inFlightDesc, logDroppedDesc, crashRollbackDesc, notAfterDesc, notBeforeDesc,
		backendUpDesc, backendRequestsDesc, backendErrorsDesc, backendInProgressDesc, backendWaitingDesc} {
		descs <- d
	}
}

func (source snapshots) Collect(metrics chan<- prometheus.Metric) {
	precise := func(desc *prometheus.Desc, value float64, label ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, label...)
	}
	gauge := func(desc *prometheus.Desc, value int, label ...string) { precise(desc, float64(value), label...) }
	counter := func(desc *prometheus.Desc, value uint64, label ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), label...)
	}
	now := source()
	gauge(generationDesc, now.Generation)
	gauge(predecessorsDesc, now.Predecessors)
	gauge(inFlightDesc, now.RequestsInFlight)
	counter(acceptedDesc, now.Accepted)
	counter(acceptErrorsDesc, now.AcceptErrors)
	counter(logDroppedDesc, now.LogDropped)
	precise(crashRollbackDesc, timestamp(now.CrashRollback))
	for _, state := range states {
		in := 0
		if state == now.State {
			in = 1
		}
		gauge(stateDesc, in, state.String())
	}
	for _, result := range results {
		counter(resultsDesc, now.Upgrades[result], string(result))
		precise(lastUpgradeDesc, timestamp(now.LastUpgrade[result]), string(result))
	}
	for _, result := range trialResults {
		counter(trialDesc, now.Trials.Successor[result], "trial", result)
		counter(trialDesc, now.Trials.Serving[result], "serving", result)
	}
	for _, reason := range takebacks {
		counter(takebacksDesc, now.Trials.Takebacks[reason], string(reason))
	}
	gauge(connectionsDesc, now.Connections.New, "new")
	gauge(connectionsDesc, now.Connections.Active, "active")
	gauge(connectionsDesc, now.Connections.Idle, "idle")
	gauge(connectionsDesc, now.Connections.Hijacked, "hijacked")
	for reason, n := range now.Closed {
		counter(closedDesc, n, reason.String())
	}
	for protocol, n := range now.MigratedIn {
		counter(migratedDesc, n, "in", protocol.String())
	}
	for protocol, n := range now.MigratedOut {
		counter(migratedDesc, n, "out", protocol.String())
	}
	collectBackends(metrics, now.Backends)
	for name, valid := range now.Certificates {
		precise(notAfterDesc, timestamp(valid.NotAfter), name)
		precise(notBeforeDesc, timestamp(valid.NotBefore), name)
	}
}

// timestamp returns a time in seconds since 1970, 0 for the zero time.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix()) + float64(t.Nanosecond())/1e9
}
