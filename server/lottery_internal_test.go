package server

import (
	"math"
	"math/rand/v2"
	"testing"
)

// However much comes, about the share of it is chosen, the first one included.
func TestLottery(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, share := range []float64{0.001, 0.01, 0.1, 0.3, 1.0 / 3, 0.5, 0.9, 0.999} {
		for range 100 {
			l, chosen := lottery{share: share}, 0
			for n := 1; n <= 2000; n++ {
				if l.draw(random.Float64()) {
					chosen++
				}
				if chosen == 0 {
					t.Fatalf("share %v: the first one is not chosen", share)
				}
				if want := share * float64(n); math.Abs(float64(chosen)-want) > 2 {
					t.Fatalf("share %v: %d of %d are chosen, want about %.1f", share, chosen, n, want)
				}
			}
		}
	}
}

// Each place is chosen as often as any other, but for the first stretch.
func TestLotteryIsFair(t *testing.T) {
	const share, stretch, runs = 0.1, 10, 20_000
	var chosen [100]int
	for range runs {
		l := lottery{share: share}
		for i := range chosen {
			if l.draw(rand.Float64()) {
				chosen[i]++
			}
		}
	}
	for i, n := range chosen[stretch:] {
		if want := share * runs; math.Abs(float64(n)-want) > 8*math.Sqrt(want) { // eight standard deviations
			t.Errorf("place %d is chosen in %d of %d runs, want about %.0f", i+stretch, n, runs, want)
		}
	}
}
