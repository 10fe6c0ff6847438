package migrate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// A successor with room for a few descriptors only takes what it can, and has some left for new connections.
func TestSuccessorStarvesWhileMoving(t *testing.T) {
	tier.Slow(t, "starves a successor")
	t.Parallel()
	for round, spare := range []int{16, 100} {
		t.Run(fmt.Sprintf("%d to spare", spare), func(t *testing.T) {
			s := newScene(t, 2*round, service.Config("drain-timeout 20s"))
			bare := moving(t, "tcp", new(mirror))
			bare.Upgrade()
			limit := descriptors(bare.AwaitGeneration(2)) + spare
			idle, silent := s.idle[:160], s.idle[160:]

			// The configuration file as a named pipe holds the successor until it has its limit. Set before that,
			// it would be undone by Go's runtime.
			if err := os.Remove(s.Config); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(s.Config, 0o600); err != nil {
				t.Fatal(err)
			}
			result := s.UpgradeMeanwhile()
			successor := service.AwaitStarting(t, s.Baton)
			var pipe *os.File
			await.Until(t, "the successor to read its configuration", func() (ok bool) {
				var err error
				pipe, err = os.OpenFile(s.Config, os.O_WRONLY|syscall.O_NONBLOCK, 0)
				return err == nil
			})
			defer pipe.Close()
			var rlimit unix.Rlimit
			if err := unix.Prlimit(successor, unix.RLIMIT_NOFILE, nil, &rlimit); err != nil {
				t.Fatal(err)
			}
			starved := rlimit
			starved.Cur = uint64(limit)
			if err := unix.Prlimit(successor, unix.RLIMIT_NOFILE, &starved, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := pipe.WriteString("drain-timeout 20s\n"); err != nil {
				t.Fatal(err)
			}
			pipe.Close()
			awaitNewPID(t, s.Baton, s.predecessor.Pid)
			began := time.Now()

			// One after the other: who has no descriptors cannot do many things at once. Whoever has no turn within the
			// grace is one of those who say nothing.
			var f fates
			for i, k := range idle {
				if time.Now().After(began.Add(s.Grace() / 2)) {
					silent = append(silent, idle[i:]...)
					break
				}
				each(t, []*talk{k}, "one more request", func(k *talk, _ *rand.Rand) error {
					k.say(get("/more").raw)
					return f.note(k, k.hearOne(get("/more")))
				})
			}
			s.release(t)
			if f.lost > 0 {
				t.Errorf("%v, want none lost", f)
			}
			for range 5 {
				if resp := s.Get("/new"); resp.Status != 200 {
					t.Errorf("new request: got %d, want 200", resp.Status)
				}
			}
			if !s.predecessor.Within(await.Hang) {
				t.Fatalf("predecessor: alive long after the grace; %+v", s.Status().Generations)
			}
			// Who says nothing is kept, or ends in order with the grace. So does who was answered before the drain began.
			endings := make(map[http1.Ending]int)
			for _, k := range silent {
				e := k.AwaitClose(time.Millisecond)
				if endings[e]++; e == http1.StillOn {
					f.kept = append(f.kept, k)
				}
			}
			if endings[http1.Fin]+endings[http1.StillOn] != len(silent) {
				t.Errorf("idle connections: got %v, want FIN or still open", endings)
			}
			for _, k := range s.busy {
				if !k.resp.Close {
					f.kept = append(f.kept, k)
				}
			}
			t.Log(f, endings)
			f.kept = slices.DeleteFunc(f.kept, func(k *talk) bool { return k.AwaitClose(time.Millisecond) == http1.Fin })
			if u := result(); u.Code != 0 || u.PID != successor || u.Predecessor.Connections.Cut+u.Predecessor.Connections.Error != 0 {
				t.Errorf("upgrade: got exit code %d, %s %s", u.Code, u.Stdout, u.Errors)
			} else if u.Predecessor.Connections.Announced+u.Predecessor.Connections.Grace == 0 {
				t.Errorf("drain: got %+v, want connections that the successor had no room for", u.Predecessor)
			}
			// What it has kept for itself is enough for some new ones at once, with a connection to the backend each.
			var new sync.WaitGroup
			together := 1 + spare/33
			for range together {
				new.Go(func() {
					if resp, err := http1.Fetch(s.Network, s.Address, "GET", fmt.Sprintf("/meet/%d", together)); err != nil {
						t.Errorf("new request among several: %v", err)
					} else if resp.Status != 200 {
						t.Errorf("new request among several: got %d, want 200", resp.Status)
					}
				})
			}
			new.Wait()
			if err := unix.Prlimit(successor, unix.RLIMIT_NOFILE, &rlimit, nil); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(s.Config); err != nil {
				t.Fatal(err)
			}
			s.Configure("drain-timeout 20s\n")
			checkGoesOn(t, s.Baton, f.kept)
		})
	}
}
