// Package proxy tests the promise of the reverse proxy:
//
//	Backends can restart, and be replaced, without anyone noticing: requests wait for
//	one that accepts connections. Only what a backend has received that is killed
//	fails, and nothing that may not be is delivered twice.
package proxy

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
