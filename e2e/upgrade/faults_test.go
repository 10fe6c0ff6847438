package upgrade

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Bad successors: whatever is wrong with a release, the predecessor serves on, whoever
// asked gets the reason, and the next good release takes over.

func TestSuccessorFaults(t *testing.T) {
	tier.Slow(t, "upgrades to each kind of bad release")
	tier.Tool(t, "sh")
	t.Parallel()
	tests := []struct {
		name   string
		spoil  func(t *testing.T, b *service.Baton)
		mend   func(b *service.Baton) // beside the deployment of a good binary
		reason string                 // what the reason has to mention, if it is plain
		stderr string                 // what the last lines have to hold
	}{
		{name: "exits 0", spoil: func(_ *testing.T, b *service.Baton) { b.DeployBytes(files.Script("exit 0"), 0o755) }, reason: "exit"},
		{name: "exits 1", spoil: func(_ *testing.T, b *service.Baton) {
			b.DeployBytes(files.Script("echo no such frobnicator >&2; exit 1"), 0o755)
		}, reason: "exit status 1", stderr: "no such frobnicator"},
		{name: "exits 1 after many lines", spoil: func(_ *testing.T, b *service.Baton) {
			b.DeployBytes(files.Script("i=0; while [ $i -lt 5000 ]; do echo line $i of a long story >&2; i=$((i+1)); done; echo the end >&2; exit 1"), 0o755)
		}, reason: "exit status 1", stderr: "the end"},
		{name: "is killed", spoil: func(_ *testing.T, b *service.Baton) { b.DeployBytes(files.Script("kill -9 $$"), 0o755) }, reason: "killed"},
		{name: "never ready", spoil: func(_ *testing.T, b *service.Baton) {
			b.DeployBytes(files.Script("echo waiting for godot >&2; exec sleep 300"), 0o755)
		},
			stderr: "waiting for godot"},
		{name: "never ready and deaf to SIGTERM", spoil: func(_ *testing.T, b *service.Baton) {
			b.DeployBytes(files.Script("trap '' TERM HUP INT; exec sleep 300"), 0o755)
		}},
		{name: "not executable", spoil: func(t *testing.T, b *service.Baton) {
			content, err := os.ReadFile(b.Bin)
			if err != nil {
				t.Fatal(err)
			}
			b.DeployBytes(content, 0o644)
		}, reason: "permission denied"},
		{name: "missing", spoil: func(t *testing.T, b *service.Baton) {
			if err := os.Remove(b.Bin); err != nil {
				t.Fatal(err)
			}
		}, reason: "no such file"},
		{name: "a directory", spoil: func(t *testing.T, b *service.Baton) {
			if err := os.Remove(b.Bin); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(b.Bin, 0o755); err != nil {
				t.Fatal(err)
			}
		}, mend: func(b *service.Baton) { os.Remove(b.Bin) }},
		{name: "empty file", spoil: func(_ *testing.T, b *service.Baton) { b.DeployBytes(nil, 0o755) }, reason: "exec format error"},
		{name: "other architecture", spoil: func(_ *testing.T, b *service.Baton) { b.DeployBytes(build.ForOtherMachine(), 0o755) }, reason: "exec format error"},
		{name: "truncated file", spoil: func(t *testing.T, b *service.Baton) {
			content, err := os.ReadFile(b.Bin)
			if err != nil {
				t.Fatal(err)
			}
			b.DeployBytes(content[:len(content)/3], 0o755)
		}},
		{name: "unknown setting in the configuration file", spoil: func(_ *testing.T, b *service.Baton) { b.Configure("frobnicate true\n") },
			mend: func(b *service.Baton) { b.Configure("drain-timeout 5s\n") }, reason: "exit status 2", stderr: "frobnicate"},
		{name: "bad value in the configuration file", spoil: func(_ *testing.T, b *service.Baton) { b.Configure("drain-timeout soon\n") },
			mend: func(b *service.Baton) { b.Configure("drain-timeout 5s\n") }, reason: "exit status 2", stderr: "soon"},
		{name: "configuration file gone", spoil: func(_ *testing.T, b *service.Baton) { os.Remove(b.Config) },
			mend: func(b *service.Baton) { b.Configure("drain-timeout 5s\n") }, stderr: "baton.conf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := service.Start(t, service.Files(t), service.Config("drain-timeout 5s"), service.Args("-upgrade-timeout", "4s", "-idle-grace", "200ms"))
			pid := b.PID()
			failed := b.Metric("baton_upgrades_total", "result", "failed")

			l := load.Load{Network: b.Network, Address: b.Address, Grace: b.Grace(), Exchanges: exchange.Files()}
			l.Clients[load.Pausing] = 4
			counts, stop := load.Start(t, l)
			await.Until(t, "load", func() bool { return counts.Requests() > 4 })

			tt.spoil(t, b)
			u := b.TryUpgrade()
			if u.Code != 1 || u.Result != "failed" || u.Reason == "" {
				t.Fatalf("upgrade: got exit code %d, %s %s, want 1 and a reason", u.Code, u.Stdout, u.Errors)
			}
			t.Logf("reason: %s; stderr: %q", u.Reason, u.Stderr)
			if !strings.Contains(strings.ToLower(u.Reason), tt.reason) {
				t.Errorf("reason: got %q, want one with %q", u.Reason, tt.reason)
			}
			if !strings.Contains(strings.Join(u.Stderr, "\n"), tt.stderr) {
				t.Errorf("stderr of the successor: got %q, want %q in it", u.Stderr, tt.stderr)
			}
			if u.PID != pid || u.Generation != 1 || u.Version != "v1" {
				t.Errorf("who serves: got generation %d, pid %d, version %s, want 1, %d, v1", u.Generation, u.PID, u.Version, pid)
			}
			service.CheckServes(t, b, 1, pid)
			if got := b.Metric("baton_upgrades_total", "result", "failed"); got != failed+1 {
				t.Errorf("failed upgrades: got %v, want %v", got, failed+1)
			}
			if s := b.Status(); len(s.Upgrades) == 0 || s.Upgrades[len(s.Upgrades)-1].Result != "failed" || s.Upgrades[len(s.Upgrades)-1].Reason == "" {
				t.Errorf("upgrades in the status: got %+v, want the failed one with its reason", s.Upgrades)
			}
			// The same for a person, and once more: a second failure is no worse than the first.
			code, _, stderr := b.Run("upgrade", "-control", b.Control)
			if code != 1 || !strings.Contains(stderr, tt.stderr) || !strings.Contains(strings.ToLower(stderr), tt.reason) {
				t.Errorf("upgrade as a person asks: got exit code %d, stderr %q, want 1, %q and %q", code, stderr, tt.reason, tt.stderr)
			}
			service.CheckServes(t, b, 1, pid)
			if n := counts.Reconnects[load.Pausing].Load() + counts.IdleClosed[load.Pausing].Load(); n != 0 {
				t.Errorf("a failed upgrade cost clients %d connections, want none", n)
			}

			if tt.mend != nil {
				tt.mend(b)
			}
			b.Deploy("v2")
			if u := b.Upgrade(); u.Generation != 2 || u.Version != "v2" {
				t.Errorf("the next good upgrade: got generation %d, version %s, want 2, v2", u.Generation, u.Version)
			}
			service.CheckServes(t, b, 2, b.PID())
			if stop().Failures() != 0 {
				t.Error(counts)
			}
			load.CheckKept(t, counts, l.Clients)
		})
	}
}

// A configuration that asks for what cannot be had fails late, when listeners are claimed.
func TestSuccessorCannotBind(t *testing.T) {
	tier.Slow(t, "upgrades to what cannot bind")
	t.Parallel()
	b := service.Start(t, service.ListenInFile(), service.Config("listen ADDRESS"), service.Files(t))
	pid := b.PID()
	taken, err := net.Listen("tcp", b.Host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	b.Configure(fmt.Sprintf("listen ADDRESS\nlisten %s\n", taken.Addr()))
	u := b.TryUpgrade()
	if u.Code != 1 || !strings.Contains(u.Reason+strings.Join(u.Stderr, "\n"), taken.Addr().String()) {
		t.Errorf("upgrade: got exit code %d, %s, want 1 and the address that is taken, %s", u.Code, u.Stdout, taken.Addr())
	}
	service.CheckServes(t, b, 1, pid)
	taken.Close()
	b.Upgrade()
	service.CheckServes(t, b, 2, b.PID())
	if resp, err := http1.Fetch("tcp", taken.Addr().String(), "GET", "/100.bin"); err != nil || resp.Status != 200 {
		t.Errorf("the added listener: got %+v, %v, want 200", resp, err)
	}
}
