package lifecycle

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
				case Refuse, Forward, Fail, Succeed, Revoke:
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

// playLine lets a line of generations live whose messages are delayed and whose processes and
// links are lost.
func playLine(t *testing.T, plan []byte) {
	w := newWorld(t, len(plan)%2 == 1, len(plan)%4 >= 2)
	for _, b := range plan {
		switch choice := int(b) / 8; b % 8 {
		case 5:
			w.tick()
		case 6:
			w.outside(choice%3, choice/3)
		case 7:
			w.outside(3+choice%3, choice/3)
		case 4:
			w.outside(6+choice%2, choice/2)
		default:
			w.deliver(choice)
		}
	}
	w.rest()
}

// Exactly one generation decides, at least one accepts, every waiter gets exactly one answer,
// and at last one generation is left.
func TestLine(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		plan := make([]byte, 20+random.IntN(200))
		for i := range plan {
			plan[i] = byte(random.Uint32())
			if plan[i]%8 == 7 && random.IntN(4) > 0 { // most lines live long
				plan[i]--
			}
		}
		if t.Run(fmt.Sprint(seed), func(t *testing.T) { playLine(t, plan) }); t.Failed() {
			return
		}
	}
}

// FuzzLine is TestLine with plans that lead to where no other has led.
func FuzzLine(f *testing.F) {
	f.Add([]byte{0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 6, 6, 14, 0, 8, 16, 0, 0, 6, 0, 0, 0, 8, 5, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 6, 0, 0, 22, 0, 5, 0, 5, 0, 0, 7})
	f.Add([]byte{0, 0, 6, 0, 0, 7, 0, 15, 0, 23, 0, 0, 7})
	f.Fuzz(func(t *testing.T, plan []byte) {
		if len(plan) < 300 {
			playLine(t, plan)
		}
	})
}
