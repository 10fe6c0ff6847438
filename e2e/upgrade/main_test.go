// Package upgrade tests the promise that an upgrade loses nothing:
//
//	No request fails in an upgrade. Clients that never retry see none lost: on
//	connections kept alive, on new ones, on those that wait in the accept queue.
//
//	A request under way is finished, up to -drain-timeout.
//
//	One upgrade at a time. Triggers that come while one runs are kept for one more.
//
// and that "no bad release takes over".
package upgrade

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
