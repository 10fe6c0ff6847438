package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// Generations that die, stop or starve while connections move between them: a connection is lost only with the
// process that had it, and never between the two.

// fates is what became of connections on which one more request was made.
type fates struct {
	kept []*talk // answered, and kept
	told int     // answered, with the end announced
	lost int     // ended without a byte of the answer
}

func (f fates) String() string {
	return fmt.Sprintf("%d kept, %d told to close, %d lost", len(f.kept), f.told, f.lost)
}

// note adds what became of a request. A part of an answer, a wrong one, or neither an answer nor an end is an error.
func (f *fates) note(k *talk, err error) error {
	var broken *http1.ReadError
	switch {
	case err == nil && k.resp.Close:
		f.told++
	case err == nil:
		f.kept = append(f.kept, k)
	case errors.As(err, &broken) && broken.Part == http1.BeforeHeader && http1.EndingOf(err) != http1.StillOn:
		f.lost++
	default:
		return err
	}
	return nil
}

// askAll sends a request on each connection, does something if there is something to do in between, and notes what
// becomes of them.
func askAll(t *testing.T, all []*talk, a question, then func()) (f fates) {
	t.Helper()
	for _, k := range all {
		k.say(a.raw) // whoever is gone already is found out below
	}
	if then != nil {
		then()
	}
	var mu sync.Mutex
	each(t, all, "one more request", func(k *talk, _ *rand.Rand) error {
		err := k.hearOne(a)
		mu.Lock()
		defer mu.Unlock()
		return f.note(k, err)
	})
	return f
}

// drainOf returns how many connections a process says to have moved in its drain.
func drainOf(b *service.Baton, pid int) (moved int, drained bool) {
	b.T.Helper()
	for line := range strings.Lines(b.Log()) {
		var entry struct {
			Msg   string
			PID   int
			Moved int `json:"connections_moved"`
		}
		if strings.Contains(line, `"drained"`) && json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "drained" && entry.PID == pid {
			return entry.Moved, true
		}
	}
	return 0, false
}

// descriptors counts what a process has open; 0 if it is gone.
func descriptors(pid int) int {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return len(names)
}

// sockets are those that a process has open, by their inodes; none if it is gone.
func sockets(pid int) map[string]bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	all := make(map[string]bool)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "socket:") {
			all[to] = true
		}
	}
	return all
}

// held counts the connections that a process has.
func (s *scene) held(pid int) (n int) {
	for socket := range sockets(pid) {
		if s.connections[socket] {
			n++
		}
	}
	return n
}

// midMove begins an upgrade of a service with idle connections, and returns the successor at a random moment of the move:
// some time after the PID file names it or, in every other round, when it holds a random number of connections.
func midMove(t *testing.T, s *scene, round int) (successor int, result func() *service.Upgraded) {
	t.Helper()
	result = handoff(t, s.Baton)
	successor = s.PID()
	s.TryFollow(successor)
	if round%2 == 0 {
		spin(rand.N(12 * time.Millisecond))
		return successor, result
	}
	want := descriptors(successor) + 1 + rand.N(len(s.idle))
	for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until) && descriptors(successor) < want; {
	}
	return successor, result
}

// hits runs a test in rounds, and in some more as long as none has met a generation amid the move.
func hits(t *testing.T, rounds int, round func(t *testing.T, round int) (hit bool)) {
	t.Helper()
	met := 0
	for n := 0; n < rounds || met == 0 && n < 4*rounds; n++ {
		t.Run(fmt.Sprint(n+1), func(t *testing.T) {
			if round(t, n) {
				met++
			}
		})
		if t.Failed() {
			return
		}
	}
	if met == 0 {
		t.Errorf("%d rounds: none amid the move", 4*rounds)
	}
}

// spin waits more exactly than a timer.
func spin(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until); {
	}
}

// scene is a service with connections that are about to move.
type scene struct {
	*service.Baton
	predecessor *process.Process
	idle        []*talk         // of which some have spoken
	busy        []*talk         // with a request that waits at a gate
	connections map[string]bool // the sockets of both
	open        func()          // opens the gate
}

func newScene(t *testing.T, round int, options ...service.Option) *scene {
	t.Helper()
	m := &mirror{gate: make(chan struct{})}
	s := &scene{open: sync.OnceFunc(func() { close(m.gate) })}
	t.Cleanup(s.open)
	s.Baton = moving(t, networks[round/2%len(networks)], m, append(options, service.Args("-idle-grace", "2s"))...)
	s.predecessor = s.Follow(s.PID())
	others := sockets(s.predecessor.Pid)
	s.idle = talks(t, s.Baton, 200)
	each(t, s.idle[:150], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(get("/first")) })
	s.busy = talks(t, s.Baton, 10)
	each(t, s.busy, "request that is held", func(k *talk, _ *rand.Rand) error { return k.say(get("/gate").raw) })
	await.Until(t, 10*time.Second, "requests in the backend", func() bool { return m.entered.Load() == int64(len(s.busy)) })
	s.connections = sockets(s.predecessor.Pid)
	for socket := range others {
		delete(s.connections, socket)
	}
	return s
}

// release opens the gate and hears the answers behind it.
func (s *scene) release(t *testing.T) {
	t.Helper()
	s.open()
	each(t, s.busy, "request that was held", func(k *talk, _ *rand.Rand) error { return k.hearOne(get("/gate")) })
}

// checkOrphaned checks what is left after the death of a successor: its predecessor, which has moved as many
// connections as were lost at least, and which answers the requests that it holds. It tells whether some were lost and
// some not.
func checkOrphaned(t *testing.T, s *scene, successor int, result func() *service.Upgraded, f fates) (amid bool) {
	t.Helper()
	s.release(t)
	s.AwaitExit(successor, 5*time.Second)
	for _, k := range slices.Concat(f.kept, s.busy) {
		k.Close()
	}
	result()
	t.Log(f)
	serves := false
	if !await.Holds(5*time.Second, func() bool {
		now, err := s.TryStatus()
		serves = err == nil && now.PID == s.predecessor.Pid && now.State == "serving"
		return serves || !s.predecessor.Alive()
	}) {
		t.Fatal("predecessor: neither drained nor serving 5 s after the death of its successor")
	}
	if serves {
		if f.lost > 0 || f.told > 0 {
			t.Errorf("the predecessor serves on, but: %v", f)
		}
		return false
	}
	moved, ok := drainOf(s.Baton, s.predecessor.Pid)
	if !ok || f.lost > moved {
		t.Errorf("%v, want no more lost than the %d that had moved (reported: %v)", f, moved, ok)
	}
	return f.lost > 0 && f.told+len(f.kept) > 0
}

func TestSuccessorKilledWhileMoving(t *testing.T) {
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
	t.Parallel()
	hits(t, 4, func(t *testing.T, round int) (hit bool) {
		s := newScene(t, round)
		successor, result := midMove(t, s, round)
		s.Kill(successor, syscall.SIGSTOP)
		await.Until(t, 5*time.Second, "the successor to be stopped", func() bool { return process.Stopped(t, successor) })
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
			if !s.predecessor.Within(5 * time.Second) {
				t.Fatalf("predecessor: alive 5 s after the last answer; %+v", s.Status().Generations)
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

// checkGoesOn checks that a service answers, and that an upgrade keeps all these connections.
func checkGoesOn(t *testing.T, b *service.Baton, all []*talk) {
	t.Helper()
	for range 5 {
		if resp := b.Get("/"); resp.Status != 200 {
			t.Errorf("new request: got %d, want 200", resp.Status)
		}
	}
	each(t, all, "connection that was kept", func(k *talk, _ *rand.Rand) error { return k.exchange(get("/again")) })
	predecessor := b.Follow(b.PID())
	u := b.Upgrade()
	checkNoneClosed(t, u)
	predecessor.Within(5 * time.Second)
	checkAllMoved(t, b, all)
}

// A successor with room for a few descriptors only takes what it can, and has some left for new connections.
func TestSuccessorStarvesWhileMoving(t *testing.T) {
	t.Parallel()
	for round, spare := range []int{16, 100} {
		t.Run(fmt.Sprintf("%d to spare", spare), func(t *testing.T) {
			s := newScene(t, 2*round, service.Config("drain-timeout 20s"))
			bare := moving(t, "tcp", new(mirror))
			bare.Upgrade()
			limit := descriptors(bare.AwaitGeneration(2, 10*time.Second)) + spare
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
			await.Until(t, 10*time.Second, "the successor to read its configuration", func() (ok bool) {
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
			if !s.predecessor.Within(s.Grace() + 5*time.Second) {
				t.Fatalf("predecessor: alive 5 s after the grace; %+v", s.Status().Generations)
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
				t.Errorf("silent connections: got %v, want FIN or still open", endings)
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

// What has reached the successor lives on when the predecessor is killed; the rest goes with it.
func TestPredecessorKilledWhileMoving(t *testing.T) {
	t.Parallel()
	hits(t, 4, func(t *testing.T, round int) (hit bool) {
		s := newScene(t, round)
		successor, result := midMove(t, s, round)
		held := s.held(successor)
		s.Kill(s.predecessor.Pid, syscall.SIGKILL)
		s.AwaitExit(s.predecessor.Pid, 5*time.Second)
		f := askAll(t, s.idle, get("/more"), nil)
		result()
		t.Log(f)
		if len(f.kept) < held {
			t.Errorf("%v, want the %d kept that the successor had", f, held)
		}
		if f.told > 0 {
			t.Errorf("%v, want none told to close: nobody drains", f)
		}
		for _, k := range s.busy {
			if e := k.AwaitClose(5 * time.Second); e == http1.StillOn || e == http1.MoreData {
				t.Errorf("connection whose request the killed process held: got %s, want its end", e)
			}
		}
		if got := s.AwaitGeneration(2, 10*time.Second); got != successor {
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
					k.SetReadDeadline(time.Now().Add(time.Millisecond))
					if _, err := k.R.Peek(1); err != nil && http1.EndingOf(err) == http1.StillOn {
						all = append(all, k)
					} else if err != nil {
						t.Fatalf("connection %s: %v", k.name, err)
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
			s.AwaitExit(s.predecessor.Pid, 5*time.Second)
			s.Kill(successor, syscall.SIGCONT)
			each(t, gone, "request to the successor", func(k *talk, _ *rand.Rand) error { return k.hear(a) })
			result()
			t.Logf("%d of %d connections were with the successor, or on their way", len(gone), len(s.idle))
			s.AwaitGeneration(2, 10*time.Second)
			checkGoesOn(t, s.Baton, gone)
		})
	}
}

// Each successor is told to upgrade as soon as it serves, when the connections of its predecessor are just about to come to it:
// they pass through generations that live for some milliseconds.
func TestUpgradesWithoutAPause(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			options := []service.Option{service.Files(t), service.Patient()}
			if network == "unix" {
				options = append(options, service.Listen("unix:DIR/public.sock"))
			}
			b := service.Start(t, options...)
			l := load.Load{Network: b.Network, Address: b.Address, Exchanges: exchange.Files()}
			l.Clients = [load.Habits]int{load.BackToBack: 2, load.Pausing: 32, load.PerRequest: 1, load.Silent: 50, load.SilentAfter: 50}
			counts, stop := load.Start(t, l)
			await.Until(t, 20*time.Second, "load", func() bool {
				return counts.Answered[load.SilentAfter].Load() == 50 && counts.Answered[load.Pausing].Load() > 64
			})
			const upgrades = 10
			for range upgrades {
				pid := b.PID()
				b.Kill(pid, syscall.SIGHUP)
				awaitNewPID(t, b, pid)
			}
			b.AwaitGeneration(upgrades+1, 20*time.Second)
			before := counts.Requests()
			await.Until(t, 10*time.Second, "requests of the last generation", func() bool { return counts.Requests() > before+200 })
			stop()
			if counts.Failures() != 0 {
				t.Error("requests lost")
			}
			for h := range load.Habits {
				if n := counts.Reconnects[h].Load() + counts.IdleClosed[h].Load(); n != 0 {
					t.Errorf("%v clients: %d connections closed, want none", h, n)
				}
			}
			if n := len(counts.Silences()); n != 100 {
				t.Errorf("silent connections: got %d, want the 100 of the beginning", n)
			}
			t.Log(counts)
		})
	}
}
