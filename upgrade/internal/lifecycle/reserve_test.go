package lifecycle

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// A generation that has committed dies while its predecessor drains, at any moment, once or
// several times in a line: another takes over, exactly one, and until then the listeners are open.
func TestDeathsDuringTheDrain(t *testing.T) {
	rescues, doubts := 0, 0
	for seed := range uint64(2000) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t, false, seed%2 == 1)
			for range 20 + random.IntN(300) {
				switch random.IntN(16) {
				case 0:
					w.outside(random.IntN(2), random.IntN(8))
				case 1:
					if p := w.living((*proc).isReplaceable); len(p) > 0 {
						p[0].kill()
					}
				case 2:
					w.tick()
				default:
					w.deliver(random.IntN(64))
				}
			}
			w.rest()
			for _, p := range w.procs {
				if p.rescuer {
					rescues++
				}
				if p.rescuer && w.harmed {
					doubts++
				}
			}
		}) {
			return
		}
	}
	if rescues-doubts < 100 {
		t.Errorf("%d deaths ended well, and in %d lines nobody had to notice; that is no test", rescues-doubts, doubts)
	}
	t.Log(rescues, doubts)
}
