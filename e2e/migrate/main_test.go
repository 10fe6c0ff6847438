// Package migrate tests the promise of connections that migrate:
//
//	No connection of HTTP/1.1 or HTTP/2 is closed in an upgrade that comes to rest
//	within the grace, and no WebSocket, with TLS 1.3 and without.
//
//	Predecessors that still drain, because of a long download say, do not hold the
//	next upgrade up, unless there are more of them than -max-draining.
package migrate

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
