package upgrade

import (
	"context"
	"maps"
	"math"
	"sync"
	"time"

	"example.com/baton/upgrade/internal/link"
)

// Counts are the counters of a service by name, which never go down. Those of several
// generations are added up, name by name.
type Counts map[string]float64

// plus returns the sum of both, which it leaves as they are.
func (c Counts) plus(more Counts) Counts {
	return c.merge(more, func(a, b float64) float64 { return a + b })
}

// atLeast returns the greater of both, name by name, and leaves them as they are.
func (c Counts) atLeast(other Counts) Counts { return c.merge(other, math.Max) }

func (c Counts) merge(other Counts, f func(a, b float64) float64) Counts {
	merged := make(Counts, max(len(c), len(other)))
	maps.Copy(merged, c)
	for name, n := range other {
		merged[name] = f(merged[name], n)
	}
	return merged
}

// answerTimeout is how long a neighbor's response to a question is waited for. One that
// is alive gives it within a millisecond, or a little later on a busy machine.
const answerTimeout = 750 * time.Millisecond

// Others returns what all generations of the line but this one have counted, the
// living and the dead. It asks the neighbors, of which Status then knows more as
// well; where one does not answer soon, or has not done so before, its last report
// counts.
func (g *Generation) Others(ctx context.Context) Counts {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var questions sync.WaitGroup
	for _, l := range g.links() {
		if !l.Silent() {
			// The response is a report, which exchange takes note of.
			questions.Go(func() { l.Call(ctx, link.Message{Type: link.TypeQuestion}) })
		}
	}
	questions.Wait()

	g.mu.Lock()
	defer g.mu.Unlock()
	return g.beyond(nil)
}

// links returns those to the neighbors that can be asked.
func (g *Generation) links() (links []*link.Link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.predecessors {
		if !p.reported {
			links = append(links, p.link)
		}
	}
	if g.successor != nil { // it may serve before this generation is notified of that
		links = append(links, g.successor.link)
	}
	return links
}

// beyond returns what all generations have counted but this one, and but the one at
// the other end of a link. The caller holds g.mu.
func (g *Generation) beyond(except *link.Link) Counts {
	sum := g.past
	if except != g.successorLink || except == nil {
		sum = sum.plus(g.future)
	}
	for _, p := range g.predecessors {
		if p.link != except {
			sum = sum.plus(p.counts)
		}
	}
	return sum
}
