package upgrade

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/impostor"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The link between two generations when it fails: whatever goes wrong on it, one generation is left.

// checkAlone checks that one process of the service is left, and that it serves.
func checkAlone(t *testing.T, b *service.Baton, pid int) {
	t.Helper()
	await.Until(t, fmt.Sprintf("process %d to be the only one of %v", pid, process.Descendants(b.Mark)), func() bool {
		return slices.Equal(process.Descendants(b.Mark), []int{pid})
	})
	service.CheckServesOn(t, b)
	if got := b.PID(); got != pid {
		t.Errorf("PID file: got %d, want %d", got, pid)
	}
}

// endsAfterReady are steps of which the link ends when ready is said already.
var endsAfterReady = regexp.MustCompile(`ready (close|malformed|large)`)

// A successor that does not keep to the protocol of the link is killed, wherever it fails, and its predecessor serves on.
func TestSuccessorBreaksTheLink(t *testing.T) {
	tier.Slow(t, "breaks the link in several ways")
	t.Parallel()
	for _, refused := range []bool{false, true} { // pidfds
		for _, steps := range []string{
			"close hang",
			"malformed hang",
			"hello close hang",
			"hello malformed hang",
			"hello large hang",
			"hello malformed ready hang",
			"hello close ready hang",
			"hello ready close hang",
			"hello ready malformed hang",
			"hello ready large hang",
			"hello ready hang",
			"hello ready deaf hang",
			"hello ready exit",
			"hello hello ready hello hang",
			"hello drained stop upgrade predecessor ready hang",
			"hello serving hang",
			"hello serving close hang",
			"serving hello ready hang",
			"impostor ready close hang",
			"hello4 prepared exit",
			"hello4 prepared await=takeover exit",
			"hello4 prepared await=takeover hang",
			"hello4 prepared await=takeover serving exit",
			"hello4 prepared await=takeover serving await=commit exit",
			"hello4 prepared await=takeover serving await=commit close exit",
			"hello4 prepared await=takeover serving await=commit hang",
		} {
			name := strings.ReplaceAll(steps, " ", ",")
			if refused && !strings.Contains(steps, "ready") {
				continue // tableflip kills it
			} else if refused {
				name += " without pidfds"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				options := []service.Option{service.Files(t), service.Args("-upgrade-timeout", "4s", "-idle-grace", "100ms")}
				if refused {
					options = append(options, withoutPidfd(t))
				}
				b := service.Start(t, options...)
				pid := b.PID()
				b.DeployBytes(impostor.Itself(t, steps), 0o755)
				first := b.TryUpgrade()
				if first.Code != 1 || first.Result != "failed" {
					t.Errorf("upgrade: got exit code %d, %s %s, want 1", first.Code, first.Stdout, first.Errors)
				}
				checkAlone(t, b, pid)
				b.Deploy("v2")
				// It depends on which of the two the predecessor hears first, ready or the other. Of a link that ends after
				// ready, it may hear before.
				overtaken := endsAfterReady.MatchString(steps) && strings.Contains(first.Reason, "before it was ready")
				switch u := b.TryUpgrade(); {
				case strings.HasPrefix(steps, "hello4"): // before the commit nothing is final
					if u.Code != 0 {
						t.Errorf("next upgrade: got exit code %d, %s, want 0", u.Code, u.Reason)
					}
				case overtaken, strings.Contains(steps, "malformed ready"), strings.Contains(steps, "exit"):
				case slices.Contains(strings.Fields(steps), "ready"):
					if u.Code != 1 || !strings.Contains(u.Reason, "restart the service") {
						t.Errorf("next upgrade: got exit code %d, %s, want 1 and what to do", u.Code, u.Reason)
					}
				case u.Code != 0:
					t.Errorf("next upgrade: got exit code %d, %s, want 0", u.Code, u.Reason)
				}
			})
		}
	}
}

// SIGTERM ends the service also while a successor hangs that has said ready.
func TestStopWhileSuccessorHangs(t *testing.T) {
	tier.Slow(t, "waits for a successor that hangs")
	t.Parallel()
	for name, option := range map[string]func(testing.TB) service.Option{"": func(testing.TB) service.Option { return service.Args() }, "without pidfds": withoutPidfd} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), option(t))
			b.DeployBytes(impostor.Itself(t, "hello ready hang"), 0o755)
			result := b.UpgradeMeanwhile()
			await.Until(t, "the successor to hang", func() bool { return strings.Contains(b.Log(), "hangs") })
			b.Stop()
			if u := result(); u.Code != 4 {
				t.Errorf("upgrade: got exit code %d, %s, want 4", u.Code, u.Stdout)
			}
		})
	}
}

// withoutPidfd starts a service whose processes have no pidfds.
func withoutPidfd(t testing.TB) service.Option {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return func(s *service.Setup) {
		s.Env = append(s.Env, impostor.RefusedVariable+"=DIR/baton")
		s.Dir, s.Path, s.Argv0 = "DIR", self, "DIR/baton"
	}
}

// A predecessor that cannot receive from its successor for a moment tries again. One that never can gives the successor
// up, which waits for the order to take over.
func TestPredecessorCannotReceive(t *testing.T) {
	tier.Slow(t, "traces a process")
	t.Parallel()
	strace := tier.Tool(t, "strace")
	for name, test := range map[string]struct {
		inject string
		heard  bool
		code   int
	}{
		"once":                 {"recvmsg:error=ENOMEM:when=1", false, 0},
		"once, after hello":    {"recvmsg:error=ENOMEM:when=1", true, 0},
		"for good":             {"recvmsg:error=ENOMEM", false, 1},
		"for good after hello": {"recvmsg:error=ENOMEM", true, 1},
		"fatal after hello":    {"recvmsg:error=EIO", true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms", "-drain-timeout", "5s"))
			pid := b.PID()
			release := holdSuccessor(t, b)
			if test.heard {
				b.DeployBytes(impostor.Itself(t, "hello wait="+b.Dir+"/go serving ready hang"), 0o755)
			}
			result := b.UpgradeMeanwhile()
			successor := service.AwaitStarting(t, b)
			if test.heard {
				await.Until(t, "hello of the successor", func() bool { return len(b.Status().Generations) == 2 })
			}
			if test.heard || test.code != 0 {
				b.ExpectBad(successor)
			}
			tracer := exec.Command(strace, "-f", "-o", b.Dir+"/strace", "-p", fmt.Sprint(pid), "-e", "inject="+test.inject)
			if err := tracer.Start(); err != nil {
				t.Fatal(err)
			}
			await.Until(t, "the tracer", func() bool {
				traced := true
				for _, status := range files.Glob(t, fmt.Sprintf("/proc/%d/task/*/status", pid)) {
					traced = traced && !strings.Contains(status, "TracerPid:\t0\n")
				}
				return traced
			})
			release()
			if test.heard && test.code == 0 { // it is no server that could be asked afterwards
				await.Until(t, "the end of the predecessor", func() bool { return slices.Equal(process.Descendants(b.Mark), []int{successor}) })
				syscall.Kill(successor, syscall.SIGKILL)
				tracer.Process.Kill()
				tracer.Wait()
				result()
				return
			}
			u := result()
			tracer.Process.Kill() // which detaches it
			tracer.Wait()
			if u.Code != test.code {
				t.Errorf("upgrade: got exit code %d, %s, want %d", u.Code, u.Stdout, test.code)
			}
			if test.code == 0 {
				checkAlone(t, b, successor)
			} else {
				checkAlone(t, b, pid)
			}
		})
	}
}

// A successor that cannot talk to its predecessor leaves the service to it, or takes it over.
func TestSuccessorCannotTalk(t *testing.T) {
	tier.Slow(t, "traces a process")
	t.Parallel()
	strace := tier.Tool(t, "strace")
	for _, inject := range []string{"recvmsg:error=ENOMEM:when=1", "recvmsg:error=ENOMEM", "recvmsg:error=EIO:when=1", "recvmsg:error=EIO:when=2+", "sendmsg:error=ENOBUFS:when=1", "sendmsg:error=ENOBUFS", "sendmsg:error=EIO:when=2+"} {
		t.Run(inject, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms", "-drain-timeout", "2s", "-upgrade-timeout", "5s"))
			release := holdSuccessor(t, b)
			result := b.UpgradeMeanwhile()
			successor := service.AwaitStarting(t, b)
			b.ExpectBad(successor)
			b.ExpectBad(b.PID()) // it may be killed
			tracer := exec.Command(strace, "-f", "-o", b.Dir+"/strace", "-p", fmt.Sprint(successor), "-e", "inject="+inject)
			if err := tracer.Start(); err != nil {
				t.Fatal(err)
			}
			await.Until(t, "the tracer", func() bool { return process.ProcStatus(t, successor, "TracerPid") != "0" })
			release()
			t.Log(result().Stdout)
			await.Until(t, "one process", func() bool { return len(process.Descendants(b.Mark)) == 1 })
			tracer.Process.Kill() // which detaches it
			tracer.Wait()
			checkAlone(t, b, process.Descendants(b.Mark)[0])
		})
	}
}
