// Package limits tests that no client, whatever it sends or does not read, and no want of descriptors or memory
// harms the others.
package limits

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
