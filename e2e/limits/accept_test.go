package limits

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// inject makes system calls of a process fail until stop is called.
func inject(t testing.TB, pid int, what string) (stop func()) {
	t.Helper()
	strace := tier.Tool(t, "strace")
	trace, err := os.CreateTemp(t.TempDir(), "strace")
	if err != nil {
		t.Fatal(err)
	}
	defer trace.Close()
	cmd := exec.Command(strace, "-f", "-p", strconv.Itoa(pid), "-o", os.DevNull, "-e", "inject="+what)
	cmd.Stderr = trace
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	stop = func() {
		cmd.Process.Signal(os.Interrupt)
		<-ended
	}
	t.Cleanup(stop)
	said := func() string { text, _ := os.ReadFile(trace.Name()); return string(text) }
	await.Until(t, "attached strace", func() bool {
		return strings.Contains(said(), "attached") || strings.Contains(said(), "ptrace")
	})
	if !strings.Contains(said(), "attached") {
		tier.Needs(t, "permission for strace to attach to a process", "run the tests as root and with kernel.yama.ptrace_scope below 2")
	}
	return stop
}

// accept(2): whatever it fails with, the next attempt may succeed.
func TestFailedAcceptsKillNoListener(t *testing.T) {
	tier.Slow(t, "traces a process")
	t.Parallel()
	for _, errno := range []string{"ENOMEM", "EPERM", "ENETDOWN", "EIO"} {
		t.Run(errno, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t)
			stop := inject(t, b.PID(), "accept4:error="+errno)
			public, admin := b.Dial(), http1.MustDial(t, "tcp", b.Admin)
			for _, c := range []*http1.Conn{public, admin} {
				c.Send(t, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			}
			await.Until(t, "failed accepts of both listeners", func() bool {
				return strings.Count(b.Log(), "connections cannot be accepted") == 2
			})
			stop()
			public.Expect(t, "GET", 404)
			admin.Expect(t, "GET", 200)
			failed := b.Metric("baton_accept_errors_total")
			if failed < 2 {
				t.Errorf("got %v accept errors, want 2 at least", failed)
			}
			b.Deploy("v2")
			b.Upgrade()
			if after := b.Metric("baton_accept_errors_total"); after < failed {
				t.Errorf("got %v accept errors after an upgrade, want %v at least", after, failed)
			}
		})
	}
}
