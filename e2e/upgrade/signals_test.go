package upgrade

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/backend"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Triggers and signals that come at the wrong moment: none is lost, none runs twice.

// holdSuccessor replaces the binary by one that waits for release before it becomes a good successor.
// It makes DIR/held when it has been there for a while: its predecessor has then told it, through a pipe,
// which sockets it has, and may die without taking them along.
func holdSuccessor(t *testing.T, b *service.Baton) (release func()) {
	t.Helper()
	tier.Tool(t, "sh")
	next, going := filepath.Join(b.Dir, "next"), filepath.Join(b.Dir, "go")
	files.Install(t, build.Version(t, "v2"), next)
	b.DeployBytes(files.Script(`sleep 0.1; : >"`+b.Dir+`/held"; while [ ! -e "`+going+`" ]; do sleep 0.02; done; exec "`+next+`" "$@"`), 0o755)
	return func() {
		t.Helper()
		if err := os.WriteFile(going, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHangupUpgrades(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	for n := 2; n <= 4; n++ {
		b.Deploy("v2")
		b.Signal(syscall.SIGHUP)
		pid := b.AwaitGeneration(n)
		service.CheckServes(t, b, n, pid)
		s := b.Status()
		if last := s.Upgrades[len(s.Upgrades)-1]; last.Trigger != "signal" || last.From != n-1 || last.To != n || last.Result != "succeeded" {
			t.Errorf("upgrade in the status: got %+v, want %d to %d by signal", last, n-1, n)
		}
	}
}

func TestTriggersDuringAnUpgrade(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "300ms"))
	first := b.PID()
	release := holdSuccessor(t, b)
	b.Signal(syscall.SIGHUP)
	service.AwaitStarting(t, b)
	for range 5 {
		b.Kill(first, syscall.SIGHUP)
		b.Status() // the signal is delivered before an answer to what comes after it
	}
	release()
	b.AwaitGeneration(3)
	await.Throughout(t, 700*time.Millisecond, "three generations, not more", func() bool { return b.Status().Generation == 3 })
	service.CheckServes(t, b, 3, b.PID())
	if got := b.Metric("baton_upgrades_total", "result", "failed") + b.Metric("baton_upgrades_total", "result", "refused"); got != 0 {
		t.Errorf("upgrades failed or refused: got %v, want 0", got)
	}
}

// Whoever asks while an upgrade is under way is answered about an upgrade that began after the question. With no
// predecessor allowed to drain beside an upgrade, all who ask meanwhile are answered about the same.
func TestCommandsDuringAnUpgrade(t *testing.T) {
	tier.Slow(t, "holds an upgrade up")
	t.Parallel()
	const commands = 5
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-max-draining", "0"))
	// A request that keeps the first generation in its drain until all commands have been heard.
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	release := holdSuccessor(t, b)
	results := []func() *service.Upgraded{b.UpgradeMeanwhile()}
	service.AwaitStarting(t, b)
	for len(results) < commands {
		results = append(results, b.UpgradeMeanwhile())
	}
	await.Until(t, "the commands to connect", func() bool {
		table, _ := os.ReadFile("/proc/net/unix")
		const andItsListener = 1
		return strings.Count(string(table), b.Control+"\n") >= commands+andItsListener
	})
	if code, _, stderr := b.Run("status", "-control", b.Control); code != 0 {
		t.Errorf("status in the midst of an upgrade: got exit code %d, %s", code, stderr)
	}
	release()
	await.Until(t, "generation 2", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == 2 && s.State == "serving" })
	await.Throughout(t, 300*time.Millisecond, "one upgrade at a time", func() bool { return b.Status().Generation <= 2 }) // the first one may still answer
	g.Open()
	c.Expect(t, "GET", 200)
	for i, result := range results {
		want := 3
		if i == 0 {
			want = 2
		}
		if u := result(); u.Code != 0 || u.Generation != want {
			t.Errorf("command %d: got exit code %d, generation %d, want 0 and %d; %s %s", i, u.Code, u.Generation, want, u.Stdout, u.Errors)
		}
	}
	service.CheckState(t, b, 3, b.AwaitGeneration(3))
}

func TestTriggerDuringADrain(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-max-draining", "0"))
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	b.Signal(syscall.SIGHUP)
	await.Until(t, "generation 2", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == 2 && s.State == "serving" })
	second := b.Follow(b.Status().PID)
	for range 3 {
		b.Signal(syscall.SIGHUP)
	}
	await.Throughout(t, 300*time.Millisecond, "one upgrade at a time", func() bool { return b.Status().Generation <= 2 }) // the first one may still answer
	g.Open()
	if resp := c.Expect(t, "GET", 200); resp.Close {
		t.Error("response of the drain: got Connection: close, want the connection kept")
	}
	b.AwaitGeneration(3)
	if !second.Within(await.Hang) {
		t.Error("generation 2: alive")
	}
	await.Throughout(t, 500*time.Millisecond, "three generations, not more", func() bool { return b.Status().Generation == 3 })
}

func TestStopDuringAnUpgrade(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	pid := b.PID()
	holdSuccessor(t, b)
	result := b.UpgradeMeanwhile()
	successor := service.AwaitStarting(t, b)
	b.ExpectBad(successor)
	b.Kill(pid, syscall.SIGTERM)
	if p := b.AwaitExit(pid); p.Outcome() != "exit status 0" {
		t.Errorf("the service: got %s, want exit status 0", p.Outcome())
	}
	b.AwaitAllGone()
	if u := result(); u.Code == 0 {
		t.Errorf("upgrade that was overtaken by a stop: got exit code 0, %s", u.Stdout)
	}
}

// Asking for an upgrade of a service that is stopping is refused.
func TestUpgradeDuringAStop(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", "100ms"))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	b.Kill(pid, syscall.SIGTERM)
	await.Until(t, "refusal of new connections", service.Refused(b))
	if u := b.TryUpgrade(); u.Code != 4 || u.Result != "refused" {
		t.Errorf("upgrade: got exit code %d, %s %s, want 4 and refused", u.Code, u.Stdout, u.Errors)
	}
	b.Kill(pid, syscall.SIGHUP)
	g.Open()
	if resp := c.Expect(t, "GET", 200); string(resp.Body) != "world" {
		t.Errorf("request: got %q, want world", resp.Body)
	}
	b.AwaitExit(pid)
}

// The wait for an upgrade can run out; the upgrade goes on.
func TestUpgradeTimeoutOfTheCommand(t *testing.T) {
	tier.Slow(t, "waits for deadlines")
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	release := holdSuccessor(t, b)
	if u := b.TryUpgrade("-timeout", "300ms"); u.Code != 4 {
		t.Errorf("upgrade: got exit code %d, %s %s, want 4", u.Code, u.Stdout, u.Errors)
	}
	release()
	service.CheckServes(t, b, 2, b.AwaitGeneration(2))
}

// `timeout 3 baton …` sends SIGTERM to the process, and to its group right afterwards. That is no impatience.
func TestSignalThatComesTwice(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g)))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	for range 3 {
		b.Kill(pid, syscall.SIGTERM)
		await.Throughout(t, 20*time.Millisecond, "the drain", b.Follow(pid).Alive) // or the kernel would make one of them
	}
	g.Open()
	if resp := c.Expect(t, "GET", 200); string(resp.Body) != "world" {
		t.Errorf("request in progress: got %q, want world", resp.Body)
	}
	b.AwaitExit(pid)
}

// `killall -HUP` reaches each generation, those that drain as well, and is one upgrade.
func TestHangupOfAllGenerations(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g)))
	for n := 2; n <= 3; n++ {
		b.Dial().Send(t, string(http1.Request("GET", "/hold", nil))) // keeps its generation in the drain
		g.Await(t, 1)
		b.Deploy("v2")
		b.Signal(syscall.SIGHUP)
		await.Until(t, "next generation", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == n && s.State == "serving" })
		b.Follow(b.Status().PID)
	}
	time.Sleep(time.Second) // what comes earlier would be the signal that made the third
	for _, pid := range b.Alive() {
		b.Kill(pid, syscall.SIGHUP)
	}
	await.Until(t, "generation 4", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == 4 && s.State == "serving" })
	await.Throughout(t, 700*time.Millisecond, "four generations, not more", func() bool { return b.Status().Generation <= 4 })
	g.Open()
	b.AwaitGeneration(4)
}
