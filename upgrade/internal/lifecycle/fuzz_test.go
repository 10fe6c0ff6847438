package lifecycle

import (
	"errors"
	"testing"
	"time"
)

// FuzzMachine plays any events, in any order, also such as cannot happen. Whatever they are,
// nothing happens after the exit, every waiter gets one final answer by then, and no
// transition is missing from a table.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 1, 3, 6, 15, 16, 13, 11, 12})
	f.Add([]byte{128, 0, 1, 3, 6, 15, 13, 7, 7, 29, 14, 12})
	f.Add([]byte{129, 0, 1, 23, 24, 25, 3, 9, 6, 15, 16, 13, 26, 27, 11, 12})
	f.Fuzz(func(t *testing.T, plan []byte) {
		config := first()
		if len(plan) > 0 && plan[0] >= 128 {
			config = second()
			plan = append([]byte{plan[0] - 128}, plan[1:]...)
		}
		m, now := New(config), epoch
		answers := map[Waiter]int{}
		asked, exits := 0, 0
		for _, b := range plan {
			now = now.Add(time.Duration(b>>5) * time.Second)
			e := Event{Kind: Kind(b) % kinds, Now: now, ID: ID(b>>5) % 3, By: "test", Err: errors.New("broken"), Origin: int(b >> 6), Protocol: 2}
			e.Member = Member{ID: 2, Generation: 0, Protocol: 2}
			if e.Kind == ControlTrigger && !m.Phase().Ended() {
				asked++
				e.Waiter = asked
				answers[asked] = 0
			}
			before := m.Phase()
			actions := m.Handle(e)
			if before.Ended() && len(actions) > 0 {
				t.Fatalf("after the exit: %v", what(actions))
			}
			for _, a := range actions {
				switch a.Do {
				case Exit:
					exits++
				case Refuse, Forward, Fail, Succeed:
					for _, w := range a.Trigger.Waiters {
						answers[w]++
					}
				}
			}
		}
		for w, n := range answers {
			if n > 1 || m.Phase().Ended() && n != 1 {
				t.Errorf("waiter %v got %d final answers in phase %v", w, n, m.Phase())
			}
		}
		if want := m.Phase().Ended(); (exits == 1) != want || exits > 1 {
			t.Errorf("got %d exits in phase %v", exits, m.Phase())
		}
	})
}
