package excess

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(10, 2)
		spend := func(what string, n int, want bool) {
			t.Helper()
			if got := b.spend(n); got != want {
				t.Errorf("%s: got %t, want %t", what, got, want)
			}
		}
		spend("all at once", 10, true)
		spend("one more", 1, false)
		time.Sleep(500 * time.Millisecond)
		spend("its time", 0, true)
		for range 20 { // fractions are not lost
			time.Sleep(500 * time.Millisecond)
			spend("as it is filled", 1, true)
		}
		spend("given back", -3, true)
		spend("what was given back", 3, true)
		time.Sleep(time.Hour)
		spend("after an hour", 10, true)
		spend("one more than it holds", 1, false)
		spend("given back twice over", -50, true)
		spend("no more than it holds", 11, false)
	})
}
