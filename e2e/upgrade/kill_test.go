package upgrade

import (
	"cmp"
	"fmt"
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
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Generations that are stopped or killed at the worst moment: the service goes on without them.

func TestSuccessorStoppedAtStart(t *testing.T) {
	tier.Slow(t, "waits for a successor that is stopped")
	t.Parallel()
	tier.Tool(t, "sh")
	b := service.Start(t, service.Files(t), service.Args("-upgrade-timeout", "4s", "-idle-grace", "100ms"))
	pid := b.PID()
	counts, stop := service.LightLoad(t, b)
	next := filepath.Join(b.Dir, "next")
	files.Install(t, build.Version(t, "v2"), next)
	held := files.Script(`kill -STOP $$; exec "` + next + `" "$@"`)

	// It stays stopped: the upgrade gives up.
	b.DeployBytes(held, 0o755)
	u := b.TryUpgrade()
	if u.Code != 1 || u.Reason == "" {
		t.Errorf("upgrade: got exit code %d, %s, want 1 and a reason", u.Code, u.Stdout)
	}
	if took := u.Returned.Sub(u.Asked); took > 4*time.Second+2*service.Slack {
		t.Errorf("upgrade with a timeout of 4 s: took %v", took)
	}
	service.CheckServes(t, b, 1, pid)

	// It is continued in time: the upgrade succeeds.
	result := b.UpgradeMeanwhile()
	successor := service.AwaitStarting(t, b)
	await.Until(t, "the successor to be stopped", func() bool { return process.Stopped(t, successor) })
	service.CheckServesOn(t, b)
	b.Kill(successor, syscall.SIGCONT)
	if u := result(); u.Code != 0 || u.PID != successor {
		t.Errorf("upgrade: got exit code %d, %s, want success with pid %d", u.Code, u.Stdout, successor)
	}
	service.CheckServes(t, b, 2, successor)
	if stop().Failures() != 0 {
		t.Error(counts)
	}
	load.CheckKept(t, counts, service.LightCrowd)
}

// The configuration file as a named pipe holds a successor in the midst of its start.
func TestSuccessorInTheMiddle(t *testing.T) {
	tier.Slow(t, "stops a successor at one moment after another")
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Config("drain-timeout 5s"), service.Args("-upgrade-timeout", "4s", "-idle-grace", "100ms"))
			pid := b.PID()
			counts, stop := service.LightLoad(t, b)
			if err := os.Remove(b.Config); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(b.Config, 0o600); err != nil {
				t.Fatal(err)
			}
			result := b.UpgradeMeanwhile()
			successor := service.AwaitStarting(t, b)
			b.ExpectBad(successor)
			b.Kill(successor, sig)
			if u := result(); u.Code != 1 {
				t.Errorf("upgrade: got exit code %d, %s, want 1", u.Code, u.Stdout)
			}
			service.CheckServes(t, b, 1, pid)
			b.Configure("drain-timeout 5s\n")
			b.Upgrade()
			service.CheckServes(t, b, 2, b.PID())
			if stop().Failures() != 0 {
				t.Error(counts)
			}
		})
	}
}

// Wherever in its start a successor is stopped or killed: who serves then serves, and the next upgrade works.
// What the successor had already accepted itself may be lost with it.
func TestSuccessorKilledAnywhere(t *testing.T) {
	tier.Slow(t, "kills a successor at one moment after another")
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Args("-upgrade-timeout", "1s", "-idle-grace", "50ms"))
			outcomes := map[string]int{}
			restart := func() {
				b.Signal(syscall.SIGTERM)
				b.AwaitAllGone()
				b.Launch()
				b.AwaitReady()
			}
			moments := tier.Times(t, "moments", 0, 8, 15)
			for i := range moments {
				predecessor := b.Status().PID
				var u *service.Upgraded
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					u = b.TryUpgrade()
				}()
				successor := 0
				await.Until(t, "a successor, or an end without one", func() bool {
					if all := process.Children(predecessor); len(all) > 0 && process.Executed(all[0]) {
						successor = all[0]
						return true
					}
					select {
					case <-ended:
						return true
					default:
						return false
					}
				})
				if successor == 0 && u.Code == 0 { // all was over before this process looked
					outcomes["missed"]++
					continue
				}
				if successor == 0 {
					// The last successor died in the instant in which it had taken over and not yet said so. Its
					// predecessor serves on, but has no second handoff: that takes a fresh start.
					outcomes["needs a restart"]++
					if u.Code != 1 || u.Reason == "" {
						t.Errorf("upgrade without a handoff: got exit code %d, %s %s, want 1 and a reason", u.Code, u.Stdout, u.Errors)
					}
					restart()
					continue
				}
				b.TryFollow(successor)
				b.ExpectBad(successor)
				// A little later each time, to hit another point of the start.
				for until := time.Now().Add(time.Duration(i) * 22 * time.Millisecond / time.Duration(moments)); time.Now().Before(until); {
				}
				syscall.Kill(successor, sig)
				<-ended
				outcomes[cmp.Or(u.Result, "no answer")]++
				switch {
				case strings.Contains(u.Reason, "died after it had taken over"):
					b.AwaitExit(predecessor)
					b.Follow(b.PID())
				case u.Result == "failed":
					if got := b.ReadPID(); got != predecessor {
						t.Errorf("PID file after a failed upgrade: got %d, want the predecessor, %d (the successor was %d); %s", got, predecessor, successor, u.Reason)
					}
				case sig == syscall.SIGKILL:
					// It had taken over, and its predecessor had drained: what was killed is the service. A fresh
					// start is what is left.
					b.AwaitExit(predecessor)
					b.AwaitExit(successor)
					b.Launch()
					b.AwaitReady()
				case sig == syscall.SIGSTOP:
					syscall.Kill(successor, syscall.SIGCONT)
				}
				service.CheckServesOn(t, b)
				await.Until(t, "a single generation", func() bool {
					s, err := b.TryStatus()
					return err == nil && len(s.Generations) == 1 && s.State == "serving"
				})
			}
			t.Log(outcomes)
			if outcomes["failed"] == 0 {
				t.Error("no successor was hit before it was ready")
			}
			for u := b.TryUpgrade(); u.Code != 0; u = b.TryUpgrade() {
				switch {
				case strings.Contains(u.Reason, "restart the service"): // as above
					restart()
				case !strings.Contains(u.Reason, "not ready within"): // as it may be on a busy machine
					t.Fatalf("the next upgrade: got exit code %d, %s", u.Code, u.Stdout)
				}
			}
			service.CheckServes(t, b, b.Status().Generation, b.PID())
		})
	}
}

// A release that dies after it has taken over, while its predecessor drains: the predecessor's program takes over, and
// no client is refused. Who waits to be accepted is served.
func TestSuccessorKilledWhileItsPredecessorDrains(t *testing.T) {
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", "100ms"))
	predecessor := b.PID()
	held := b.Dial()
	held.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	b.Deploy("v2")
	result := b.UpgradeMeanwhile()
	await.Until(t, "generation 2", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == 2 && s.State == "serving" })
	successor := b.PID()
	b.Kill(successor, syscall.SIGSTOP)
	await.Until(t, "the successor to be stopped", func() bool { return process.Stopped(t, successor) })
	var queued []*http1.Conn
	for range 20 {
		c := b.Dial()
		c.Send(t, string(http1.Request("GET", "/", nil)))
		queued = append(queued, c)
	}
	b.Kill(successor, syscall.SIGKILL)
	b.AwaitExit(successor)
	for range 20 { // nobody accepts yet
		c := b.Dial()
		c.Send(t, string(http1.Request("GET", "/", nil)))
		queued = append(queued, c)
	}
	for _, c := range queued {
		c.Expect(t, "GET", 200)
	}
	third := b.AwaitGeneration(3)
	if s := b.Status(); s.Version != "v1" || b.PID() != third {
		t.Errorf("got version %s of process %d, and PID file %d, want v1 and the same process", s.Version, third, b.PID())
	}
	if u := result(); u.Code != 1 || u.PID != third || !strings.Contains(u.Reason, "generation 3 takes over") {
		t.Errorf("upgrade: got exit code %d, %s %s, want 1 and what has become of it", u.Code, u.Stdout, u.Errors)
	}
	g.Open()
	held.Expect(t, "GET", 200)
	b.AwaitExit(predecessor)
	b.Deploy("v3")
	if u := b.Upgrade(); u.Generation != 4 || u.Version != "v3" {
		t.Errorf("next upgrade: got generation %d, version %s, want 4, v3", u.Generation, u.Version)
	}
	service.CheckServes(t, b, 4, b.PID())
}

func TestPredecessorKilledBeforeReady(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	pid := b.PID()
	release := holdSuccessor(t, b)
	result := b.UpgradeMeanwhile()
	successor := service.AwaitStarting(t, b)
	await.Until(t, "the successor to wait", func() bool {
		_, err := os.Stat(filepath.Join(b.Dir, "held"))
		return err == nil
	})
	b.Kill(pid, syscall.SIGKILL)
	b.AwaitExit(pid)
	// Nobody accepts now, but the socket is there: this one waits until the successor does.
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/100.bin", nil)))
	release()
	c.Expect(t, "GET", 200)
	result()
	await.Until(t, "the successor in the PID file", func() bool { return b.ReadPID() == successor })
	service.CheckServes(t, b, 2, successor)
	b.Deploy("v1")
	b.Upgrade()
	service.CheckServes(t, b, 3, b.PID())
}

func TestPredecessorKilledWhileItDrains(t *testing.T) {
	tier.Slow(t, "kills a generation that drains")
	t.Parallel()
	g := backend.NewGate(t)
	b := service.Start(t, service.Args("-proxy", "/="+backend.Start(t, g), "-idle-grace", "100ms"))
	pid := b.PID()
	c := b.Dial()
	c.Send(t, string(http1.Request("GET", "/hold", nil)))
	g.Await(t, 1)
	result := b.UpgradeMeanwhile()
	await.Until(t, "generation 2", func() bool { s, err := b.TryStatus(); return err == nil && s.Generation == 2 && s.State == "serving" })
	b.Kill(pid, syscall.SIGKILL)
	u := result()
	t.Logf("the command: exit code %d, %s %s", u.Code, u.Stdout, u.Errors)
	successor := b.AwaitGeneration(2)
	if got := b.PID(); got != successor {
		t.Errorf("PID file: got %d, want %d", got, successor)
	}
	for range 5 {
		if resp := b.Get("/"); resp.Status != 200 {
			t.Errorf("request: got %d, want 200", resp.Status)
		}
	}
	if e := c.AwaitClose(await.Hang); e == http1.StillOn {
		t.Error("connection that the killed process held: still open")
	}
	if u := b.Upgrade(); u.Generation != 3 {
		t.Errorf("next upgrade: got generation %d, want 3", u.Generation)
	}
}

// A crash of the only generation ends the service; a fresh start in its place works at once.
func TestStartAfterACrash(t *testing.T) {
	t.Parallel()
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	b.Upgrade()
	for i := range 3 {
		pid := b.PID()
		b.Kill(pid, syscall.SIGKILL)
		b.AwaitExit(pid)
		b.Launch()
		b.AwaitReady()
		await.Until(t, fmt.Sprintf("a new PID file after crash %d", i+1), func() bool { return b.ReadPID() != pid })
		service.CheckServes(t, b, 1, b.PID())
	}
}
