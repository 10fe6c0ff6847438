// A long line of generations: nothing adds up from one to the next.
package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// footprint is what a process holds of the machine.
type footprint struct {
	descriptors, threads, children, environment, resident int // resident in KiB
}

func measure(t *testing.T, pid int) (f footprint) {
	t.Helper()
	number := func(field string) int {
		n, err := strconv.Atoi(strings.TrimSuffix(procStatus(t, pid, field), " kB"))
		if err != nil {
			t.Fatalf("%s of %d: %v", field, pid, err)
		}
		return n
	}
	f.threads, f.resident = number("Threads"), number("VmRSS")
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	f.descriptors = len(fds)
	f.children = len(children(pid))
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	f.environment = len(environ)
	return f
}

func TestNothingGrows(t *testing.T) {
	t.Parallel()
	const upgrades = 100
	b := start(t, listen("HOST:PORT", "unix:DIR/public.sock"), files(t), args("-idle-grace", "10ms"))
	// The same work in each generation before it is measured, so that the numbers compare.
	work := func() footprint {
		for range 20 {
			b.Get("/20000.bin")
			b.probe("/metrics")
		}
		return measure(t, b.PID())
	}
	work()
	var early, late []footprint
	for n := 2; n <= upgrades+1; n++ {
		b.Upgrade()
		switch {
		case n > 2 && n <= 12:
			early = append(early, work())
		case n > upgrades-9:
			late = append(late, work())
		}
	}
	checkServes(t, b, upgrades+1, b.PID())

	highest := func(all []footprint) (h footprint) {
		for _, f := range all {
			h.descriptors = max(h.descriptors, f.descriptors)
			h.threads = max(h.threads, f.threads)
			h.children = max(h.children, f.children)
			h.environment = max(h.environment, f.environment)
			h.resident = max(h.resident, f.resident)
		}
		return h
	}
	before, after := highest(early), highest(late)
	t.Logf("generations 3 to 12: %+v; the last ten: %+v", before, after)
	if after.descriptors > before.descriptors+2 {
		t.Errorf("descriptors: got %d, want %d as before", after.descriptors, before.descriptors)
	}
	if after.threads > before.threads+5 {
		t.Errorf("threads: got %d, want about %d as before", after.threads, before.threads)
	}
	if after.children > 0 {
		t.Errorf("children, zombies included: got %d, want none", after.children)
	}
	// The generation number may get longer.
	if after.environment > before.environment+16 {
		t.Errorf("environment: got %d bytes, want %d as before", after.environment, before.environment)
	}
	if after.resident > before.resident*5/4 {
		t.Errorf("resident memory: got %d KiB, want about %d KiB as before", after.resident, before.resident)
	}
	var zombies []int
	for pid, p := range b.known {
		if !p.alive() {
			if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(state), ") Z ") {
				zombies = append(zombies, pid)
			}
		}
	}
	if len(zombies) > 0 {
		t.Errorf("zombies: got %v, want none", zombies)
	}
}
