// Package trial tests the promise of releases that fail under traffic:
//
//	No bad release takes over. One that is tried on a share of the connections or
//	watched after its takeover, and fails, gives back what it was given: no
//	connection is closed, and nothing is lost but what died with it.
//
// Clients notice neither the beginning nor the end of a trial.
package trial

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
