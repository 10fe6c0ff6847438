package systemd

// This file holds what systemd hears all the time: that the service is alive, and
// how it is.

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// statusInterval is how often the status is brought up to date.
const statusInterval = 5 * time.Second

// Attend tells systemd how the service is, and, if the unit has a watchdog, that
// it is alive as long as alive returns no error within a third of the watchdog's
// time. It returns when ctx ends.
func (m *Manager) Attend(ctx context.Context, log *slog.Logger, alive func(context.Context) error, status func() string) {
	if m.socket == "" {
		return
	}
	interval := statusInterval
	if m.watchdog > 0 {
		interval = min(interval, m.watchdog/3)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	said := ""
	for {
		if m.watchdog > 0 {
			limited, cancel := context.WithTimeout(ctx, interval)
			err := alive(limited)
			cancel()
			if err == nil {
				err = m.send(nil, daemon.SdNotifyWatchdog)
			}
			if err != nil && ctx.Err() == nil {
				log.Error("systemd's watchdog is not told that the service is alive", "error", err)
			}
		}
		if line := status(); line != said && ctx.Err() == nil {
			said = line
			m.Status(line) // if it does not arrive, the next one may
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
