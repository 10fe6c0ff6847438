package migrate

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/tier"
)

// What has reached the successor lives on when the predecessor is killed; the rest goes with it.
func TestPredecessorKilledWhileMoving(t *testing.T) {
	tier.Slow(t, "kills a generation that moves connections")
	t.Parallel()
	hits(t, 4, func(t *testing.T, round int) (hit bool) {
		s := newScene(t, round)
		successor, result := midMove(t, s, round)
		held := s.held(successor)
		s.Kill(s.predecessor.Pid, syscall.SIGKILL)
		s.AwaitExit(s.predecessor.Pid)
		f := askAll(t, s.idle, get("/more"), nil)
		result()
		t.Log(f)
		if len(f.kept) < held {
			t.Errorf("%v, want the %d kept that the successor had", f, held)
		}
		if f.told > 0 {
			t.Errorf("%v, want none sent Connection: close: nobody drains", f)
		}
		for _, k := range s.busy {
			if e := k.AwaitClose(await.Hang); e == http1.StillOn || e == http1.MoreData {
				t.Errorf("connection whose request the killed process held: got %s, want its end", e)
			}
		}
		if got := s.AwaitGeneration(2); got != successor {
			t.Errorf("who serves: got %d, want %d", got, successor)
		}
		if n := connectionsOf(s.Baton); n != len(f.kept) {
			t.Errorf("%v, want as many kept as the service counts, %d", f, n)
		}
		if in := int(s.Metric("baton_connections_migrated_total", "direction", "in")); in != len(f.kept) {
			t.Errorf("%v, want as many kept as the successor took, %d", f, in)
		}
		checkGoesOn(t, s.Baton, f.kept)
		return f.lost > 0 && len(f.kept) > 0
	})
}

// Connections that are on their way to a successor that is stopped arrive there also if the predecessor is killed
// meanwhile: they are nowhere else.
func TestPredecessorKilledWhileSuccessorIsStopped(t *testing.T) {
	tier.Slow(t, "kills a generation that moves connections")
	t.Parallel()
	for round, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, 2*round)
			successor, result := midMove(t, s, 1)
			s.Kill(successor, syscall.SIGSTOP)
			// Whoever is still with the predecessor is answered by it, sooner or later.
			a := get("/more")
			each(t, s.idle, "request", func(k *talk, _ *rand.Rand) error { return k.say(a.raw) })
			unanswered := func() (all []*talk) {
				for _, k := range s.idle {
					switch got := k.Look(time.Millisecond); got {
					case http1.MoreData: // the answer
					case http1.StillOn:
						all = append(all, k)
					default:
						t.Fatalf("connection %s: got %s", k.name, got)
					}
				}
				return all
			}
			time.Sleep(hangs)
			gone := unanswered()
			for before := -1; before != len(gone); gone = unanswered() {
				before = len(gone)
				time.Sleep(200 * time.Millisecond)
			}
			s.Kill(s.predecessor.Pid, syscall.SIGKILL)
			s.AwaitExit(s.predecessor.Pid)
			s.Kill(successor, syscall.SIGCONT)
			each(t, gone, "request to the successor", func(k *talk, _ *rand.Rand) error { return k.hear(a) })
			result()
			t.Logf("%d of %d connections were with the successor, or on their way", len(gone), len(s.idle))
			s.AwaitGeneration(2)
			checkGoesOn(t, s.Baton, gone)
		})
	}
}
