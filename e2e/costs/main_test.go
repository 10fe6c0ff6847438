// Package costs measures what requests and connections cost, by turns with another release and with a server of
// net/http and nothing else:
//
//	go test ./e2e/costs -rounds=5 -v [-against=BINARY]
//
// A machine that does something else meanwhile makes all of them slower, so that it is the ratios that count.
package costs

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

var (
	against = flag.String("against", "", "`binary` of the other release; without it, this one that migrates no more than the release before")
	rounds  = flag.Int("rounds", 0, "number of `turns`; 0 makes one that only shows that it works")
)

func TestMain(m *testing.M) { service.Main(m) }

// turns returns how many turns there are, and how much of the usual work is done in each.
func turns(t *testing.T) (n int, share float64) {
	t.Helper()
	if *rounds > 0 {
		return *rounds, 1
	}
	tier.Long(t, "go test ./e2e/costs -rounds=5 -v measures")
	return 1, 0.02
}

// ground is what all servers serve.
type ground struct{ root, cert, key string }

func newGround(t *testing.T) *ground {
	t.Helper()
	g := &ground{root: backend.Directory(t)}
	for name, n := range sizes {
		files.Put(t, exchange.Pattern(n), filepath.Join(g.root, name), 0o644)
	}
	g.cert, g.key = certificate.Certificate(t)
	return g
}

var sizes = map[string]int{"1KB": 1 << 10, "100KB": 100 << 10, "10MB": 10 << 20}

// baton starts a service with a binary, or this release if there is none.
func (g *ground) baton(t *testing.T, binary string) (*service.Baton, service.Over) {
	t.Helper()
	option, over := service.EveryKindWith(t, g.cert, g.key)
	b := service.Prepare(t, option, service.Args("-root", g.root, "-log-level", "warn", "-idle-grace", "1m"))
	// Of what the option has forwarded, only the WebSockets.
	for i, arg := range b.Setup.Args {
		if path, ok := strings.CutPrefix(arg, "/="); ok {
			b.Setup.Args[i] = "/ws=" + path
		}
	}
	if binary != "" {
		files.Install(t, binary, b.Bin)
	}
	b.Launch()
	b.AwaitReady()
	return b, over
}

// other returns the binary of the other release.
func other(t *testing.T) string {
	if *against != "" {
		return *against
	}
	return build.Version(t, build.Previous)
}

// processorTime is what a process has taken of the processors.
func processorTime(t *testing.T, pid int) (took time.Duration) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, task := range tasks {
		line, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.Fields(string(line))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		took += time.Duration(n)
	}
	return took
}

// resident is the memory of a process that is in use, when it has not changed for a while.
func resident(t *testing.T, pid int) (kib int) {
	t.Helper()
	for before := -1; before != kib; time.Sleep(200 * time.Millisecond) {
		before = kib
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(line), "VmRSS:")
		kib, _ = strconv.Atoi(strings.Fields(rest)[0])
	}
	return kib
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
}

// ratio is the median of the ratios turn by turn.
func ratio(of, to []float64) float64 {
	var all []float64
	for i := range of {
		all = append(all, of[i]/to[i])
	}
	return median(all)
}
