package trial

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/tier"
)

// cellsOf returns those of some releases: each with everything on, and without -check if that finds it.
// In a soak it is each release with each precaution and trigger: some hundreds, which take half an hour.
func cellsOf(releases []badRelease, triggers []string) (some []*cell) {
	for i, r := range releases {
		if *tier.Soak > 0 {
			for _, p := range precautions {
				for _, trigger := range triggers {
					some = append(some, &cell{badRelease: r, precaution: p, trigger: trigger})
				}
			}
		} else {
			some = append(some, &cell{badRelease: r, precaution: all, trigger: triggers[i%len(triggers)]})
		}
		if r.checked {
			some = append(some, &cell{badRelease: r, precaution: judgedOnly, trigger: triggers[(i+1)%len(triggers)]})
		}
	}
	return some
}

func TestBadReleases(t *testing.T) {
	tier.Slow(t, "upgrades to bad releases")
	build.Version(t, build.Faulty) // before the clocks of upgrades run
	var keys pair
	keys.cert, keys.key = certificate.Certificate(t)
	some := cellsOf(slices.DeleteFunc(slices.Clone(badReleases), func(r badRelease) bool { return r.booted }), plainTriggers)
	for _, c := range some {
		c.site = plain{}
	}
	runCells(t, some, keys)
}

// runCells runs cells beside each other, and logs their table.
func runCells(t *testing.T, some []*cell, keys pair) {
	var mu sync.Mutex
	rows := make(map[*cell]row)
	t.Run("upgrade to", func(t *testing.T) {
		for _, c := range some {
			t.Run(fmt.Sprintf("%s by %s with %s", c.badRelease.name, c.trigger, c.precaution.name), func(t *testing.T) {
				if !c.often && *tier.Soak == 0 {
					tier.Long(t, "upgrades to one bad release after the other")
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
	if r.Refused != 0 && r.Serves == "old" {
		t.Errorf("%d connects refused, want none", r.Refused)
	}
	if (r.Result == "succeeded") != (r.Code == "0") && r.Code != "-" {
		t.Errorf("the command: got exit code %s for an upgrade that %s", r.Code, r.Result)
	}
	if !c.judged && !c.startup {
		return
	}
	if r.Serves != "old" || r.Result != "failed" || r.Reason == "" {
		t.Errorf("got %s release, %s for %q, want the old one, failed with a reason", r.Serves, r.Result, r.Reason)
	}
	if limit := int64(r.Migrated + perRequest); c.fatal && r.Closed > limit || !c.fatal && r.Closed != 0 {
		t.Errorf("%d connections closed, %d had migrated", r.Closed, r.Migrated)
	}
	if r.Announced > r.Wrong { // an answer of the bad release that has left a body unread
		t.Errorf("%d connections were closed in order, and only %d answers were wrong", r.Announced, r.Wrong)
	}
	if limit := r.Closed; r.Lost > limit {
		t.Errorf("%d requests lost, on %d connections", r.Lost, limit)
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
	if limit := 20 + r.Requests/3; c.shared && r.Wrong > limit {
		t.Errorf("%d wrong answers of %d, want %d at most", r.Wrong, r.Requests, limit)
	}
}

func table(some []*cell, rows map[*cell]row) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "release\tby\twith\tserves\texit\trequests\twrong\tlost\trefused\tclosed\tannounced\tafter\treason")
	for _, c := range some {
		r, ran := rows[c]
		if !ran {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%v\t%.240s\n", c.badRelease.name, c.trigger, c.precaution.name,
			r.Serves, r.Code, r.Requests, r.Wrong, r.Lost, r.Refused, r.Closed, r.Announced, r.Took, cmp.Or(strings.ReplaceAll(r.Reason, "\n", "; "), r.Result))
	}
	w.Flush()
	return b.String()
}
