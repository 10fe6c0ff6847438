package trial

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Upgrades during which processes are killed and stopped, and triggers come, in every phase. Exactly one generation
// decides in the end, nobody's connect is refused, and the next upgrade works.

const (
	stageTime = 300 * time.Millisecond // of a trial and of a watch
	pace      = 40 * time.Millisecond  // between two looks at the processes, which cost the machine something
)

// phases are the moments from which an upgrade is interrupted, by the message that begins them.
var phases = []string{`"msg":"upgrade started"`, `"msg":"successor started"`, `"msg":"trial started"`, `"msg":"trial passed"`,
	`"msg":"watch started"`, `"msg":"watch passed"`, succeeded}

const (
	succeeded = `"msg":"upgrade succeeded"`
	failed    = `"msg":"upgrade failed`
)

// round is one upgrade that is interrupted.
type round struct {
	*service.Baton
	predecessor, successor int // pids
	log                    int64
	done                   []string // interruptions
	killed                 []int
	decided                bool // the last one that was killed did decide
	harmful                int  // interruptions after which the service may be gone if another one comes
	stopped                bool // by SIGTERM to the predecessor
	mayStop                bool // by SIGTERM
}

// interruption is what happens to a round.
type interruption struct {
	name string
	do   func(r *round, pid int)
}

var interruptions = []interruption{
	{"kill", (*round).kill}, {"kill", (*round).kill},
	{"terminate", func(r *round, pid int) {
		r.harmful++
		r.mayStop = true
		r.stopped = pid == r.predecessor && pid == r.ReadPID()
		syscall.Kill(pid, syscall.SIGTERM)
	}},
	{"hold", func(_ *round, pid int) {
		if process.Executed(pid) {
			syscall.Kill(pid, syscall.SIGSTOP)
			time.Sleep(rand.N(stageTime))
			syscall.Kill(pid, syscall.SIGCONT)
		}
	}},
	{"hold for long", func(_ *round, pid int) {
		if process.Executed(pid) {
			syscall.Kill(pid, syscall.SIGSTOP)
			time.Sleep(3 * time.Second)
			syscall.Kill(pid, syscall.SIGCONT)
		}
	}},
	{"trigger", func(_ *round, pid int) { syscall.Kill(pid, syscall.SIGHUP) }},
	{"promote", func(r *round, _ int) { r.Run("promote", "-control", r.Control) }},
	{"abort", func(r *round, _ int) {
		r.Run("abort", "-control", r.Control)
		r.harmful++
	}},
}

// kill kills a process, and notes whether the service decided by it.
func (r *round) kill(pid int) {
	r.harmful++
	r.decided = r.ReadPID() == pid
	syscall.Kill(pid, syscall.SIGKILL)
	r.decided = r.decided || r.ReadPID() == pid
	r.killed = append(r.killed, pid)
}

func TestInterruptions(t *testing.T) {
	tier.Slow(t, "interrupts upgrades in every phase")
	t.Parallel()
	rounds := *tier.Soak
	if rounds == 0 {
		rounds = tier.Times(t, "interrupted upgrades", 0, 12, 30)
	}
	const services = 3
	for i := range services {
		t.Run(fmt.Sprintf("service %d", i+1), func(t *testing.T) {
			t.Parallel()
			interrupt(t, (rounds+i)/services)
		})
	}
}

// interrupt interrupts that many upgrades of one service.
func interrupt(t *testing.T, rounds int) {
	b := service.Start(t, service.Files(t), service.Args("-canary", "50%", "-canary-time", stageTime.String(), "-watch", stageTime.String(),
		"-idle-grace", "50ms", "-drain-timeout", "3s", "-upgrade-timeout", "10s"))
	counts, stop := load.Start(t, load.Load{Network: b.Network, Address: b.Address, Exchanges: exchange.Files(), Patience: 20 * time.Second,
		Clients: [load.Habits]int{load.Pausing: 4, load.StreamsPausing: 2, load.SilentAfter: 4}})
	defer stop()
	ends := make(map[string]int)
	for i := range rounds {
		r := &round{Baton: b}
		end, took := r.run(t)
		ends[end]++
		t.Logf("round %d: %s after %v: %s", i+1, strings.Join(r.done, ", "), took.Round(time.Millisecond), end)
		if t.Failed() {
			break
		}
	}
	if n := counts.Failed[exchange.WrongStatus].Load() + counts.Failed[exchange.WrongBody].Load(); n != 0 {
		t.Errorf("%d wrong answers, want none:\n%v", n, counts)
	}
	t.Log(ends)
}

// run interrupts an upgrade, and says who serves in the end.
func (r *round) run(t *testing.T) (end string, took time.Duration) {
	t.Helper()
	refused := knock(r.Baton)
	r.predecessor = r.PID()
	if info, err := os.Stat(r.LogPath()); err == nil {
		r.log = info.Size()
	}
	result := func() *service.Upgraded { return nil }
	if rand.IntN(2) == 0 {
		r.done = append(r.done, "upgrade")
		result = r.UpgradeMeanwhile()
	} else {
		r.done = append(r.done, "SIGHUP")
		r.Signal(syscall.SIGHUP)
	}
	r.awaitPhase(t)
	begun := time.Now()
	for range max(1, rand.IntN(5)-1) { // mostly one
		r.interrupt()
		time.Sleep(rand.N(stageTime / 2))
	}
	if u := result(); u != nil {
		r.ExpectBad(u.PID) // it may have exited meanwhile
	}
	pid := 0
	if !await.Holds(await.Hang, func() bool { pid = r.decider(); return pid >= 0 }) {
		t.Errorf("after %v: no single generation decides; alive are %v", r.done, generations(r.Baton))
	}
	took = time.Since(begun)
	n := refused()
	switch {
	case pid < 0:
		return "undecided", took
	case pid == 0:
		end = "stopped"
		// One that decides dies with the service, and so does one that is alone.
		if !r.mayStop && r.harmful < 2 && !(r.decided && !slices.Contains(r.killed, r.predecessor)) {
			t.Errorf("after %v: nobody serves", r.done)
		}
		r.Launch()
		r.AwaitReady()
	default:
		end = map[bool]string{true: "predecessor", false: "successor"}[pid == r.predecessor]
		if n != 0 {
			t.Errorf("after %v: %d connects refused, want none: the service goes on", r.done, n)
		}
		if r.stopped && r.harmful == 1 && !strings.Contains(r.logSince(), "draining continues, since a successor serves") {
			t.Errorf("after %v: %d serves, want an end", r.done, pid)
		}
	}
	if u := r.TryUpgrade("-canary", "0%", "-watch", "0s"); u.Result != "succeeded" {
		t.Errorf("after %v: the next upgrade %s (exit code %d): %s", r.done, u.Result, u.Code, u.Reason)
	}
	await.Until(t, "a single generation", func() bool { return r.decider() > 0 })
	return end, took
}

// awaitPhase waits for one of the phases of the upgrade, and a moment within it.
func (r *round) awaitPhase(t *testing.T) {
	t.Helper()
	phase := phases[rand.IntN(len(phases))]
	log := ""
	await.Until(t, phase, func() bool {
		time.Sleep(pace)
		r.find()
		log = r.logSince()
		return strings.Contains(log, phase) || strings.Contains(log, succeeded) || strings.Contains(log, failed)
	})
	within := rand.N(stageTime)
	r.done = append(r.done, fmt.Sprintf("%s +%v", strings.Trim(strings.TrimPrefix(phase, `"msg":`), `"`), within.Round(time.Millisecond)))
	for until := time.Now().Add(within); time.Now().Before(until); time.Sleep(pace) {
		r.find()
	}
}

// interrupt does something to one of both.
func (r *round) interrupt() {
	alive := r.find()
	if len(alive) == 0 {
		return
	}
	who, pid := "the successor", alive[rand.IntN(len(alive))]
	if pid == r.predecessor {
		who = "the predecessor"
	}
	x := interruptions[rand.IntN(len(interruptions))]
	r.done = append(r.done, x.name+" "+who)
	x.do(r, pid)
}

// find finds the successor, follows whatever else there is, and returns all generations.
func (r *round) find() (alive []int) {
	alive = generations(r.Baton)
	for _, pid := range alive {
		r.TryFollow(pid)
		r.ExpectBad(pid)
		if pid != r.predecessor && (r.successor == 0 || !slices.Contains(r.Alive(), r.successor)) {
			r.successor = pid
		}
	}
	return alive
}

// decider returns the pid of the generation that serves alone, 0 if there is no process left, and -1 else.
func (r *round) decider() (pid int) {
	time.Sleep(pace)
	alive := r.find()
	if len(alive) == 0 && len(r.Alive()) == 0 { // one that is about to exit has no name, but its sockets
		return 0
	}
	s, err := r.TryStatus()
	if err != nil || len(alive) != 1 || s.State != "serving" || len(s.Generations) != 1 || s.PID != alive[0] || r.ReadPID() != s.PID {
		return -1
	}
	return s.PID
}

// logSince returns what was logged in the round.
func (r *round) logSince() string {
	f, err := os.Open(r.LogPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	log, _ := io.ReadAll(io.NewSectionReader(f, r.log, math.MaxInt64-r.log))
	return string(log)
}

// generations returns the processes of a service that are no commands.
func generations(b *service.Baton) (pids []int) {
	for _, pid := range process.Descendants(b.Mark) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if args := strings.Split(string(line), "\x00"); len(args) > 1 && strings.HasPrefix(args[1], "-") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// knock connects again and again; refused returns how many connects were refused.
func knock(b *service.Baton) (refused func() int) {
	quit, result := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-quit:
				result <- n
				return
			case <-time.After(5 * time.Millisecond):
			}
			c, err := net.DialTimeout(b.Network, b.Address, await.Hang)
			if err == nil {
				c.Close()
			} else if errors.Is(err, syscall.ECONNREFUSED) {
				n++
			}
		}
	}()
	return func() int {
		close(quit)
		return <-result
	}
}
