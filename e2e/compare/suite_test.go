// Package compare tells what other servers lose in upgrades under the same load as Baton:
//
//	go test ./e2e/compare -others=10 -v
package compare

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
