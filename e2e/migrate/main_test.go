// Package migrate tests the promise of connections that migrate:
//
//	No keep-alive connection of HTTP/1.1 without TLS is closed in an upgrade.
//
//	Predecessors that still drain, because of a long download say, do not hold the
//	next upgrade up, unless there are more of them than -max-draining.
package migrate

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
