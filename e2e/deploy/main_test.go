// Package deploy tests the promise of the deploy script:
//
//	If anything is wrong it puts the previous binary back, sees that it serves,
//	tells the reason and exits 1.
package deploy

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
