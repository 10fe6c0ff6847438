package costs

import (
	"fmt"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/service"
)

// TestMemory measures what an idle connection of each kind takes of the server's memory.
func TestMemory(t *testing.T) {
	turns, share := turns(t)
	g := newGround(t)
	n := max(40, int(2000*share))
	var table strings.Builder
	fmt.Fprintf(&table, "| | KiB a connection: before | now | now/before |\n|---|---|---|---|\n")
	for _, kind := range service.Kinds {
		cost := make([][]float64, 2)
		for range turns {
			for i, binary := range []string{other(t), ""} {
				t.Run(kind, func(t *testing.T) {
					b, over := g.baton(t, binary)
					var idle service.Idle
					idle.Grow(t, b, over, kind, 20)
					before := resident(t, b.PID())
					idle.Grow(t, b, over, kind, n)
					cost[i] = append(cost[i], float64(resident(t, b.PID())-before)/float64(n))
				})
			}
		}
		fmt.Fprintf(&table, "| %s | %.1f | %.1f | %.2f |\n", kind, median(cost[0]), median(cost[1]), ratio(cost[1], cost[0]))
	}
	t.Logf("%d connections, medians of %d turns:\n%s", n, turns, &table)
}

// TestMigration measures how long the drain of a predecessor takes that has idle connections of one kind, all of which
// migrate and are used then.
func TestMigration(t *testing.T) {
	turns, _ := turns(t)
	numbers := []int{100, 1000, 2000, 4000, 8000}
	if *rounds == 0 {
		numbers = []int{100}
	}
	g := newGround(t)
	var table strings.Builder
	fmt.Fprintf(&table, "| ms (µs a connection) |")
	for _, n := range numbers {
		fmt.Fprintf(&table, " %d |", n)
	}
	fmt.Fprintf(&table, "\n|---|%s\n", strings.Repeat("---|", len(numbers)))
	for _, kind := range append([]string{"HTTP/1.1, before"}, service.Kinds...) {
		fmt.Fprintf(&table, "| %s |", kind)
		kind, isBefore := strings.CutSuffix(kind, ", before")
		binary := ""
		if isBefore {
			binary = other(t)
		}
		for _, n := range numbers {
			var took []float64
			t.Run(fmt.Sprint(kind, " ", n), func(t *testing.T) {
				b, over := g.baton(t, binary)
				var idle service.Idle
				idle.Grow(t, b, over, kind, n)
				for range turns {
					u := b.Upgrade()
					if c := u.Predecessor.Connections; u.Predecessor.Moved != n || c != (service.Connections{}) {
						t.Fatalf("%d connections migrated, closed %+v, want all %d migrated", u.Predecessor.Moved, c, n)
					}
					took = append(took, u.Predecessor.DrainSeconds*1000)
					idle.Ask(t)
				}
			})
			if len(took) > 0 {
				fmt.Fprintf(&table, " %.0f (%.0f) |", median(took), median(took)*1000/float64(n))
			}
		}
		table.WriteByte('\n')
	}
	t.Logf("medians of %d turns:\n%s", turns, &table)
}
