package migrate

import (
	"syscall"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/load"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Each successor is asked to upgrade as soon as it serves, when the connections of its predecessor are just about to come to it:
// they pass through generations that live for some milliseconds.
func TestUpgradesWithoutAPause(t *testing.T) {
	tier.Slow(t, "makes upgrades without a pause")
	t.Parallel()
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
			counts, stop := load.Start(t, l.Paced())
			await.Until(t, "load", func() bool {
				return counts.Answered[load.SilentAfter].Load() == 50 && counts.Answered[load.Pausing].Load() > 64
			})
			const upgrades = 10
			for range upgrades {
				pid := b.PID()
				b.Kill(pid, syscall.SIGHUP)
				awaitNewPID(t, b, pid)
			}
			b.AwaitGeneration(upgrades + 1)
			before := counts.Requests()
			await.Until(t, "requests of the last generation", func() bool { return counts.Requests() > before+200 })
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
				t.Errorf("idle connections: got %d, want the 100 of the beginning", n)
			}
			t.Log(counts)
		})
	}
}
