// Package log tests the promise of the log:
//
//	Nothing waits for the log. What cannot be written, because its reader hangs or is gone,
//	waits in 4 MiB of memory; then lines are dropped and counted, errors last.
package log

import (
	"testing"

	"example.com/baton/e2e/internal/service"
)

func TestMain(m *testing.M) { service.Main(m) }
