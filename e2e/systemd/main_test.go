// Package systemd tests the promises about the service as systemd and other supervisors see it:
//
//	systemctl reload baton upgrades. It waits until the new generation serves and
//	the old one has drained, and fails with the reason in the journal if the new
//	one is bad; the old one serves on then.
//
//	If the process dies, by kill -9 or a crash, no connection is refused.
//
// The tests named Systemd boot a systemd of their own.
package systemd

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
