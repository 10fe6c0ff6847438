package pool

import (
	"testing"

	"example.com/baton/handlers/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m) }
