package trial

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/internal/tier"
)

// precaution is what an operator has asked for against bad releases.
type precaution struct {
	name          string
	flags         []string
	check, judged bool
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
	judgedOnly  = precaution{"-canary -watch", slices.Concat(canaryFlags, watchFlags[:2]), false, true}
	precautions = []precaution{
		{"nothing", nil, false, false},
		{"-check", checkFlags, true, false},
		{"-canary 10%", slices.Concat(canaryFlags, []string{"-canary-time", "20s"}), false, false},
		{"-watch", watchFlags, false, true},
		all,
	}
)

// triggers are the ways to ask for an upgrade.
var triggers = []string{"SIGHUP", "baton upgrade"}

// cell is one upgrade to a bad release.
type cell struct {
	badRelease
	precaution
	trigger string

	*service.Baton
	good   string // URL of the backend of sound releases
	plain  *load.Tally
	secure *load.Tally
	stop   func()
}

// row is what has come of a cell.
type row struct {
	Serves         string // "old", "new" or "nobody"
	Code           string // exit code of the command
	Requests       int64  // from the trigger until it was decided
	Wrong          int64  // answers
	Lost           int64  // requests without a whole answer
	Refused        int64  // connects
	Closed         int64  // connections, by the server
	Migrated       int    // connections, to the bad release
	Took           time.Duration
	Result, Reason string
}

// pair is a certificate and its key.
type pair struct{ cert, key string }

// perRequest is how many clients connect for each request.
const perRequest = 2

// start starts a sound release and its load.
func (c *cell) start(t *testing.T, keys pair) {
	over := service.Over{Config: certificate.Trusting(t, []string{keys.cert})}
	c.good = backend.Start(t, http.HandlerFunc(backend.EveryKind))
	c.Baton = service.Start(t, service.OverTLS(keys.cert, keys.key), service.Patient(), func(s *service.Setup) { s.Descriptors = 500 }, service.Config("proxy /="+c.good),
		service.Args(c.flags...), service.Args("-idle-grace", "5m", "-websocket-grace", "5m", "-drain-timeout", "15s",
			"-proxy-timeout", "7s", "-upgrade-timeout", "10s"))
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
func (c *cell) closed() (n int64) {
	for _, k := range c.tallies() {
		for h := range load.Habits {
			n += k.Lost[h].Load() + k.Reconnects[h].Load()
		}
	}
	return n
}

// run upgrades to the bad release, and reports what has come of it.
func (c *cell) run(t *testing.T, keys pair) (r row) {
	c.start(t, keys)
	old := c.PID()
	c.deploy(t, c.Baton)
	asked, before := time.Now(), c.requests()
	c.upgrade(t, &r)
	r.Requests = c.requests() - before
	r.Took = time.Since(asked).Round(100 * time.Millisecond)
	if r.Result == "failed" {
		c.checkTakenBack(t, old, &r)
	} else {
		time.Sleep(4 * time.Second) // the load shows what the release is like
	}
	r.Serves = c.serves(old)
	c.stop()
	if r.Serves != "old" && c.fatal { // it may not stop by itself
		for _, pid := range generations(c.Baton) {
			c.Kill(pid, syscall.SIGKILL)
		}
	}
	r.Wrong, r.Refused = c.count(exchange.WrongStatus, exchange.WrongBody), c.count(exchange.NoConnection)
	r.Lost = c.count(exchange.NotWritten, exchange.NotAnswered, exchange.Truncated, exchange.ClosedUnannounced)
	r.Closed = c.closed()
	if r.Serves == "old" {
		r.Migrated = int(c.Metric("baton_connections_migrated_total", "direction", "out"))
	}
	return r
}

// upgrade asks for the upgrade, and waits until it is decided.
func (c *cell) upgrade(t *testing.T, r *row) {
	t.Helper()
	c.expectFailure()
	r.Code = "-"
	if c.trigger == "baton upgrade" {
		u := c.TryUpgrade()
		r.Code, r.Result, r.Reason = fmt.Sprint(u.Code), u.Result, strings.Join(append([]string{u.Reason}, u.Stderr[max(0, len(u.Stderr)-1):]...), "; ")
		return
	}
	c.Signal(syscall.SIGHUP)
	// Whoever answers knows of the upgrade when it is over.
	await.Until(t, "the end of the upgrade", func() bool {
		time.Sleep(100 * time.Millisecond) // a question takes of what the load is to have
		left := c.expectFailure()
		s, err := c.TryStatus()
		if err == nil && len(s.Upgrades) > 0 {
			r.Result, r.Reason = s.Upgrades[0].Result, s.Upgrades[0].Reason
		}
		return r.Result != "" || left == 0
	})
}

// expectFailure notes that a successor may exit with an error, and returns how many processes there are.
func (c *cell) expectFailure() int {
	all := process.Descendants(c.Mark)
	for _, pid := range all {
		if !slices.Contains(c.Alive(), pid) {
			c.TryFollow(pid)
			c.ExpectBad(pid)
		}
	}
	return len(all)
}

// checkTakenBack checks that the old release serves, alone, and that its answers are right.
func (c *cell) checkTakenBack(t *testing.T, old int, r *row) {
	t.Helper()
	service.CheckState(t, c.Baton, 1, old)
	wrong, requests := c.count(exchange.WrongStatus, exchange.WrongBody), c.requests()
	await.Until(t, "requests after the upgrade", func() bool { return c.requests() > requests+200 })
	if n := c.count(exchange.WrongStatus, exchange.WrongBody) - wrong; n != 0 {
		t.Errorf("%d wrong answers after the upgrade has failed, want none", n)
	}
}

// serves says which release serves.
func (c *cell) serves(old int) string {
	s, err := c.TryStatus()
	switch {
	case err != nil:
		return "nobody"
	case s.PID == old:
		return "old"
	}
	return "new"
}
