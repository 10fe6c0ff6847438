// Package proxy tests what Baton promises as "a reverse proxy in front of applications in any language".
package proxy

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
