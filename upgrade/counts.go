package upgrade

import (
	"context"
	"maps"
	"math"
	"sync"
	"sync/atomic"
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

// bury adds the counts of a generation that is gone to those of the past. The caller holds the lock of
// the generation.
func (g *Generation) bury(counts Counts) {
	kept := maps.Clone(counts)
	maps.DeleteFunc(kept, func(name string, _ float64) bool { return g.opts.KeepCount != nil && !g.opts.KeepCount(name) })
	g.past = g.past.plus(kept)
}

// answerTimeout is how long a neighbor's response to a question is waited for. One that
// is alive gives it within a millisecond, or a little later on a busy machine. A scraper may
// wait for one second only.
const answerTimeout = 750 * time.Millisecond

// Others returns what all generations of the line but this one have counted, the
// living and the dead. It asks the neighbors, of which Status then knows more as
// well; where one does not answer soon, or has not done so before, its last report
// counts.
func (g *Generation) Others(ctx context.Context) Counts {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	g.askNeighbors(ctx, nil)

	g.mu.Lock()
	defer g.mu.Unlock()
	return g.beyond(nil)
}

// askNeighbors asks all neighbors for a report, but for the one at the other end of a link.
// It returns when each has responded, has gone, or is not waited for any longer.
func (g *Generation) askNeighbors(ctx context.Context, except *link.Link) {
	if question(ctx, g.links(except)) {
		return
	}
	// A link may just be on its way to the successor, which responds for the predecessor
	// as soon as Run has passed it on.
	select {
	case g.heartbeat <- struct{}{}:
		question(ctx, g.links(except))
	case <-g.done:
	case <-ctx.Done():
	}
}

// question asks neighbors for a report and returns whether all have responded.
func question(ctx context.Context, neighbors []*link.Link) bool {
	var (
		questions sync.WaitGroup
		failed    atomic.Bool
	)
	for _, l := range neighbors {
		if !l.Silent() {
			// The response is a report, which exchange takes note of.
			questions.Go(func() {
				if _, err := l.Call(ctx, link.Message{Type: link.TypeQuestion}); err != nil {
					failed.Store(true)
				}
			})
		}
	}
	questions.Wait()
	return !failed.Load()
}

// answer responds to a question that came over a link. The peer is not linked to the other
// neighbors of this generation, and they may have counted something since their last
// reports: they are asked first. A question comes to each generation once, because the
// links make a tree.
func (g *Generation) answer(l *link.Link, number uint64) {
	if len(g.links(l)) == 0 {
		g.report(l, link.Message{Type: link.TypeReport}, number)
		return
	}
	go func() { // ends soon, and before the peer takes this generation for silent
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout/2)
		defer cancel()
		g.askNeighbors(ctx, l)
		g.report(l, link.Message{Type: link.TypeReport}, number)
	}()
}

// links returns those to the neighbors that can be asked, but for one link.
func (g *Generation) links(except *link.Link) (links []*link.Link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.predecessors {
		if !p.reported && p.link != except {
			links = append(links, p.link)
		}
	}
	if g.successor != nil && g.successor.link != except { // it may serve before this generation is notified of that
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
