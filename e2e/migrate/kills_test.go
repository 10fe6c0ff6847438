package migrate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Successors that come to harm at a random moment of an upgrade, under a load of every kind. A connection is lost if
// the process that has died had accepted it, from its predecessor or by itself, and only then. No client connects
// again, so that the connections are the same from the beginning to the end: as many are lost as the predecessor says
// have migrated, and no other.

// harm is what comes to a successor, and whether it dies of it.
type harm struct {
	name    string
	do      func(t *testing.T, b *service.Baton, successor int)
	dies    bool
	starves bool // who has no descriptor left reaches no backend, and answers 502
}

var harms = []harm{
	{"killed", func(t *testing.T, b *service.Baton, successor int) { hurt(b, successor, syscall.SIGKILL) }, true, false},
	{"stopped and killed", func(t *testing.T, b *service.Baton, successor int) {
		hurt(b, successor, syscall.SIGSTOP)
		pauseAtMost(3 * time.Second)
		hurt(b, successor, syscall.SIGKILL)
	}, true, false},
	{"stopped for a moment", func(t *testing.T, b *service.Baton, successor int) {
		hurt(b, successor, syscall.SIGSTOP)
		pauseAtMost(300 * time.Millisecond)
		hurt(b, successor, syscall.SIGCONT)
	}, false, false},
	{"out of descriptors", func(t *testing.T, b *service.Baton, successor int) {
		var before unix.Rlimit
		if err := unix.Prlimit(successor, unix.RLIMIT_NOFILE, nil, &before); err != nil {
			return
		}
		b.ExpectBad(successor) // if it cannot start
		// Without its poller Go has no program to run.
		await.Holds(await.Hang, func() bool {
			return slices.Contains(open(successor), "anon_inode:[eventpoll]") || !b.Known[successor].Alive()
		})
		few := before
		few.Cur = uint64(descriptors(successor) + rand.N(40))
		unix.Prlimit(successor, unix.RLIMIT_NOFILE, &few, nil)
		pauseAtMost(300 * time.Millisecond)
		unix.Prlimit(successor, unix.RLIMIT_NOFILE, &before, nil)
	}, false, true},
}

// hurt sends a signal to a process that may be gone.
func hurt(b *service.Baton, pid int, sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		b.ExpectBad(pid)
	}
	syscall.Kill(pid, sig)
}

// pauseAtMost waits for a random time, which is part of the harm.
func pauseAtMost(d time.Duration) { time.Sleep(rand.N(d)) }

func TestSuccessorsThatComeToHarm(t *testing.T) {
	tier.Slow(t, "kills successors under load")
	rounds := *tier.Soak
	if rounds == 0 {
		rounds = tier.Times(t, "kills", 0, len(harms), 2*len(harms))
	}
	var sum account
	for round := range rounds {
		h := harms[round%len(harms)]
		t.Run(fmt.Sprintf("%d %s", round+1, h.name), func(t *testing.T) { sum.add(comeToHarm(t, h)) })
		if t.Failed() {
			break
		}
	}
	t.Logf("%d rounds: %+v", rounds, sum)
}

// account is what became of the connections of a round.
type account struct{ Clients, Migrated, Lost, Announced, Amid, Failed int }

func (a *account) add(b account) {
	a.Clients += b.Clients
	a.Migrated += b.Migrated
	a.Lost += b.Lost
	a.Announced += b.Announced
	a.Amid += b.Amid
	a.Failed += b.Failed
}

func comeToHarm(t *testing.T, h harm) (a account) {
	option, over := service.EveryKind(t)
	b := service.Start(t, option, service.Args("-idle-grace", "5m", "-websocket-grace", "5m", "-drain-timeout", "5m", "-upgrade-timeout", "20s"))
	predecessor := b.Follow(b.PID())
	size := service.CrowdSize{Busy: 1, Pausing: 4, Silent: 4}
	crowd := service.StartCrowd(t, b, over, size, true)
	a.Clients = size.Clients()

	result := b.UpgradeMeanwhile()
	successor := 0
	await.Until(t, "a successor", func() bool {
		if all := process.Children(predecessor.Pid); len(all) > 0 && process.Executed(all[0]) {
			successor = all[0]
		} else if pid := b.ReadPID(); pid != 0 && pid != predecessor.Pid {
			successor = pid
		}
		return successor != 0
	})
	b.Follow(successor)
	if rand.IntN(4) > 0 { // mostly when it serves, and connections migrate
		if !await.Holds(await.Hang, func() bool { return b.ReadPID() == successor || !b.Known[successor].Alive() }) {
			t.Fatal("no handoff")
		}
	}
	spin(rand.N(30 * time.Millisecond))
	h.do(t, b, successor)
	if h.dies {
		b.AwaitExit(successor)
	} else {
		serves := func() bool { return b.ReadPID() == successor && !process.Stopped(t, successor) }
		await.Until(t, "an end of the upgrade", func() bool { return serves() || !b.Known[successor].Alive() })
	}
	before := crowd.Requests()
	await.Holds(300*time.Millisecond, func() bool { return crowd.Advanced(before, 5) }) // if anybody is still there
	crowd.Stop()
	u := result()
	moved, drained := 0, false
	if await.Holds(await.Hang, func() bool {
		moved, drained = drainOf(b, predecessor.Pid)
		s, err := b.TryStatus()
		return drained || err == nil && s.PID == predecessor.Pid && s.State == "serving"
	}); !drained {
		a.Failed = 1 // the predecessor serves on
	}
	a.Migrated = moved
	a.Announced, a.Lost = crowd.Ends()
	if moved > 0 && moved < a.Clients {
		a.Amid = 1
	}
	t.Logf("%+v; the command: %d %s", a, u.Code, u.Result)
	defer func() {
		if t.Failed() {
			t.Log(crowd)
		}
	}()
	if wrong := crowd.Wrong(); wrong > 0 && !h.starves {
		t.Errorf("%d wrong answers", wrong)
	}
	want := 0
	if h.dies {
		want = moved
	}
	if a.Lost != want {
		t.Errorf("got %d connections lost, want %d: %d had migrated (drained: %v)", a.Lost, want, moved, drained)
	}
	if !drained && a.Announced > 0 {
		t.Errorf("%d connections were sent Connection: close by a predecessor that serves on", a.Announced)
	}
	return a
}
