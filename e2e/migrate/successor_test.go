package migrate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/tier"
)

func TestSuccessorKilledWhileMoving(t *testing.T) {
	tier.Slow(t, "kills a successor that is given connections")
	t.Parallel()
	hits(t, 6, func(t *testing.T, round int) (hit bool) {
		s := newScene(t, round)
		successor, result := midMove(t, s, round)
		s.Kill(successor, syscall.SIGKILL)
		f := askAll(t, s.idle, get("/more"), nil)
		return checkOrphaned(t, s, successor, result, f)
	})
}

// What is on its way to a successor that is stopped and does not come back is not lost.
func TestSuccessorStoppedThenKilledWhileMoving(t *testing.T) {
	tier.Slow(t, "stops and kills a successor")
	t.Parallel()
	hits(t, 4, func(t *testing.T, round int) (hit bool) {
		s := newScene(t, round)
		successor, result := midMove(t, s, round)
		s.Kill(successor, syscall.SIGSTOP)
		await.Until(t, "the successor to be stopped", func() bool { return process.Stopped(t, successor) })
		held := s.held(successor)
		f := askAll(t, s.idle, get("/more"), func() {
			time.Sleep(rand.N(200 * time.Millisecond)) // how long it is stopped
			s.Kill(successor, syscall.SIGKILL)
		})
		if f.lost > held {
			t.Errorf("%v, want no more lost than the %d that the successor had", f, held)
		}
		return checkOrphaned(t, s, successor, result, f)
	})
}

// hangs is longer than a predecessor waits for a successor that says nothing before it goes on without.
const hangs = 2800 * time.Millisecond

// A successor that is stopped keeps its connections waiting, and no longer than it is stopped.
func TestSuccessorStoppedWhileMoving(t *testing.T) {
	tier.Slow(t, "waits for a successor that is stopped")
	t.Parallel()
	for round := range 4 {
		t.Run(fmt.Sprint(round+1), func(t *testing.T) {
			s := newScene(t, round)
			successor, result := midMove(t, s, round)
			s.Kill(successor, syscall.SIGSTOP)
			stop := rand.N(300 * time.Millisecond)
			if round == 3 { // so long that the predecessor gives up on it
				stop = hangs
			}
			asked := time.Now()
			f := askAll(t, s.idle, get("/more"), func() {
				time.Sleep(stop)
				s.open()
				time.Sleep(rand.N(100 * time.Millisecond))
				s.Kill(successor, syscall.SIGCONT)
			})
			s.release(t)
			// The predecessor waits for it for a while before it goes on without.
			if f.lost > 0 || f.told > 0 && time.Since(asked) < hangs/2 {
				t.Errorf("after %v: %v, want all kept", time.Since(asked), f)
			}
			for _, k := range s.busy {
				if !k.resp.Close {
					f.kept = append(f.kept, k)
				}
			}
			if !s.predecessor.Within(await.Hang) {
				t.Fatalf("predecessor: alive long after the last answer; %+v", s.Status().Generations)
			}
			if stop == hangs { // then some have stayed, and ended with the grace
				f.kept = slices.DeleteFunc(f.kept, func(k *talk) bool { return k.AwaitClose(time.Millisecond) == http1.Fin })
			}
			if u := result(); u.Code != 0 || u.PID != successor || u.Predecessor.Connections.Cut+u.Predecessor.Connections.Error != 0 {
				t.Errorf("upgrade: got exit code %d, %s %s", u.Code, u.Stdout, u.Errors)
			}
			t.Log(f)
			checkGoesOn(t, s.Baton, f.kept)
		})
	}
}
