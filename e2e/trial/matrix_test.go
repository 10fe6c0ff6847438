package trial

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/tier"
)

// cells returns those that run: with everything on each bad release, and without -check those that it finds.
// In a soak it is each release with each precaution and trigger: some 200, which take most of an hour.
func cells() (some []*cell) {
	for i, r := range badReleases {
		if *tier.Soak > 0 {
			for _, p := range precautions {
				for _, trigger := range triggers {
					some = append(some, &cell{badRelease: r, precaution: p, trigger: trigger})
				}
			}
		} else {
			some = append(some, &cell{badRelease: r, precaution: all, trigger: triggers[i%2]})
		}
		if r.checked {
			some = append(some, &cell{badRelease: r, precaution: judgedOnly, trigger: triggers[(i+1)%2]})
		}
	}
	return some
}

func TestBadReleases(t *testing.T) {
	tier.Slow(t, "upgrades to one bad release after the other")
	var mu sync.Mutex
	rows := make(map[*cell]row)
	some := cells()
	build.Version(t, build.Faulty) // before the clocks of upgrades run
	var keys pair
	keys.cert, keys.key = certificate.Certificate(t)
	t.Run("upgrade to", func(t *testing.T) {
		for _, c := range some {
			t.Run(fmt.Sprintf("%s by %s with %s", c.badRelease.name, c.trigger, c.precaution.name), func(t *testing.T) {
				if c.long && *tier.Soak == 0 {
					tier.Long(t, "takes half a minute; others show the same sooner")
				}
				t.Parallel()
				r := c.run(t, keys)
				t.Logf("%+v", r)
				c.check(t, r)
				mu.Lock()
				defer mu.Unlock()
				rows[c] = r
			})
		}
	})
	t.Log("\n" + table(some, rows))
}

// check checks what was promised.
func (c *cell) check(t *testing.T, r row) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%v\n%v", c.plain, c.secure)
		}
	}()
	if r.Refused != 0 && r.Serves != "nobody" {
		t.Errorf("%d connects refused, want none", r.Refused)
	}
	if (r.Result == "succeeded") != (r.Code == "0") && r.Code != "-" {
		t.Errorf("the command: got exit code %s for an upgrade that %s", r.Code, r.Result)
	}
	if !c.judged {
		return
	}
	if r.Serves != "old" || r.Result != "failed" || r.Reason == "" {
		t.Errorf("got %s release, %s for %q, want the old one, failed with a reason", r.Serves, r.Result, r.Reason)
	}
	if limit := int64(r.Migrated + perRequest); c.fatal && r.Closed > limit || !c.fatal && r.Closed != 0 {
		t.Errorf("%d connections closed, %d had migrated", r.Closed, r.Migrated)
	}
	if limit := r.Closed; r.Lost > limit {
		t.Errorf("%d requests lost, on %d connections", r.Lost, limit)
	}
	if log := c.Log(); !c.fatal && strings.Contains(log, "has not exited in the time for returning") {
		t.Errorf("the bad release had to be killed")
	}
	c.checkShare(t, r)
	if n := c.count(exchange.NoConnection); n != 0 {
		t.Errorf("%d connects refused", n)
	}
}

// checkShare checks that wrong answers are bounded by the share of the trial.
func (c *cell) checkShare(t *testing.T, r row) {
	t.Helper()
	// The share is one of 22 connections, of which hardly ever more than a third is drawn.
	if limit := 20 + r.Requests/3; r.Wrong > limit {
		t.Errorf("%d wrong answers of %d, want %d at most", r.Wrong, r.Requests, limit)
	}
}

func table(some []*cell, rows map[*cell]row) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "release\tby\twith\tserves\texit\trequests\twrong\tlost\trefused\tclosed\tafter\treason")
	for _, c := range some {
		r, ran := rows[c]
		if !ran {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%v\t%s\n", c.badRelease.name, c.trigger, c.precaution.name,
			r.Serves, r.Code, r.Requests, r.Wrong, r.Lost, r.Refused, r.Closed, r.Took, cmp.Or(r.Reason, r.Result))
	}
	w.Flush()
	return b.String()
}
