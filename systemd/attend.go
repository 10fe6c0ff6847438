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
const statusInterval = time.Second

// Attend tells systemd how the service is, and, if the unit has a watchdog, that
// it is alive as long as alive returns no error within a third of the watchdog's
// time. It returns when ctx ends.
//
// A service that is not alive is killed, and loses the requests that it has. So alive
// should ask for what must work whatever else is slow, such as
// [example.com/baton/upgrade.Generation.Alive] and [example.com/baton/server.Server.Check],
// and for nothing that depends on a database or another service.
func (m *Manager) Attend(ctx context.Context, log *slog.Logger, alive func(context.Context) error, status func() string) {
	if m.socket == "" {
		return
	}
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	var feed <-chan time.Time // nil without a watchdog
	if m.watchdog > 0 {
		ticker := time.NewTicker(m.watchdog / 3)
		defer ticker.Stop()
		feed = ticker.C
		m.feed(ctx, log, alive)
	}
	said := ""
	for {
		if line := status(); line != said && ctx.Err() == nil {
			said = line
			m.Status(line) // if it does not arrive, the next one may
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-feed:
			m.feed(ctx, log, alive)
		}
	}
}

// feed tells the watchdog that the service is alive, if it is.
func (m *Manager) feed(ctx context.Context, log *slog.Logger, alive func(context.Context) error) {
	limited, cancel := context.WithTimeout(ctx, m.watchdog/3)
	defer cancel()
	err := alive(limited)
	if err == nil {
		err = m.send(nil, daemon.SdNotifyWatchdog)
	}
	if err != nil && ctx.Err() == nil {
		log.Error("systemd's watchdog is not told that the service is alive", "error", err)
	}
}
