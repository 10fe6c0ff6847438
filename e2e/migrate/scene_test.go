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
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
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
	return fmt.Sprintf("%d kept, %d sent Connection: close, %d lost", len(f.kept), f.told, f.lost)
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
			Moved int `json:"connections_migrated"`
		}
		if strings.Contains(line, `"drained"`) && json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "drained" && entry.PID == pid {
			return entry.Moved, true
		}
	}
	return 0, false
}

// open returns what the descriptors of a process lead to; nothing if it is gone.
func open(pid int) (targets []string) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			targets = append(targets, to)
		}
	}
	return targets
}

// descriptors counts what a process has open.
func descriptors(pid int) int { return len(open(pid)) }

// sockets are those that a process has open, by their inodes.
func sockets(pid int) map[string]bool {
	all := make(map[string]bool)
	for _, to := range open(pid) {
		if strings.HasPrefix(to, "socket:") {
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
	// A generation that was stopped while it connected to the backend may find that this took too long, and needs another attempt.
	s.Baton = moving(t, networks[round/2%len(networks)], m, append(options, service.Args("-idle-grace", "2s", "-proxy-wait", "1m"))...)
	s.predecessor = s.Follow(s.PID())
	others := sockets(s.predecessor.Pid)
	s.idle = talks(t, s.Baton, 200)
	each(t, s.idle[:150], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(get("/first")) })
	s.busy = talks(t, s.Baton, 10)
	each(t, s.busy, "request that is held", func(k *talk, _ *rand.Rand) error { return k.say(get("/gate").raw) })
	await.Until(t, "requests in the backend", func() bool { return m.entered.Load() == int64(len(s.busy)) })
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
// connections as were lost at least, and which answers the requests that it holds. It reports whether some were lost and
// some not.
func checkOrphaned(t *testing.T, s *scene, successor int, result func() *service.Upgraded, f fates) (amid bool) {
	t.Helper()
	s.release(t)
	s.AwaitExit(successor)
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
	predecessor.Within(await.Hang)
	checkAllMoved(t, b, all)
}
