package systemd

import (
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/machine"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// The watchdog: kept by whichever generation serves, and fired by one that hangs.

func TestSystemdWatchdogThroughGenerations(t *testing.T) {
	tier.Long(t, "waits for watchdogs; TestSystemdWatchdogFires has one")
	t.Parallel()
	u := machine.Installed(t)
	u.DropIn("baton.service", "watchdog", "[Service]", "WatchdogSec=3s")
	u.Start()
	for range 5 {
		u.Reload()
		told := u.Show("baton.service", "WatchdogTimestampMonotonic")
		u.Await(t, "ping of the new generation", func() bool {
			return u.Show("baton.service", "WatchdogTimestampMonotonic") != told
		})
	}
	// For longer than the watchdog's time, so that pings have to have come.
	await.Throughout(t, 4*time.Second, "the watchdog does not fire", func() bool {
		return u.Restarts() == 0
	})
	u.CheckServes(t, 6, "v1")
}

func TestSystemdWatchdogFires(t *testing.T) {
	t.Parallel()
	u := machine.Installed(t)
	u.DropIn("baton.service", "watchdog", "[Service]", "WatchdogSec=3s", "TimeoutAbortSec=1s")
	u.Start()
	u.Reload() // so that it is a successor's watchdog
	hung := u.MainPID()
	u.Hold(hung)
	u.Await(t, "restart", func() bool {
		return u.Restarts() == 1 && u.Show("baton.service", "ActiveState") == "active"
	})
	if u.MainPID() == hung {
		t.Error("the process that hung is still the main one")
	}
	if log := u.Log(); !strings.Contains(log, "Watchdog timeout") {
		t.Errorf("journal: got\n%s\nwant that the watchdog timed out", service.Tail(log, 20))
	}
	u.CheckServes(t, 1, "v1")
}
