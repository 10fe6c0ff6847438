// Package embed tests the promise that the packages upgrade and server are what "a service adopts in 15 lines".
package embed

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
