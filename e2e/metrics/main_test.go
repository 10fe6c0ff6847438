// Package metrics tests the promise that the metrics count each request once, through all generations.
package metrics

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
