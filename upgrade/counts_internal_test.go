package upgrade

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"example.com/baton/upgrade/internal/link"
)

// counter is a service that has counted n.
type counter struct {
	idle
	n float64
}

func (c counter) Counts() Counts { return Counts{"n": c.n} }

// joined returns generations without a process, of which each is a predecessor of the last
// and linked to that.
func joined(t *testing.T, counts ...float64) (line []*Generation) {
	t.Helper()
	for i, n := range counts {
		g := &Generation{log: discard, number: i + 1, state: Serving, service: counter{n: n},
			events: make(chan link.Event), done: make(chan struct{})}
		t.Cleanup(func() { close(g.done) })
		line = append(line, g)
	}
	last, behind := line[len(line)-1], line[:len(line)-1]
	var begin []func() // none asks before all are linked
	for _, g := range behind {
		toLast, toG := linkPair(t)
		g.successorLink, g.successor = toLast, &member{link: toLast, state: Serving}
		last.add(&member{link: toG, Hello: link.Hello{Generation: g.number}})
		begin = append(begin, func() {
			toLast.Follow(g.events, g.done, g.exchange(toLast, false))
			toG.Follow(last.events, last.done, last.exchange(toG, true))
		})
	}
	for _, follow := range begin {
		follow()
	}
	return line
}

// Whoever is asked has the latest counts of all, those too of generations to which it is
// not linked.
func TestOthersOfALine(t *testing.T) {
	counts := []float64{1, 10, 100, 1000}
	line := joined(t, counts...)
	for round := range 3 {
		for i, g := range line {
			if got, want := g.Others(t.Context())["n"], 1111-counts[i]; got != want {
				t.Errorf("round %d: got %v for generation %d, want %v", round, got, i+1, want)
			}
		}
	}
}

// A report that the successor has sent before it had the link to a predecessor lacks the
// counts of that one.
func TestReportBeforeALinkIsPassed(t *testing.T) {
	line := joined(t, 1, 10)
	g, next := line[0], line[1]
	g.Others(t.Context())
	predecessor, _ := linkPair(t)
	p := &member{link: predecessor, counts: Counts{"n": 100}, reported: true}
	g.add(p)
	early := &link.Report{State: next.state.String(), Counts: Counts{"n": 10}}
	r := &run{Generation: g, attempt: &attempt{link: g.successorLink}}
	if err := r.pass(p, time.Time{}); err != nil {
		t.Fatal(err)
	}
	g.takeReport(g.successorLink, early)
	g.mu.Lock()
	got := g.beyond(nil)["n"]
	g.mu.Unlock()
	if got != 110 {
		t.Errorf("after the early report: got %v, want 110", got)
	}
}

// What is not kept counts while the generation lives that has counted it, and then no more.
func TestKeepCount(t *testing.T) {
	g := &Generation{opts: Options{KeepCount: func(name string) bool { return name == "n" }}}
	counts := Counts{"n": 1, "old": 2}
	g.bury(counts)
	g.bury(counts)
	if got := g.beyond(nil); len(got) != 1 || got["n"] != 2 || counts["old"] != 2 {
		t.Errorf("got %v, want n twice, and nothing of old", got)
	}
	g.opts.KeepCount = nil
	if g.bury(counts); g.beyond(nil)["old"] != 2 {
		t.Errorf("got %v, want old as well", g.beyond(nil))
	}
}

// described is a service that shows something.
type described struct{ idle }

func (described) Describe() json.RawMessage { return json.RawMessage(`{"a":1}`) }

func TestDescribe(t *testing.T) {
	g := &Generation{service: described{}}
	if got := string(encode(g.Status())); !strings.Contains(got, `"service":{"a":1}`) {
		t.Errorf("got %s", got)
	}
	g.service = idle{}
	if got := string(encode(g.Status())); strings.Contains(got, "service") {
		t.Errorf("nothing to show: got %s", got)
	}
}
