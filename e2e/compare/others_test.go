package compare

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/tier"
)

// What the reload and upgrade recipes of other servers lose and close, under the same load as Baton.
//
// Each server answers every request with the same bytes, and logs none of them. The limits that would close a
// connection for another reason, such as its silence or the number of its requests, are out of the way; all else
// is as it comes. The client is the one of all our tests: it never retries, and while it pauses it watches for
// the end of its connection, as a browser does.
//
// The numbers are about what is lost and closed. They say nothing about speed: a machine that is busy with
// something else answers less.

// other is a running server, and how its manual says that it is reloaded or upgraded.
type other struct {
	name string
	place
	// workers returns the processes that serve now, without those that only finish what they have begun.
	workers func() []int
	// answers returns the process that answers a new connection, 0 if that failed.
	answers func() int
	// renew replaces the workers, and returns when the recipe is at its end.
	renew func(t *testing.T)
	// endless is a way, if any, in which clients keep the recipe from coming to its end.
	endless string
}

// outcome is what came of one server, asked in one way.
type outcome struct {
	name, way                       string
	requests, failed, began, closed int64
}

// otherWays are the ways in which a server is asked. All clients but the ones that dial for each request keep their
// connections.
var otherWays = []struct {
	name   string
	secure bool
	crowd  [load.Habits]int
}{
	{"HTTP/1.1", false, [load.Habits]int{load.BackToBack: 8, load.Pausing: 64, load.PerRequest: 4, load.SilentAfter: 64}},
	{"HTTP/1.1 over TLS", true, [load.Habits]int{load.BackToBack: 8, load.Pausing: 64, load.PerRequest: 4, load.SilentAfter: 64}},
	{"HTTP/2 over TLS", true, [load.Habits]int{load.Streams: 8, load.StreamsPausing: 64, load.StreamsSilent: 64}},
}

// kept are the habits of those who keep theirs.
var kept = []load.Habit{load.BackToBack, load.Pausing, load.SilentAfter, load.Streams, load.StreamsPausing, load.StreamsSilent}

// otherAnswer is made of digits and commas, so that it needs no quoting anywhere.
var otherAnswer = exchange.New("GET", "/100.bin", nil, 200, exchange.Pattern(100))

func TestOthers(t *testing.T) {
	upgrades := *others
	if upgrades == 0 {
		tier.Long(t, "go test ./e2e/compare -others=10 -v makes 10 upgrades of nginx, HAProxy, Caddy, tableflip and Baton under load")
		upgrades = 1 // enough to see that it works
	}
	var results []outcome
	for _, c := range []struct {
		name  string
		start func(*testing.T) *other
	}{
		{"tableflip", startTableflip},
		{"nginx upgrade", startNginxToUpgrade},
		{"nginx reload", startNginxToReload},
		{"haproxy", startHAProxy},
		{"haproxy idle-close-on-response", startHAProxyPatient},
		{"caddy", startCaddy},
		{"baton", startBatonAsOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := c.start(t)
			for way, w := range otherWays {
				if w.name == o.endless {
					t.Logf("%s: not tried with %s", o.name, w.name)
					continue
				}
				r := compare(t, o, way, upgrades)
				results = append(results, r)
				if c.name == "baton" && r.failed+r.closed != 0 {
					t.Errorf("baton, %s: got %d requests failed, %d connections closed, want none", r.way, r.failed, r.closed)
				}
			}
		})
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| server, upgrades: %d | | requests | failed | connections | closed by the server |\n|---|---|---|---|---|---|\n", upgrades)
	for _, r := range results {
		fmt.Fprintf(&table, "| %s | %s | %d | %d | %d | %d |\n", r.name, r.way, r.requests, r.failed, r.began, r.closed)
	}
	t.Logf("the same load on each, upgrades half a second apart:\n%s", &table)
}

// compare upgrades a server under load, and sees each time that other processes serve then.
func compare(t *testing.T, o *other, way, upgrades int) outcome {
	w := otherWays[way]
	connections := func(counts *load.Tally) (n int64) {
		for _, h := range kept {
			n += counts.Connections[h].Load()
		}
		return n
	}
	l := load.Load{Network: "tcp", Address: o.address, Exchanges: []exchange.Exchange{otherAnswer}, Clients: w.crowd}
	if w.secure {
		l.Address, l.TLS = o.secure, certificate.Trusting(t, []string{o.cert})
	}
	counts, stop := load.Start(t, l)
	load.AwaitCrowd(t, counts, w.crowd)
	r := outcome{name: o.name, way: w.name, began: connections(counts)}
	if want := int64(load.ClientsOf(w.crowd, kept...)); r.began != want || counts.Failures() != 0 {
		t.Fatalf("before the first upgrade: got %d connections of clients that keep theirs, want %d\n%v", r.began, want, counts)
	}
	for i := range upgrades {
		time.Sleep(500 * time.Millisecond) // the distance between upgrades belongs to the case
		before := o.workers()
		if len(before) == 0 {
			t.Fatalf("before upgrade %d: no worker", i+1)
		}
		o.renew(t)
		var after []int
		await.Until(t, fmt.Sprintf("answer from a new process after upgrade %d of workers %v", i+1, before), func() bool {
			after = o.workers()
			old := slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) })
			return !old && slices.Contains(after, o.answers())
		})
	}
	time.Sleep(500 * time.Millisecond) // as after each of the others
	stop()
	// Nobody makes a request again that was refused.
	r.requests, r.failed, r.closed = counts.Requests(), counts.Failures()+counts.Refused(), connections(counts)-r.began
	t.Logf("%s, %s: %v", o.name, w.name, counts)
	if r.requests == 0 {
		t.Errorf("%s: no request was answered", o.name)
	}
	return r
}

// whoAnswers asks for the process that answers at an address.
func whoAnswers(address string) int {
	resp, err := http1.Fetch("tcp", address, "GET", "/100.bin")
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(resp.Header("X-Pid"))
	return pid
}
