package compare

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
