package trial

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// precaution is what an operator has asked for against bad releases.
type precaution struct {
	name   string
	flags  []string
	judged bool // every bad release is found
	shared bool // it is given a share first
}

// The share, and a path that every sound release answers.
const (
	share = 0.1
	path  = "/fixed/100"
)

var (
	checkFlags  = []string{"-check", path}
	canaryFlags = []string{"-canary", "10%", "-canary-time", "7s", "-canary-latency"}
	watchFlags  = []string{"-watch", "30s", "-canary-latency"}

	all         = precaution{"all", slices.Concat(checkFlags, canaryFlags, watchFlags[:2]), true, true}
	judgedOnly  = precaution{"-canary -watch", slices.Concat(canaryFlags, watchFlags[:2]), true, true}
	precautions = []precaution{
		{"nothing", nil, false, false},
		{"-check", checkFlags, false, false},
		{"-canary 10%", slices.Concat(canaryFlags, []string{"-canary-time", "20s"}), false, true},
		{"-watch", watchFlags, true, false},
		all,
	}
)

// cell is one upgrade to a bad release.
type cell struct {
	badRelease
	precaution
	site
	trigger string

	*service.Baton
	good   string // URL of the backend of sound releases
	plain  *load.Tally
	secure *load.Tally
	stop   func()
}

// row is what has come of a cell.
type row struct {
	Serves         string // "old"; "old again", if it was started anew; "new" or "nobody"
	Code           string // exit code of the command; "-" if there is none
	Requests       int64  // from the trigger until it was decided
	Wrong          int64  // answers
	Lost           int64  // requests without a whole answer
	Refused        int64  // connects
	Closed         int64  // connections, by the server
	Announced      int64  // connections that the server has closed after it had said so
	Migrated       int    // connections, to the bad release
	Took           time.Duration
	Result, Reason string
}

// pair is a certificate and its key.
type pair struct{ cert, key string }

// perRequest is how many clients connect for each request.
const perRequest = 2

// commonFlags are those of every service: what is kept is kept longer than any upgrade takes.
var commonFlags = []string{"-idle-grace", "5m", "-websocket-grace", "5m", "-drain-timeout", "15s", "-proxy-timeout", "7s", "-upgrade-timeout", "10s"}

// descriptors are those that a service may have, so that a leak shows soon.
const descriptors = 500

// start starts a sound release and its load.
func (c *cell) start(t *testing.T, keys pair) {
	over := service.Over{Config: certificate.Trusting(t, []string{keys.cert})}
	c.good = backend.Start(t, http.HandlerFunc(backend.EveryKind))
	c.site.start(t, c, keys)
	patience := 10 * time.Second
	if c.judged {
		patience = await.Hang
	}
	l := load.Load{Network: "tcp", Address: c.Address, Exchanges: append(exchange.Echo(""), exchange.Echo("/api")...),
		Pause: 100 * time.Millisecond, Rest: 80 * time.Millisecond, Patience: patience, Lenient: true}
	if tier.Strict() {
		l.Pause, l.Rest = l.Pause/2, l.Rest/2
	}
	l.Clients = [load.Habits]int{load.Pausing: 10, load.PerRequest: perRequest, load.SocketsSilent: 1}
	var stopPlain, stopSecure func() *load.Tally
	c.plain, stopPlain = load.Start(t, l)
	l.Address, l.TLS = c.Secure(), over.Config
	l.Clients = [load.Habits]int{load.Pausing: 6, load.StreamsPausing: 4}
	c.secure, stopSecure = load.Start(t, l)
	c.stop = func() { stopPlain(); stopSecure() }
	await.Until(t, "requests before the upgrade", func() bool { return c.requests() > max(200, 20*c.every) })
}

func (c *cell) tallies() []*load.Tally { return []*load.Tally{c.plain, c.secure} }

// requests counts those that were answered, rightly or not.
func (c *cell) requests() (n int64) {
	for _, k := range c.tallies() {
		n += k.Requests()
	}
	return n + c.count(exchange.WrongStatus, exchange.WrongBody)
}

// count counts failures.
func (c *cell) count(kinds ...exchange.Failure) (n int64) {
	for _, k := range c.tallies() {
		for _, f := range kinds {
			n += k.Failed[f].Load()
		}
	}
	return n
}

// closed counts the connections that the server has ended.
func (c *cell) closed() (n, announced int64) {
	for _, k := range c.tallies() {
		for h := range load.Habits {
			n += k.Lost[h].Load()
			announced += k.Reconnects[h].Load()
		}
	}
	return n, announced
}

// run upgrades to the bad release, and reports what has come of it.
func (c *cell) run(t *testing.T, keys pair) (r row) {
	c.start(t, keys)
	old := c.Status().PID
	c.site.deploy(t, c)
	asked, before := time.Now(), c.requests()
	r.Code = "-"
	c.upgrade(t, c, &r)
	r.Requests = c.requests() - before
	r.Took = time.Since(asked).Round(100 * time.Millisecond)
	if r.Serves = c.serves(old, &r); r.Result == "failed" && r.Serves == "old" {
		c.checkTakenBack(t, old)
	} else {
		time.Sleep(4 * time.Second) // the load shows what the release is like
	}
	r.Serves = c.serves(old, &r)
	c.stop()
	r.Wrong, r.Refused = c.count(exchange.WrongStatus, exchange.WrongBody), c.count(exchange.NoConnection)
	r.Lost = c.count(exchange.NotWritten, exchange.NotAnswered, exchange.Truncated, exchange.ClosedUnannounced)
	r.Closed, r.Announced = c.closed()
	if r.Serves == "old" {
		r.Migrated = int(c.Metric("baton_connections_migrated_total", "direction", "out"))
	}
	c.end(t, c, &r)
	return r
}

// checkTakenBack checks that the old release serves, alone, and that its answers are right.
func (c *cell) checkTakenBack(t *testing.T, old int) {
	t.Helper()
	c.checkAlone(t, c, old)
	wrong, requests := c.count(exchange.WrongStatus, exchange.WrongBody), c.requests()
	await.Until(t, "requests after the upgrade", func() bool { return c.requests() > requests+200 })
	if n := c.count(exchange.WrongStatus, exchange.WrongBody) - wrong; n != 0 {
		t.Errorf("%d wrong answers after the upgrade has failed, want none", n)
	}
}

// serves says which release serves.
func (c *cell) serves(old int, r *row) string {
	s, err := c.TryStatus()
	switch {
	case err != nil:
		return "nobody"
	case s.PID == old:
		return "old"
	case s.Version == sound && r.Result == "failed":
		return "old again"
	}
	return "new"
}
