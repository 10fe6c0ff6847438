// Package stop tests the promises about a stop:
//
//	A connection that cannot move, and each one at a stop or with -migrate=false,
//	gets Connection: close with its next response.
//
//	A stop while predecessors still drain ends when all have drained.
//
//	Cut are requests that are still running at -drain-timeout.
package stop

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
