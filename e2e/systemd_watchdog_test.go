// The watchdog: kept by whichever generation serves, and fired by one that hangs.
package e2e

import (
	"strings"
	"testing"
	"time"
)

func TestSystemdWatchdogThroughGenerations(t *testing.T) {
	t.Parallel()
	u := installed(t)
	u.DropIn("baton.service", "watchdog", "[Service]", "WatchdogSec=3s")
	u.Start()
	for range 5 {
		u.Reload()
		told := u.Show("baton.service", "WatchdogTimestampMonotonic")
		u.await(t, 10*time.Second, "ping of the new generation", func() bool {
			return u.Show("baton.service", "WatchdogTimestampMonotonic") != told
		})
	}
	// For longer than the watchdog's time, so that pings have to have come.
	throughout(t, 4*time.Second, "the watchdog does not fire", func() bool {
		return u.Restarts() == 0
	})
	u.checkServes(t, 6, "v1")
}

func TestSystemdWatchdogFires(t *testing.T) {
	t.Parallel()
	u := installed(t)
	u.DropIn("baton.service", "watchdog", "[Service]", "WatchdogSec=3s", "TimeoutAbortSec=1s")
	u.Start()
	u.Reload() // so that it is a successor's watchdog
	hung := u.MainPID()
	u.Hold(hung)
	u.await(t, 30*time.Second, "restart", func() bool {
		return u.Restarts() == 1 && u.Show("baton.service", "ActiveState") == "active"
	})
	if u.MainPID() == hung {
		t.Error("the process that hung is still the main one")
	}
	if log := u.Log(); !strings.Contains(log, "Watchdog timeout") {
		t.Errorf("journal: got\n%s\nwant that the watchdog timed out", tail(log, 20))
	}
	u.checkServes(t, 1, "v1")
}
