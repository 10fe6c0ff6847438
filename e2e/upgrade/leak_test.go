package upgrade

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// A long line of generations: nothing adds up from one to the next.

func TestNothingGrows(t *testing.T) {
	tier.Slow(t, "upgrades until something would have grown")
	t.Parallel()
	upgrades := tier.Times(t, "upgrades", 0, 30, 60) // of which the first ten and the last ten are compared
	b := service.Start(t, service.Listen("HOST:PORT", "unix:DIR/public.sock"), service.Files(t), service.Args("-idle-grace", "10ms"))
	// The same work in each generation before it is measured, so that the numbers compare.
	work := func() process.Footprint {
		for range 20 {
			b.Get("/20000.bin")
			b.Probe("/metrics")
		}
		return process.FootprintOf(t, b.PID())
	}
	work()
	var early, late []process.Footprint
	for n := 2; n <= upgrades+1; n++ {
		b.Upgrade()
		switch {
		case n > 2 && n <= 12:
			early = append(early, work())
		case n > upgrades-9:
			late = append(late, work())
		}
	}
	service.CheckServes(t, b, upgrades+1, b.PID())

	highest := func(all []process.Footprint) (h process.Footprint) {
		for _, f := range all {
			h.Descriptors = max(h.Descriptors, f.Descriptors)
			h.Threads = max(h.Threads, f.Threads)
			h.Children = max(h.Children, f.Children)
			h.Environment = max(h.Environment, f.Environment)
			h.Resident = max(h.Resident, f.Resident)
		}
		return h
	}
	before, after := highest(early), highest(late)
	t.Logf("generations 3 to 12: %+v; the last ten: %+v", before, after)
	if after.Descriptors > before.Descriptors+2 {
		t.Errorf("descriptors: got %d, want %d as before", after.Descriptors, before.Descriptors)
	}
	if after.Threads > before.Threads+5 {
		t.Errorf("threads: got %d, want about %d as before", after.Threads, before.Threads)
	}
	if after.Children > 0 {
		t.Errorf("children, zombies included: got %d, want none", after.Children)
	}
	// The generation number may get longer.
	if after.Environment > before.Environment+16 {
		t.Errorf("environment: got %d bytes, want %d as before", after.Environment, before.Environment)
	}
	if after.Resident > before.Resident*5/4 {
		t.Errorf("resident memory: got %d KiB, want about %d KiB as before", after.Resident, before.Resident)
	}
	var zombies []int
	for pid, p := range b.Known {
		if !p.Alive() {
			if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(state), ") Z ") {
				zombies = append(zombies, pid)
			}
		}
	}
	if len(zombies) > 0 {
		t.Errorf("zombies: got %v, want none", zombies)
	}
}
